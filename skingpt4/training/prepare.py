"""What a training run needs before its first iteration: records, features, the network, its parent checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.diseases import card_values, taught_diseases
from skingpt4.checkpoints.identity import identity
from skingpt4.checkpoints.known_answer import queries_of
from skingpt4.checkpoints.load import known_queries, load_projection, require_projection_width
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.checkpoints.sources import card_sources
from skingpt4.config.bundled import portable
from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config, ConfigError
from skingpt4.config.validate import training_problem
from skingpt4.model import lora
from skingpt4.model.build import build_encoder, empty_encoder
from skingpt4.model.network import ImageEncoder, SkinGPT4, num_parameters
from skingpt4.records.archives import exists
from skingpt4.records.comparing.overlap import image_hashes, merge_hashes, require_disjoint
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.manifest import Manifest, chain, image_paths, read_manifest
from skingpt4.records.naming import hint
from skingpt4.support.files import file_sha256
from skingpt4.training.coordinates.fit import fit_coordinates
from skingpt4.training.coordinates.labels import require_labels
from skingpt4.training.distributed.sharding import Sharding, ask_model, build_network
from skingpt4.training.distributed.team import Team
from skingpt4.training.features import ImageSource, cached_images, cached_queries, image_files
from skingpt4.training.preferences.pairs import Pairs, PreferenceSamples, reference_margins
from skingpt4.training.samples import HeldOutSamples, SampleEncoder, TrainingSamples

MAX_CHECKED_IMAGES = 20_000  # a file takes microseconds to find on a disk, milliseconds over a network


@dataclass
class Prepared:
    """Everything a run needs before its first iteration."""

    model: SkinGPT4
    training: TrainingSamples | PreferenceSamples
    held_out: HeldOutSamples | PreferenceSamples | None
    identity: dict[str, Any]
    data_sha256: str  # of the training manifests, in their order
    validation_sha256: str
    parent: dict[str, Any] | None
    parts: dict[
        str, dict[str, int | bool]
    ]  # the network's, each with its `parameters` and whether it is `trained`
    known_queries: Tensor  # (1, q, d), of the self-test's image
    seen: dict[str, Tensor]  # hashes of all images trained on, the parent's included
    taught: dict[str, Any]  # what a card says of diseases and of the pictures' sources, in the parent too
    notes: list[str]  # what the user should know before the run starts


def require_paths(config: Config) -> None:
    """Refuse a configuration whose files are missing.

    Raises:
        ConfigError: names all of them.
    """
    missing = missing_paths(config)
    if missing:
        raise ConfigError("missing: " + "; ".join(missing))


def prepare(
    config: Config, device: torch.device, team: Team | None = None, sharding: Sharding | None = None
) -> Prepared:
    """Read the data, compute or load features, build the network and load the parent checkpoint.

    Args:
        config: of the run.
        device: of this process.
        team: the processes that prepare the same run, and share the work of computing features.
        sharding: how they share the language model's layers, if they do.

    Raises:
        ConfigError: images are missing, or there is no training manifest.
        RecordError, CheckpointError, WeightsMismatch, LanguageModelError: what they say.
    """
    data, cache = config.data, config.data.feature_cache
    if not data.train:
        raise ConfigError(
            "data.train names no manifest; give at least one, e.g. data.train=[runs/data/train.jsonl]"
        )
    if problem := training_problem(config):
        raise ConfigError(problem)
    if config.initial_checkpoint:
        require_projection_width(config, config.initial_checkpoint)
    train, validation = ([read_manifest(p, cache) for p in paths] for paths in (data.train, data.validation))
    if not cache:
        for manifest in train:
            _require_images(manifest)
    if config.projection.inputs == "discriminants":
        require_labels(chain(train), config.prompt)
    team = team or Team()
    notes = team.by_first(
        lambda: require_disjoint(chain([*train, *validation]), data.evaluation, data.allow_overlap)
    )
    encoder = _Lazy(lambda: build_encoder(config, device))
    features = _features(config, train, encoder, data.augment, team)
    train_images = _image_source(config, train, encoder, data.augment, features)
    validation_images = _image_source(
        config, validation, encoder, False, _features(config, validation, encoder, False, team)
    )
    if cache:
        queries = known_queries(config, encoder)
        encoder.free()  # its work is done, and it must not take up memory beside the language model
        encoder_here = None
    else:
        queries = queries_of(encoder(), config.vision.image_size, config.vision.crops)
        encoder_here = encoder()
    model, spread = build_network(config, device, encoder_here, team, sharding)
    train_records = chain(train)
    parent_card = initialise_projection(model, features, train_records, config, queries, team)
    parent, seen = _origin(config, parent_card)
    add_lora(config, model)
    texts = SampleEncoder.from_config(config, model.tokenizer)
    per_question = config.optim.batch_size if BEHAVIOURS[config.compat].question_per_batch else 1
    limit = config.log.validation_samples
    held_out: Any = HeldOutSamples(chain(validation), texts, validation_images, limit)
    training: Any = TrainingSamples(
        train_records,
        texts,
        train_images,
        config.seed,
        per_question,
        data.sampling,
        config.optim.class_weight,
    )
    if config.step == "dpo":
        training = _preferences(config, model, training, team, parent)
        held_out = _preferences(config, model, held_out, team, parent) if len(held_out) else held_out
    return Prepared(
        model=model,
        training=training,
        held_out=held_out if len(held_out) else None,
        identity=identity(config, model),
        data_sha256=_content(data.train),
        validation_sha256=_content(data.validation),
        parent=parent,
        parts=_parts(config, model),
        known_queries=queries,
        seen=merge_hashes(team.by_first(lambda: image_hashes(train_records)), seen),
        taught=card_values(taught_diseases(train_records, config.prompt), parent_card)
        | card_sources(train_records, parent_card),
        notes=[*notes, *spread],
    )


def _preferences(
    config: Config,
    model: SkinGPT4,
    samples: TrainingSamples | HeldOutSamples,
    team: Team,
    parent: dict[str, Any] | None,
) -> PreferenceSamples:
    """Samples as pairs of answers, with what the model as it is thinks of each pair.

    Args:
        config: of a run of step dpo.
        model: at the start of the run.
        samples: of the records.
        team: the processes of the run.
        parent: what the card says of `initial_checkpoint`.
    """
    pairs = Pairs(samples.records, samples.encoder, samples.images)
    dialogues = repr([(r.sha256, r.turns, r.rejected) for r in samples.records]).encode()
    branches = (t.detach().cpu().numpy().tobytes() for t in lora.trainable(model.language_model).values())
    key = {
        "identity": identity(config, model),
        "parent": parent and parent["tensors_sha256"],
        "lora": hashlib.sha256(b"".join(branches)).hexdigest(),
        "pairs": hashlib.sha256(dialogues).hexdigest(),
        "max_text_tokens": config.data.max_text_tokens,
        "dtype": str(model.language_model.dtype),
        "quantization": config.language.quantization,
    }
    folder = Path(config.data.feature_cache or "")
    margins = ask_model(model, team, lambda team: reference_margins(model, pairs, folder, key, team))
    return PreferenceSamples(pairs, samples, margins, config.optim.dpo_beta)


def _parts(config: Config, model: SkinGPT4) -> dict[str, dict[str, int | bool]]:
    """What a card says of each part of the network: its `parameters`, and whether this step has it `trained`."""
    vision, qformer = empty_encoder(config)
    branches = lora.trainable(model.language_model)
    num_lora = sum(p.numel() for p in branches.values())
    counts = {
        "vision_encoder": num_parameters(vision),
        **({"qformer": num_parameters(qformer)} if config.projector == "qformer" else {}),
        "projection": num_parameters(model.projection),
        "language_model": num_parameters(model.language_model) - num_lora,
        **({"lora": num_lora} if num_lora else {}),
    }
    return {name: {"parameters": n, "trained": name not in config.freeze} for name, n in counts.items()}


def describe_parts(parts: Mapping[str, Mapping[str, int | bool]]) -> str:
    """A line on what is trained and what is frozen, e.g. ``trained: projection 0.15 M; frozen: qformer 5.0 M``."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for name, part in parts.items():
        names[bool(part["trained"])].append(f"{name} {part['parameters'] / 1e6:.3g} M")
    return f"trained: {', '.join(names[True])}; frozen: {', '.join(names[False])}"


