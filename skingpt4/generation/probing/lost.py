"""Where a label is lost on the way of an image into the language model: a probe of each stage on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from skingpt4.config.schema import Config
from skingpt4.generation.probing.probes import Accuracy, accuracy, fit_logistic, group_of
from skingpt4.generation.probing.stages import STAGES, StageError, stage_features
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.records.manifest import evenly_spread
from skingpt4.records.record import Record

LABELS = (
    "class",
    "disease",
    "body_site",
    "fitzpatrick",
    "source",
    "case_id",
)  # keys of a record that can be probed
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the penalty


@dataclass(frozen=True)
class Labelled:
    """Records that have a label, with it and with the group that no fold divides."""

    records: Sequence[Record]
    labels: list[str]
    groups: list[str]

    @classmethod
    def of(cls, records: Sequence[Record], key: str, limit: int, where: str) -> Labelled:
        """At most `limit` of the records whose `key` is known, evenly spread.

        Raises:
            StageError: there is none; names `where`.
        """
        if key not in LABELS:
            raise StageError(f"--label {key}: choose one of {', '.join(LABELS)}")
        values = {row: label_of(records[row], key) for row in range(len(records))}
        rows = [row for row, value in values.items() if value is not None]
        if not rows:
            raise StageError(f"{where}: no record has a {key}; name a manifest with that, or another --label")
        rows = [rows[place] for place in evenly_spread(len(rows), limit)]
        chosen = [records[row] for row in rows]
        # Images of one case have one label where the case is the label: each is then a group of its own.
        groups = [group_of(record, row) for record, row in zip(chosen, rows, strict=True)]
        if key == "case_id":
            groups = [f"row {row}" for row in rows]
        return cls(chosen, [str(values[row]) for row in rows], groups)


def label_of(record: Record, key: str) -> str | None:
    """A record's value of one of LABELS as text; None where it is unknown."""
    value = record.class_name if key == "class" else getattr(record, key)
    return None if value is None else str(value)


@dataclass(frozen=True)
class Lost:
    """What a probe reads of a label at each stage, in the order of the way."""

    stages: dict[str, Accuracy]
    chance: float  # of the most frequent label of the training
    settings: dict[str, Any] = field(default_factory=dict)  # of each stage's probe

    @property
    def worst(self) -> tuple[str, str] | None:
        """The two neighbouring stages between which most right answers are lost; None if no stage loses any."""
        names = list(self.stages)
        losses = {(a, b): self.stages[a].right - self.stages[b].right for a, b in pairwise(names)}
        if not losses or max(losses.values()) <= 0:
            return None
        return max(losses, key=lambda pair: losses[pair])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stages": {name: result.to_dict() for name, result in self.stages.items()},
            "chance": self.chance,
            "loses_most": list(self.worst) if self.worst else None,
            "probes": self.settings,
        }


def measure(
    encoder: ImageEncoder,
    config: Config,
    train: Labelled,
    test: Labelled,
    stages: Sequence[str] = STAGES,
    model: SkinGPT4 | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Lost:
    """Fit a logistic regression at each stage on some records, and count what it gets right on others.

    Args:
        encoder: the image encoder.
        config: of the network.
        train: what is fitted on.
        test: what is counted.
        stages: of STAGES, in their order.
        model: the network, for `projection` and `language_model`.
        seed: of the folds in which the penalty is chosen.
        on_progress: called with the number of images after each batch of them.

    Raises:
        ProbingError: no probe can be fitted on these labels.
        ImageError: an image cannot be read.
    """
    fitted = stage_features(encoder, config, train.records, stages, model, on_progress)
    counted = stage_features(encoder, config, test.records, stages, model, on_progress)
    results, settings = {}, {}
    for stage in stages:
        probe = fit_logistic(fitted[stage], train.labels, train.groups, seed, STRENGTHS)
        results[stage] = accuracy(probe.log_probabilities(counted[stage]), probe.classes, test.labels)
        settings[stage] = probe.settings
    counts = np.unique(train.labels, return_counts=True)
    common = counts[0][counts[1].argmax()]
    return Lost(results, sum(label == common for label in test.labels) / len(test.labels), settings)
