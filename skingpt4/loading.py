"""Loading a model while a bar says which of its parts is being read."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from skingpt4.chat import load_model
from skingpt4.config import Config
from skingpt4.model import SkinGPT4

PARTS = 3  # image encoder, language model, projection


def load_with_bar(config: Config, checkpoint_path: str | Path | None) -> SkinGPT4:
    """`chat.load_model` with a bar on stderr.

    Raises:
        ChatError, CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    with tqdm(total=PARTS, unit="part", bar_format="{desc:<36} {bar} {n}/{total} [{elapsed}]") as bar:

        def told(part: str) -> None:
            bar.update(0 if bar.desc == "" else 1)
            bar.set_description_str(f"loading {part}")

        model = load_model(config, checkpoint_path, told=told)
        bar.update(PARTS - bar.n)
    return model