def _content(manifests: Sequence[str]) -> str:
    """A hash that changes with a manifest's content or their order, not with where they are."""
    return hashlib.sha256("".join(map(file_sha256, manifests)).encode()).hexdigest()


def _require_images(manifest: Manifest) -> None:
    """Look for the images: for all, or for MAX_CHECKED_IMAGES spread evenly over a larger manifest.

    Raises:
        ConfigError: some are missing; says how many, and names the first.
    """
    paths = image_paths(manifest, MAX_CHECKED_IMAGES)
    missing = [path for path in paths if not exists(path)]
    if missing:
        of = f" of {len(paths)} looked for" if len(paths) < len(manifest) else ""
        raise ConfigError(
            f"{manifest.parts[0].path}: {len(missing)} pictures{of} are missing, the first is {missing[0]}"
            f"{hint(missing[0])}"
        )


class _Lazy:
    """The image encoder, built at its first use."""

    def __init__(self, make: Callable[[], ImageEncoder]) -> None:
        self._make = make
        self._encoder: ImageEncoder | None = None

    def __call__(self) -> ImageEncoder:
        if self._encoder is None:
            self._encoder = self._make()
        return self._encoder

    def free(self) -> None:
        self._encoder = None


def _features(
    config: Config, manifests: Sequence[Manifest], encoder: _Lazy, augment: bool, team: Team
) -> list[FeatureStore]:
    """The cached features of each manifest; empty without a cache."""
    cache = config.data.feature_cache
    if not cache:
        return []
    views = config.data.feature_views if augment else 1
    return [cached_queries(m.parts[0].path, m, config, cache, encoder, views, team) for m in manifests]


