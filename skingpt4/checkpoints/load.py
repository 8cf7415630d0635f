"""A model from a configuration and a checkpoint, with everything that has to fit checked first."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from skingpt4.checkpoints import checkpoint, known_answer, minigpt4, repository
from skingpt4.checkpoints.identity import encoder_identity, identity, model_identity, projector_identity
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config.load import from_card, load_config, with_engine
from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.model.build import build, build_encoder
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.support.files import move_into_place
from skingpt4.support.threads import in_own_thread
from skingpt4.weights.files.tensors import load_tensors, require_same_tensors
from skingpt4.weights.language_model import configuration, local_folder

logger = logging.getLogger(__name__)

NUM_PARTS = 3  # image encoder, language model, projection


class LoadError(UserError):
    """A model that cannot be loaded: files are missing, or nothing says which model it is."""


@dataclass(frozen=True)
class ModelSource:
    """What --config and --checkpoint name together; nothing large is read before `load`."""

    config: Config
    checkpoint_path: str | None  # None: an untrained projection
    from_card: bool = False  # the configuration is the checkpoint's own, so somebody else may have written it

    @cached_property
    def loadable(self) -> Config:
        """The configuration to load by; of a card's, the language model is the copy on this machine.

        Raises:
            LanguageModelError: a card names a language model that would have to be fetched.
        """
        if not self.from_card:
            return self.config
        folder = local_folder(self.config.language.model)
        return replace(self.config, language=replace(self.config.language, model=folder))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Names and hashes for banners and exports, see `identity.model_identity`.

        Raises:
            CheckpointError: missing or damaged.
        """
        return model_identity(self.config, self.checkpoint_path)

    def load(self) -> SkinGPT4:
        """The network, with a bar on stderr; errors as of `load_model`."""
        with tqdm(total=NUM_PARTS, unit="part", bar_format="{desc:<36} {bar} {n}/{total} [{elapsed}]") as bar:

            def show(part: str) -> None:
                bar.update(0 if bar.desc == "" else 1)
                bar.set_description_str(f"loading {part}")

            model = load_model(self.loadable, self.checkpoint_path, on_progress=show)
            bar.update(NUM_PARTS - bar.n)
        return model


def model_source(
    config_path: str | None, checkpoint_path: str | None, engine_path: str | None = None
) -> ModelSource:
    """What --config and --checkpoint mean. Either may be left out, or both be given; --engine names what answers.

    A checkpoint knows its configuration; a configuration knows its run's folder.

    Raises:
        ConfigError, CheckpointError: the configuration or the checkpoint cannot be used.
        LoadError: neither was given, or the checkpoint has no configuration of its own.
    """
    source = _model_source(config_path, checkpoint_path)
    return replace(source, config=with_engine(source.config, engine_path))


def _model_source(config_path: str | None, checkpoint_path: str | None) -> ModelSource:
    if config_path:
        config = load_config(config_path)
        own = config.initial_checkpoint if config.step == "none" else config.output_dir
        return ModelSource(config, checkpoint_path or own)
    if not checkpoint_path:
        raise LoadError("give --config or --checkpoint, e.g. --config configs/tiny/step2.yaml")
    if repository.is_shared(checkpoint_path):
        return ModelSource(repository.config_of(Path(checkpoint_path)), checkpoint_path, from_card=True)
    _, card = checkpoint.load(checkpoint_path)
    if "config" not in card:
        raise LoadError(f"{checkpoint_path}: is MiniGPT-4's layout and knows no configuration; add --config")
    config = from_card(card["config"], checkpoint_path)
    return ModelSource(config, checkpoint_path, from_card=True)


def load_model(
    config: Config,
    checkpoint_path: str | Path | None,
    device: torch.device | None = None,
    with_encoder: bool = True,
    on_progress: Callable[[str], None] = lambda part: None,
) -> SkinGPT4:
    """The network of a configuration with a checkpoint's projection, in eval mode.

    Args:
        config: of the network.
        checkpoint_path: a checkpoint or a run's folder; None leaves the projection as it is initialised.
        device: by default a GPU, if there is one.
        with_encoder: whether to load the image encoder, which precomputed queries do not need.
        on_progress: called with the name of each part before it is read.

    Raises:
        LoadError: files are missing; all of them are named.
        CheckpointError, LanguageModelError, WeightsMismatch, KnownAnswerError: a part cannot be used.
    """
    missing = missing_paths(config, for_training=False)
    if missing:
        raise LoadError("missing: " + "; ".join(missing))
    if checkpoint_path is not None:
        checkpoint.find(checkpoint_path)  # before anything heavy
        require_projection_width(config, checkpoint_path)
    device = device or torch.device(default_device())

    def load() -> SkinGPT4:
        on_progress("image encoder")
        encoder = build_encoder(config, device) if with_encoder else None
        on_progress("language model")
        model = build(config, device, encoder)
        on_progress("projection")
        if checkpoint_path is not None:
            load_projection(model, config, checkpoint_path)
        return model.eval()

    return in_own_thread(load) if device.type == "cpu" else load()


