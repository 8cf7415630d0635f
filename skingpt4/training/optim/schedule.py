"""Schedules: the learning rate of each iteration, and the records of each pass where classes are balanced."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skingpt4.config.compat import OURS, Behaviour
from skingpt4.config.schema import OptimConfig
from skingpt4.records.manifest import Manifest
from skingpt4.records.record import Record, RecordError

POWER = {"square_root": 0.5, "inverse": 0.0}  # a class's share of the samples is its records to this power


def learning_rate(iteration: int, optim: OptimConfig, behaviour: Behaviour = OURS) -> float:
    """Linear warm-up by iteration, then cosine counted from iteration 0, as in LAVIS.

    Args:
        iteration: from 0, over all epochs.
        optim: `warmup_lr`, `init_lr`, `min_lr`, `warmup_steps` and the run's length.
        behaviour: whether the warm-up restarts with each epoch.
    """
    if iteration < optim.warmup_steps:
        warm = iteration % optim.iters_per_epoch if behaviour.warmup_restarts else iteration
        return optim.warmup_lr + (optim.init_lr - optim.warmup_lr) * warm / optim.warmup_steps
    done = iteration / (optim.max_epoch * optim.iters_per_epoch)
    return optim.min_lr + (optim.init_lr - optim.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


def class_names(records: Sequence[Record]) -> list[str | None]:
    """The classes of records, None where unknown; of a manifest by its column."""
    if isinstance(records, Manifest):
        names: list[str | None] = records.column("class").to_pylist()
        return names
    return [record.class_name for record in records]


def class_weights(names: Sequence[str | None], weighting: str) -> np.ndarray:
    """The weight of each record in the loss by its class, (n,), with mean 1; None counts as a class.

    Args:
        names: the records' classes.
        weighting: square_root or inverse, of the number of the class's records.

    Raises:
        RecordError: no record has a class.
    """
    _, codes = _classes(names, f"optim.class_weight {weighting}", "optim.class_weight: none")
    weights = np.bincount(codes)[codes] ** (POWER[weighting] - 1.0)
    return weights / weights.mean()


def _classes(names: Sequence[str | None], key: str, without: str) -> tuple[np.ndarray, np.ndarray]:
    """(the classes, the number of each record's); a record without one is of class ""."""
    if not any(names):
        raise RecordError(
            f"{key} needs records with a class, and none of the {len(names)} has one; add 'class' to the manifests, "
            f"or set {without}"
        )
    return np.unique([name or "" for name in names], return_inverse=True)


class ClassBalance:
    """A pass over records that shows rare classes more often: as many samples as records, a quota for each class.

    Within a class the records take turns, in a new order each time all of them were shown.

    Args:
        names: the records' classes; None counts as a class.
        sampling: square_root or inverse, see `POWER`.
        seed: of the orders.

    Raises:
        RecordError: no record has a class.
    """

    def __init__(self, names: Sequence[str | None], sampling: str, seed: int) -> None:
        classes, codes = _classes(names, f"data.sampling {sampling}", "data.sampling: uniform")
        self.seed = seed
        self.classes = [np.flatnonzero(codes == code) for code in range(len(classes))]  # places by class
        sizes = np.array(list(map(len, self.classes)))
        shares = sizes ** POWER[sampling]
        exact = len(names) * shares / shares.sum()
        self.quotas = exact.astype(int)
        rest = len(names) - self.quotas.sum()
        self.quotas[np.argsort(self.quotas - exact, kind="stable")[:rest]] += 1  # the largest remainders

    def places(self, number: int) -> np.ndarray:
        """The records of pass `number`, class by class: (n,) places; a function of the seed and the number."""
        parts = []
        for code, (members, quota) in enumerate(zip(self.classes, self.quotas, strict=True)):
            first, end, size = number * quota, (number + 1) * quota, len(members)
            for turn in range(first // size, -(-end // size)):
                order = np.random.default_rng((self.seed, 4, code, turn)).permutation(members)
                parts.append(order[max(0, first - turn * size) : end - turn * size])
        return np.concatenate(parts)

    def times_shown(self) -> tuple[float, float]:
        """How often a pass shows a record of the class that it shows least, and most."""
        times = self.quotas / np.array(list(map(len, self.classes)))
        return float(times.min()), float(times.max())
