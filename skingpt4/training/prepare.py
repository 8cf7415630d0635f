"""What a training run needs before its first iteration: records, features, the model, its parent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.identity import identity
from skingpt4.checkpoints.known_answer import queries_of
from skingpt4.checkpoints.load import known_queries, load_projection, require_projection_width
from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config, ConfigError
from skingpt4.model import lora
from skingpt4.model.build import build, build_encoder
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.records.archives import exists
from skingpt4.records.manifest import Manifest, chain, picture_paths, read_manifest
from skingpt4.records.overlap import merge_hashes, picture_hashes, require_disjoint
from skingpt4.support.files import file_sha256
from skingpt4.training.features import Team, cached_queries, picture_queries
from skingpt4.training.samples import (
    HeldOutSamples,
    PictureSource,
    SampleEncoder,
    TrainingSamples,
    picture_files,
)

PICTURES_LOOKED_FOR = 20_000  # a file takes microseconds to find on a disk, milliseconds over a network


@dataclass
class Prepared:
    """Everything a run needs before its first iteration."""

    model: SkinGPT4
    training: TrainingSamples
    held_out: HeldOutSamples | None
    identity: dict[str, Any]
    data_sha256: str
    parent: dict[str, Any] | None
    known_queries: torch.Tensor  # (1, q, d), of the self-test's picture
    seen: dict[str, torch.Tensor]  # hashes of all pictures learned from, the parent's too
    notes: list[str]  # what the user should know before it starts


def prepare(config: Config, device: torch.device, team: Team | None = None) -> Prepared:
    """Read the data, compute or load features, build the model and load the parent checkpoint.

    Args:
        config: of the run.
        device: of this process.
        team: the processes that prepare the same run together, and share the work of computing features.

    Raises:
        ConfigError: paths are missing (all are named), or there is nothing to train on.
        RecordError, CheckpointError, WeightsMismatch, LanguageModelError: what they say.
    """
    if not config.data.train:
        raise ConfigError(
            "data.train names no manifest; give at least one, e.g. data.train=[runs/data/train.jsonl]"
        )
    if config.initial_checkpoint:
        require_projection_width(config, config.initial_checkpoint)
    train = [open_manifest(config, path) for path in config.data.train]
    held = [open_manifest(config, path) for path in config.data.validation]
    if not config.data.feature_cache:
        for records in train:
            require_pictures(records)
    notes = require_disjoint(chain([*train, *held]), config.data.evaluation, config.data.allow_overlap)
    encoder = _Lazy(lambda: build_encoder(config, device))
    train_records, train_pictures = _pictures(config, train, encoder, config.data.augment, team)
    held_records, held_pictures = _pictures(config, held, encoder, False, team)
    if config.data.feature_cache:
        known = known_queries(config, encoder)
        encoder.free()  # it has done its work, and never takes up memory beside the decoder
        model = build(config, device, None)
    else:
        known = queries_of(encoder(), config.vision.image_size)
        model = build(config, device, encoder())
    parent = None
    seen = picture_hashes(train_records)
    if config.initial_checkpoint:
        card = load_projection(model, config, config.initial_checkpoint, known)
        parent = {key: card[key] for key in ("step", "iteration", "tensors_sha256")}
        parent["path"] = config.initial_checkpoint
        seen = merge_hashes(seen, checkpoint.load_seen(config.initial_checkpoint, card))
    _add_lora(config, model)
    samples = sample_encoder(config, model.tokenizer)
    per_question = config.optim.batch_size if BEHAVIOURS[config.compat].question_per_batch else 1
    training = TrainingSamples(train_records, samples, train_pictures, config.seed, per_question)
    held_out = HeldOutSamples(held_records, samples, held_pictures, config.log.validation_samples)
    digest = hashlib.sha256("".join(file_sha256(path) for path in config.data.train).encode()).hexdigest()
    return Prepared(
        model,
        training,
        held_out if len(held_out) else None,
        identity(config, model),
        digest,
        parent,
        known,
        seen,
        notes,
    )


def open_manifest(config: Config, path: str) -> Manifest:
    """A manifest of the configuration; the Arrow file of a large one may stand in `data.feature_cache`."""
    return read_manifest(path, config.data.feature_cache)


def require_pictures(records: Manifest) -> None:
    """Look for the pictures: for all, or for PICTURES_LOOKED_FOR spread evenly over a larger manifest.

    Raises:
        ConfigError: some are not there; says how many, and names the first.
    """
    paths = picture_paths(records, PICTURES_LOOKED_FOR)
    gone = [path for path in paths if not exists(path)]
    if gone:
        of = f" of {len(paths)} looked for" if len(paths) < len(records) else ""
        raise ConfigError(
            f"{records.parts[0].path}: {len(gone)} pictures{of} are not there, the first is {gone[0]}"
        )


def _add_lora(config: Config, model: SkinGPT4) -> None:
    """LoRA as configured: new, or the parent's, which must then be of the same kind."""
    inherited = lora.settings_of(model.language_model)
    if inherited is None and config.lora.rank:
        lora.add(model.language_model, config.lora, config.seed)
    elif inherited is not None:
        lora.require_same(inherited, config.lora, config.initial_checkpoint or "")
        lora.set_dropout(model.language_model, config.lora.dropout)


def sample_encoder(config: Config, tokenizer: Any) -> SampleEncoder:
    """What turns the configuration's records into token ids."""
    return SampleEncoder(
        config.prompt,
        tokenizer,
        config.qformer.num_query_tokens,
        config.data.max_text_tokens,
        BEHAVIOURS[config.compat].cut_blindly,
    )


class _Lazy:
    """A value made at its first use."""

    def __init__(self, make: Callable[[], ImageEncoder]) -> None:
        self.make = make
        self.value: ImageEncoder | None = None

    def __call__(self) -> ImageEncoder:
        if self.value is None:
            self.value = self.make()
        return self.value

    def free(self) -> None:
        """Let go of it."""
        self.value = None


def _pictures(
    config: Config, manifests: Sequence[Manifest], encoder: _Lazy, augment: bool, team: Team | None
) -> tuple[Manifest, PictureSource]:
    records = chain(manifests)
    if not config.data.feature_cache or not len(records):
        vision = encoder().vision_encoder if len(records) else None
        mean, std = (vision.mean, vision.std) if vision else ((0.0,), (1.0,))
        return records, picture_files(records, config.vision.image_size, mean, std, augment)
    views, folder = config.data.feature_views if augment else 1, config.data.feature_cache
    parts = [
        cached_queries(manifest.parts[0].path, manifest, config, folder, encoder, views, team)
        for manifest in manifests
    ]
    return records, picture_queries(*parts)