def from_pretrained(
    name: str | Path,
    device: torch.device | None = None,
    language_model: str | None = None,
    revision: str | None = None,
) -> SkinGPT4:
    """A shared model from a folder or a hub id, with the frozen parts that it names, and no others.

    Args:
        name: a folder written by `skingpt4 share`, or the id of a repository with its contents.
        device: where it will be; by default a GPU, if there is one.
        language_model: where the language model is on this machine, if not where the folder says.
        revision: of the repository.

    Raises:
        HubError, ConfigError: no such folder or repository; files of frozen parts are missing.
        CheckpointError, KnownAnswerError: the parts that are here are not those it was trained with.
    """
    folder = repository.resolve(name, revision)
    config = repository.config_of(folder, language_model)
    if language_model is None:  # the folder's word, not the caller's
        config.language.model = local_folder(config.language.model)
    missing = missing_paths(config, for_training=False)
    if missing:
        raise repository.HubError(f"{name}: its frozen parts are missing: {'; '.join(missing)}")
    device = device or torch.device(default_device())
    model = build(config, device, build_encoder(config).to(device))
    load_projection(model, config, folder)
    model.config = config
    return model.eval()


def load_projection(
    model: SkinGPT4, config: Config, path: str | Path, queries: Tensor | None = None
) -> dict[str, Any]:
    """Load a checkpoint's projection, and its LoRA if it has any, and return the checkpoint's card.

    LoRA that the model has and the checkpoint has not is taken off: the model becomes what was saved. It then has to
    give the checkpoint's known answer. A `.pth` of MiniGPT-4 or the published SkinGPT-4 loads too, but the file does
    not say with which encoder, language model and template it was trained.

    Args:
        model: the network.
        config: its configuration.
        path: a checkpoint or a run's folder.
        queries: of the self-test's image, (1, q, d); by default from the model's encoder, or `known_queries`.

    Raises:
        CheckpointError: missing, damaged, or made for another encoder, language model or template.
        WeightsMismatch: a projection of another width.
        KnownAnswerError: all of it fits by name and shape, and yet the network gives another answer.
    """
    if checkpoint.is_minigpt4(path):  # it records only widths
        minigpt4.require_width(path, model.projection.out_features, model.projection.in_features)
    tensors, card = checkpoint.load(path)
    if not checkpoint.is_minigpt4(path):
        checkpoint.require_fit(card, identity(config, model), path)
    require_same_tensors(tensors, model.projection.state_dict(), str(path), "projection")
    branches = checkpoint.load_lora(path, card)
    lora.restore(model.language_model, card.get("lora"), branches, str(path))
    model.projection.load_state_dict(tensors, strict=True)
    if queries is None and card.get("known_answer"):
        if model.encoder is not None:
            queries = known_answer.queries_of(model.encoder, config.vision.image_size, config.vision.crops)
        else:
            device = model.language_model.input_device
            queries = known_queries(config, lambda: build_encoder(config).to(device))
    known_answer.check(model, queries, card, str(path))
    return card


def require_projection_width(config: Config, path: str | Path) -> None:
    """Refuse a checkpoint of another projector, or a `.pth` of another width, before anything heavy is loaded.

    Warns where the widths fit but the language model is not the Vicuna that MiniGPT-4 was trained with.

    Raises:
        CheckpointError: missing, damaged, or of another projector.
        WeightsMismatch: names both widths; or no projection of this kind.
        LanguageModelError: the language model's configuration cannot be read.
    """
    if checkpoint.is_minigpt4(path):
        minigpt4.require_qformer(path, config.projector)
        language_model = configuration(config.language.model)
        minigpt4.require_width(path, language_model.hidden_size, config.qformer.width)
        if mismatch := minigpt4.mismatched_vicuna(language_model.hidden_size, language_model.vocab_size):
            logger.warning("%s: %s", path, mismatch)
        return
    checkpoint.require_fit(checkpoint.load(path)[1], {"projector": projector_identity(config)}, path)


def known_queries(config: Config, get_encoder: Callable[[], ImageEncoder]) -> Tensor:
    """Queries (1, q, d) of the self-test's image, cached on disk under the encoder's identity.

    So a run on cached features need not load the encoder.
    """
    folder = Path(config.data.feature_cache or "runs/features")
    path = folder / f"known-{encoder_identity(config)}.safetensors"
    if path.is_file():
        return load_tensors(path)["queries"]
    vision = config.vision
    queries = known_answer.queries_of(get_encoder(), vision.image_size, vision.crops).contiguous()
    with suppress(OSError, SafetensorError):  # not cached: the next start computes one picture again
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"queries": queries}, part)
        move_into_place(part, path)
    return queries
