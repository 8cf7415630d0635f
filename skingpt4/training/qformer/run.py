"""`skingpt4 pretrain-qformer` from its manifests to its files: tokens, a probe, the training, the probe again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skingpt4.checkpoints.checkpoint import git_revision
from skingpt4.config.schema import Config
from skingpt4.generation.probing.probes import Accuracy, ProbingError, accuracy, fit_logistic, group_of
from skingpt4.generation.probing.stages import pool_tokens
from skingpt4.model.build import build_vision
from skingpt4.model.qformer import QFormer
from skingpt4.records.comparing.overlap import require_disjoint
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.manifest import Manifest, chain, evenly_spread, read_manifest
from skingpt4.support.cli import require_writable
from skingpt4.support.files import file_sha256, now
from skingpt4.training.qformer.pretrain import (
    Examples,
    PretrainingError,
    Settings,
    save,
    starting_qformer,
    train,
)
from skingpt4.training.qformer.tokens import cached_tokens
from skingpt4.training.qformer.vocabulary import Vocabulary, caption
from skingpt4.weights.language_model import read_tokenizer

logger = logging.getLogger(__name__)

PROBED = 1000  # training records that a probe is fitted on, evenly spread
STRENGTHS = (
    3e-3,
)  # of the probe, the same for all that it compares: to choose it takes longer than the training


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    train: tuple[Path, ...]
    held_out: Path
    out: Path
    cache: Path
    views: int
    settings: Settings
    command: str
    overwrite: bool = False
    dry_run: bool = False


def pretrain(config: Config, request: Request) -> dict[str, Any]:
    """Train a Q-Former and write its weights with a card; returns the card.

    Raises:
        PretrainingError: the result cannot be written, there are too few images, or a stopped training is another.
        RecordError, OverlapError, FeatureError, ImageError: the manifests cannot be used.
    """
    require_writable(request.out)
    if request.out.suffix != ".safetensors":
        raise PretrainingError(f"--out {request.out}: the name must end in .safetensors")
    if request.out.exists() and not request.overwrite:
        raise PretrainingError(f"--out {request.out}: exists; add --overwrite or name another file")
    manifests = [read_manifest(path) for path in request.train]
    held_out = read_manifest(request.held_out)
    _require_enough(chain(manifests), request)
    for note in require_disjoint(chain(manifests), [str(request.held_out)], allowed=False):
        logger.warning("note: %s", note)
    vision = build_vision(config.vision).eval()
    captions = [caption(record) for manifest in manifests for record in manifest]
    logger.info(
        "%s images, %s with a caption; %s tokens of width %s from %s",
        len(captions), sum(map(bool, captions)), vision.num_tokens, vision.width, config.vision.model,
    )  # fmt: skip
    if request.dry_run:
        size = len(captions) * request.views * vision.num_tokens * vision.width * 2
        logger.info("dry run: would cache %.1f GB of tokens in %s and train %s steps", size / 1e9, request.cache,
                    request.settings.steps)  # fmt: skip
        return {}
    words = Vocabulary(
        read_tokenizer(config.language.model, local_only=True), captions, request.settings.max_words
    )
    stores = tuple(
        cached_tokens(path, manifest, config, vision, request.cache, request.views)
        for path, manifest in zip(request.train, manifests, strict=True)
    )
    held_store = cached_tokens(request.held_out, held_out, config, vision, request.cache)
    examples = Examples(stores, words.encode(captions), vision.num_prefix, vision.width)
    probe = _Probe.of(examples, chain(manifests), held_store, held_out, request.settings.seed)
    probes = {
        "tokens": probe.measure(None),
        "queries_before": probe.measure(starting_qformer(config, examples, request.settings)),
    }
    _report(probes)
    state = request.out.with_name(f"{request.out.name}.state")
    qformer, history = train(config, examples, words, request.settings, state)
    probes["queries_after"] = probe.measure(qformer)
    _report({"queries_after": probes["queries_after"]})
    queries, labels = _queries(qformer, held_store), shown_labels(held_out)
    card = {
        "command": request.command,
        "commit": git_revision(),
        "written": now(),
        "vision": asdict(config.vision),
        "qformer": asdict(config.qformer) | {"weights": None},
        "settings": asdict(request.settings),
        "train": [_facts(path, manifest) for path, manifest in zip(request.train, manifests, strict=True)],
        "held_out": _facts(request.held_out, held_out),
        "losses": history,
        "probe_of_class": {stage: result.to_dict() if result else None for stage, result in probes.items()},
        "queries": query_statistics(queries) | {"explained_by_labels": fraction_explained(queries, labels)},
    }
    save(request.out, qformer, card)
    state.unlink(missing_ok=True)
    return card


def query_statistics(queries: Tensor) -> dict[str, float]:
    """How the energy of queries (n, q, d) is spread; a projection learns slowly along directions of small variance.

    Returns:
        energy: mean squared norm of a query; constant_fraction: of the energy that the mean of all queries has;
        effective_rank: exp of the entropy of the variance's spectrum (Roy and Vetterli 2007), the mean of each
        query's place taken off; effective_rank_with_mean: the same of the second moments, nothing taken off.
    """
    flat = queries.double().flatten(0, 1)
    energy = float(flat.square().sum(1).mean())
    varying = (queries.double() - queries.double().mean(0)).flatten(0, 1)
    return {
        "energy": round(energy, 2),
        "constant_fraction": round(float(flat.mean(0).square().sum()) / energy, 4),
        "effective_rank": round(_effective_rank(varying.T @ varying), 1),
        "effective_rank_with_mean": round(_effective_rank(flat.T @ flat), 1),
        "n": len(queries),
    }


def fraction_explained(queries: Tensor, labels: Tensor) -> float | None:
    """Of the queries' varying energy, what a ridge regression from labels explains on others; None without any.

    A projection that is trained for a few hundred updates learns what is written large, not all that can be read.

    Args:
        queries: (n, q, d).
        labels: (n, k) of zeros and ones; every second row is fitted on, and the others are counted.
    """
    if not labels.shape[1] or len(labels) < 2:
        return None
    varying, labels = queries.double().flatten(1), labels.double()
    fitted, counted = labels[::2] - labels[::2].mean(0), labels[1::2] - labels[::2].mean(0)
    mean = varying[::2].mean(0)
    gram = fitted.T @ fitted
    gram.diagonal().add_(1)
    shifts = torch.linalg.solve(gram, fitted.T @ (varying[::2] - mean))  # (k, q * d)
    rest = varying[1::2] - mean
    return round(1 - float((rest - counted @ shifts).square().sum() / rest.square().sum()), 4)


def _effective_rank(moments: Tensor) -> float:
    spectrum = torch.linalg.eigvalsh(moments).clamp_min(0)
    spectrum = spectrum / spectrum.sum()
    return float(torch.exp(-torch.special.xlogy(spectrum, spectrum).sum()))


def shown_labels(records: Manifest) -> Tensor:
    """(n, k): which classes and concepts a record has, of those that any has."""
    own = [{*(record.concepts or ()), *filter(None, [record.class_name])} for record in records]
    names = sorted(set().union(*own))
    return torch.tensor([[float(name in names_of_one) for name in names] for names_of_one in own])


@torch.no_grad()
def _queries(qformer: QFormer, store: FeatureStore) -> Tensor:
    """The queries (n, q, d) of a store's tokens."""
    parts = [range(start, min(start + 32, len(store))) for start in range(0, len(store), 32)]
    return torch.cat([qformer(store[rows].float()) for rows in parts])