def _image_source(
    config: Config,
    manifests: Sequence[Manifest],
    encoder: _Lazy,
    augment: bool,
    features: Sequence[FeatureStore],
) -> ImageSource:
    """The images of the manifests' records: cached queries, or files."""
    if features:
        return cached_images(*features)
    if not manifests:
        return image_files([], config.vision.image_size, (0.0,), (1.0,), augment)
    vision = encoder().vision_encoder
    size, crops = config.vision.image_size, config.vision.crops
    return image_files(chain(manifests), size, vision.mean, vision.std, augment, crops, vision.interpolation)


def initialise_projection(
    model: SkinGPT4,
    features: Sequence[FeatureStore],
    records: Manifest,
    config: Config,
    known: Tensor,
    team: Team,
) -> dict[str, Any]:
    """Give the projection its start: `initial_checkpoint`'s tensors, or the random ones that it was built with.

    With `projection.inputs` it is then trained in other coordinates. A checkpoint's projection does the same in them;
    a random one is random in them.

    Args:
        model: the network.
        features: cached, of each training manifest; empty without a cache.
        records: of the training manifests, in the features' order; discriminants read their labels.
        config: of the run.
        known: queries of the self-test's image, (1, q, d).
        team: the processes of the run.

    Returns:
        The card of `initial_checkpoint`, empty without one.

    Raises:
        RecordError: as `fit_coordinates`.
    """
    path = config.initial_checkpoint
    card = load_projection(model, config, path, known) if path else {}
    if config.projection.inputs != "raw":
        inputs = team.by_first(lambda: fit_coordinates(features, records, config))
        model.input_map = inputs.to(model.language_model.input_device)
        if path:
            projection = model.projection
            projection.load_state_dict(inputs.unfolded(projection.state_dict(), projection.first_layer))
    model.projection.requires_grad_("projection" not in config.freeze)
    return card


def _origin(config: Config, card: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """What the card of this run says of `initial_checkpoint`, and hashes of the images that it saw."""
    path = config.initial_checkpoint
    if not path:
        return None, {}
    parent = {key: card[key] for key in ("step", "iteration", "tensors_sha256")}
    return parent | {"path": portable(config).initial_checkpoint}, checkpoint.load_seen(path, card)


def add_lora(config: Config, model: SkinGPT4) -> None:
    """LoRA as configured: new, or the parent's, which must then be of the same kind."""
    inherited = lora.settings_of(model.language_model)
    if inherited is None and config.lora.rank:
        lora.add(model.language_model, config.lora, config.seed)
    elif inherited is not None:
        lora.require_same(inherited, config.lora, config.initial_checkpoint or "")
        lora.set_dropout(model.language_model, config.lora.dropout)
