"""What a training run needs before its first iteration: records, features, the model, its parent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skingpt4 import lora
from skingpt4.compat import BEHAVIOURS
from skingpt4.config import Config, ConfigError
from skingpt4.datasets import (
    HeldOutSamples,
    PictureSource,
    Record,
    SampleEncoder,
    TrainingSamples,
    picture_files,
    read_manifest,
)
from skingpt4.features import cached_queries, picture_queries
from skingpt4.known_answer import queries_of
from skingpt4.model import (
    ImageEncoder,
    SkinGPT4,
    build,
    build_encoder,
    identity,
    known_queries,
    load_projection,
    require_projection_width,
)
from skingpt4.tensors import file_sha256


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


def prepare(config: Config, device: torch.device) -> Prepared:
    """Read the data, compute or load features, build the model and load the parent checkpoint.

    Raises:
        ConfigError: paths are missing (all are named), or there is nothing to train on.
        RecordError, CheckpointError, WeightsMismatch, LanguageModelError: what they say.
    """
    for path in () if config.data.feature_cache else config.data.train:
        gone = [r.image_path for r in read_manifest(path) if not r.image_path.is_file()]
        if gone:
            raise ConfigError(f"{path}: {len(gone)} pictures are not there, the first is {gone[0]}")
    if not config.data.train:
        raise ConfigError(
            "data.train names no manifest; give at least one, e.g. data.train=[runs/data/train.jsonl]"
        )
    if config.initial_checkpoint:
        require_projection_width(config, config.initial_checkpoint)
    encoder = _Lazy(lambda: build_encoder(config, device))
    train_records, train_pictures = _pictures(config, config.data.train, encoder, augment=config.data.augment)
    held_records, held_pictures = _pictures(config, config.data.validation, encoder, augment=False)
    # With all features on disk the encoder has done its work and never takes up memory beside the decoder.
    model = build(config, device, None if config.data.feature_cache else encoder())
    known = (
        known_queries(config, encoder)
        if config.data.feature_cache
        else queries_of(encoder(), config.vision.image_size)
    )
    parent = None
    if config.initial_checkpoint:
        card = load_projection(model, config, config.initial_checkpoint, known)
        parent = {key: card[key] for key in ("step", "iteration", "tensors_sha256")}
        parent["path"] = config.initial_checkpoint
    _add_lora(config, model)
    samples = sample_encoder(config, model.tokenizer)
    per_question = config.optim.batch_size if BEHAVIOURS[config.compat].question_per_batch else 1
    training = TrainingSamples(train_records, samples, train_pictures, config.seed, per_question)
    held_out = HeldOutSamples(held_records, samples, held_pictures, config.log.validation_samples)
    digest = hashlib.sha256("".join(file_sha256(path) for path in config.data.train).encode()).hexdigest()
    return Prepared(
        model, training, held_out if len(held_out) else None, identity(config, model), digest, parent, known
    )


def _add_lora(config: Config, model: SkinGPT4) -> None:
    """LoRA as configured: new, or the parent's, which must then be of the same kind."""
    inherited = lora.settings_of(model.language_model)
    if inherited is None and config.lora.rank:
        lora.add(model.language_model, config.lora, config.seed)
    elif inherited is not None:
        wanted = {**inherited, "rank": config.lora.rank, "alpha": config.lora.alpha}
        wanted["targets"] = sorted(config.lora.targets) or inherited["targets"]
        if wanted != inherited:
            raise ConfigError(
                f"{config.initial_checkpoint}: was trained with LoRA (rank {inherited['rank']}, alpha "
                f"{inherited['alpha']:g} on {', '.join(inherited['targets'])}); set lora.rank and the others to "
                "the same, or start from another checkpoint"
            )
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


def _pictures(
    config: Config, manifests: Sequence[str], encoder: _Lazy, augment: bool
) -> tuple[list[Record], PictureSource]:
    groups = [read_manifest(path) for path in manifests]
    records = [record for group in groups for record in group]
    if not config.data.feature_cache or not records:
        vision = encoder().vision_encoder if records else None
        mean, std = (vision.mean, vision.std) if vision else ((0.0,), (1.0,))
        return records, picture_files(records, config.vision.image_size, mean, std, augment)
    parts = [
        cached_queries(path, g, config, config.data.feature_cache, encoder)
        for path, g in zip(manifests, groups, strict=True)
    ]
    return records, picture_queries(torch.cat(parts))
