"""A model from a configuration and a checkpoint, with everything that has to fit checked first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from skingpt4.checkpoints import checkpoint, known_answer, minigpt4, repository
from skingpt4.checkpoints.identity import encoder_identity, identity
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config.load import from_dict, load_config
from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.model.build import build, build_encoder
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.support.threads import in_own_thread
from skingpt4.weights.files.tensors import require_same_tensors
from skingpt4.weights.language_model import configuration

PARTS = 3  # image encoder, language model, projection


class LoadError(UserError):
    """A model that cannot be loaded: files are missing, or nothing says which it is."""


def load_with_bar(config: Config, checkpoint_path: str | Path | None) -> SkinGPT4:
    """`chat.load_model` with a bar on stderr.

    Raises:
        LoadError, CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    with tqdm(total=PARTS, unit="part", bar_format="{desc:<36} {bar} {n}/{total} [{elapsed}]") as bar:

        def told(part: str) -> None:
            bar.update(0 if bar.desc == "" else 1)
            bar.set_description_str(f"loading {part}")

        model = load_model(config, checkpoint_path, told=told)
        bar.update(PARTS - bar.n)
    return model


def load_model(
    config: Config,
    checkpoint_path: str | Path | None,
    device: torch.device | None = None,
    with_encoder: bool = True,
    told: Callable[[str], None] = lambda part: None,
) -> SkinGPT4:
    """The network of a configuration with a checkpoint's projection (None: the untouched initial one).

    `told` hears the name of each part before it is read.

    Raises:
        LoadError: files are missing; all are named.
        CheckpointError, LanguageModelError, WeightsMismatch: what they say.
    """
    missing = missing_paths(config, for_training=False)
    if missing:
        raise LoadError("missing: " + "; ".join(missing))
    if checkpoint_path is not None:
        checkpoint.find(checkpoint_path)  # before anything heavy
        require_projection_width(config, checkpoint_path)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def load() -> SkinGPT4:
        told("image encoder")
        encoder = build_encoder(config, device) if with_encoder else None
        told("language model")
        model = build(config, device, encoder)
        told("projection")
        if checkpoint_path is not None:
            load_projection(model, config, checkpoint_path)
        return model.eval()

    return in_own_thread(load) if device.type == "cpu" else load()


def config_and_checkpoint(config: str | None, checkpoint_path: str | None) -> tuple[Config, str | None]:
    """The pair that --config and --checkpoint mean: either may be left out.

    A checkpoint knows its configuration; a configuration knows its run's folder.

    Raises:
        ConfigError, CheckpointError: what they say.
        LoadError: neither was given.
    """
    if checkpoint_path and not config:
        if repository.is_shared(checkpoint_path):
            return repository.config_of(Path(checkpoint_path)), checkpoint_path
        _, card = checkpoint.load(checkpoint_path)
        if "config" not in card:
            raise LoadError(
                f"{checkpoint_path}: is MiniGPT-4's layout and knows no configuration; add --config"
            )
        return from_dict(card["config"], checkpoint_path), checkpoint_path
    if not config:
        raise LoadError("give --config or --checkpoint, e.g. --config configs/tiny/step2.yaml")
    loaded = load_config(config)
    return loaded, checkpoint_path or (
        loaded.initial_checkpoint if loaded.step == "none" else loaded.output_dir
    )


def known_queries(config: Config, get_encoder: Callable[[], ImageEncoder]) -> Tensor:
    """Queries (1, q, d) of the self-test's picture, kept on disk under the encoder's identity."""
    name = f"known-{encoder_identity(config)}.safetensors"
    folder = Path(config.data.feature_cache or "runs/features")
    return known_answer.kept_queries(folder / name, get_encoder, config.vision.image_size)


def require_projection_width(config: Config, path: str | Path) -> None:
    """Refuse a MiniGPT-4 `.pth` of another width from headers alone, before anything heavy is loaded.

    Raises:
        WeightsMismatch: names both widths; or no projection of this kind.
        LanguageModelError: the language model's configuration cannot be read.
    """
    if checkpoint.is_minigpt4(path):
        width = configuration(config.language.model).hidden_size
        minigpt4.require_width(path, width, config.qformer.width)


def load_projection(
    model: SkinGPT4, config: Config, path: str | Path, queries: Tensor | None = None
) -> dict[str, Any]:
    """Load a checkpoint's projection, and its LoRA if it has any, and return the checkpoint's card.

    LoRA that the model has and the checkpoint has not is taken off: the model becomes what was saved. It is
    then asked for the checkpoint's known answer. A `.pth` of MiniGPT-4 or the published SkinGPT-4 loads too; whether
    its encoder, language model and template are these, nobody can tell from the file.

    Args:
        model: the network.
        config: its configuration.
        path: a checkpoint or a run's folder.
        queries: of the self-test's picture, (1, q, d); by default from the model's encoder, or `known_queries`.

    Raises:
        CheckpointError: missing, damaged, or made for another encoder, language model or template.
        WeightsMismatch: a projection of another width.
        KnownAnswerError: all of it fits by name and shape, and yet the network says something else.
    """
    if checkpoint.is_minigpt4(path):  # it records widths alone
        minigpt4.require_width(path, model.projection.out_features, model.projection.in_features)
        tensors, card = checkpoint.load(path)
    else:
        tensors, card = checkpoint.load(path)
        checkpoint.require_fit(card, identity(config, model), path)
    require_same_tensors(tensors, model.projection.state_dict(), str(path), "projection")
    branches = checkpoint.load_lora(path, card)
    lora.restore(model.language_model, card.get("lora"), branches, str(path))
    model.projection.load_state_dict(tensors, strict=True)
    if queries is None and card.get("known_answer"):
        if model.encoder is not None:
            queries = known_answer.queries_of(model.encoder, config.vision.image_size)
        else:
            queries = known_queries(config, lambda: build_encoder(config).to(model.projection.weight.device))
    known_answer.check(model, queries, card, str(path))
    return card


def from_pretrained(
    name: str | Path,
    device: torch.device | None = None,
    language_model: str | None = None,
    revision: str | None = None,
) -> SkinGPT4:
    """A shared model out of a folder or a hub id, with the frozen parts that it names, and no others.

    Args:
        name: a folder written by `skingpt4 share`, or the id of a repository of one.
        device: where it will be; by default a GPU, if there is one.
        language_model: where the language model lies here, if not where the folder says.
        revision: of the repository.

    Raises:
        HubError, ConfigError: no such folder or repository; files of frozen parts are missing.
        CheckpointError, KnownAnswerError: the parts that are here are not those it was trained with.
    """
    folder = repository.resolve(name, revision)
    config = repository.config_of(folder, language_model)
    missing = missing_paths(config, for_training=False)
    if missing:
        raise repository.HubError(f"{name}: its frozen parts are missing: {'; '.join(missing)}")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config, device, build_encoder(config).to(device))
    load_projection(model, config, folder)
    model.config = config
    return model.eval()
