"""Gathers what stands behind the page: the loaded model and what is done with it."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from skingpt4 import quality
from skingpt4.chat import ChatSession, config_and_checkpoint, load_model
from skingpt4.config import Config
from skingpt4.consultation import model_identity
from skingpt4.model import SkinGPT4
from skingpt4.page_visit import Tools, ignore

PARTS = 3  # image encoder, language model, projection


def load(
    config_path: str | None, checkpoint_path: str | None, log: Callable[..., None] | None = None
) -> Tools:
    """Load the model of a configuration or checkpoint; a bar shows which of its parts is being read.

    Raises:
        ChatError, ConfigError, CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    config, found = config_and_checkpoint(config_path, checkpoint_path)
    identity = model_identity(config, found)
    with tqdm(total=PARTS, unit="part", bar_format="{desc:<36} {bar} {n}/{total} [{elapsed}]") as bar:

        def told(part: str) -> None:
            bar.update(0 if bar.desc == "" else 1)
            bar.set_description_str(f"loading {part}")

        model = load_model(config, found, told=told)
        bar.update(PARTS - bar.n)
    return tools(model, config, identity, log)


def tools(
    model: SkinGPT4, config: Config, identity: dict[str, object], log: Callable[..., None] | None = None
) -> Tools:
    """What the page offers with a loaded model."""
    return Tools(
        new_session=lambda: ChatSession(model, config),
        model=identity,
        questions=tuple(config.prompt.questions),
        assess=quality.assess,
        log=log or ignore,
    )