@dataclass(frozen=True)
class _Probe:
    """Logistic regression of the class, fitted on training images and measured on held-out ones."""

    tokens: Tensor  # (n, t, d) fp16 of the training's
    labels: list[str]
    groups: list[str]
    held_tokens: Tensor
    held_labels: list[str]
    num_prefix: int
    seed: int

    @classmethod
    def of(
        cls, examples: Examples, records: Manifest, held_store: FeatureStore, held_out: Manifest, seed: int
    ) -> _Probe:
        """From the records whose class is known."""
        rows = [row for row, record in enumerate(records) if record.class_name]
        rows = [rows[place] for place in evenly_spread(len(rows), PROBED)]
        held = [row for row, record in enumerate(held_out) if record.class_name]
        width, length = held_store.shape.width, held_store.shape.num_queries
        return cls(
            examples.tokens(np.array(rows)).half() if rows else torch.zeros(0, length, width),
            [str(records[row].class_name) for row in rows],
            [group_of(records[row], row) for row in rows],
            held_store[held] if held else torch.zeros(0, length, width),
            [str(held_out[row].class_name) for row in held],
            examples.num_prefix,
            seed,
        )

    def measure(self, qformer: QFormer | None) -> Accuracy | None:
        """Of the queries, or of the pooled tokens without a Q-Former; None where the classes do not allow it."""
        if not self.held_labels:
            return None
        features, held = (self._features(qformer, part) for part in (self.tokens, self.held_tokens))
        try:
            probe = fit_logistic(features, self.labels, self.groups, self.seed, STRENGTHS)
        except ProbingError as error:
            logger.warning("note: no probe of the class: %s", error)
            return None
        return accuracy(probe.log_probabilities(held), probe.classes, self.held_labels)

    @torch.no_grad()
    def _features(self, qformer: QFormer | None, tokens: Tensor) -> np.ndarray:
        parts = [
            qformer(part.float()) if qformer else pool_tokens(part.float(), self.num_prefix)
            for part in tokens.split(32)
        ]
        return torch.cat(parts).flatten(1).numpy()


def _require_enough(records: Sequence[Any], request: Request) -> None:
    if len(records) < request.settings.batch_size:
        raise PretrainingError(
            f"--train: {len(records)} images are fewer than a batch of {request.settings.batch_size}; name more, or "
            "lower --batch-size"
        )


def _facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    return {"manifest": path.name, "sha256": file_sha256(path), "n": len(manifest)}


def _report(probes: dict[str, Accuracy | None]) -> None:
    for stage, result in probes.items():
        if result:
            logger.info("probe of the class, %-14s %s", stage.replace("_", " "), result)
