"""Probes on fixed features with the evaluation's intervals; the classifiers are `skingpt4.generation.probing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.measures.intervals import Interval, proportion
from skingpt4.generation.probing.probes import (
    FLOOR,
    Probe,
    ProbingError,
    accuracy,
    fit_logistic,
    fit_neighbours,
    group_of,
)

__all__ = ["FLOOR", "Probe", "ProbingError", "fit_logistic", "fit_neighbours", "group_of", "top1"]


def top1(log_probabilities: np.ndarray, classes: Sequence[str], labels: Sequence[str]) -> Interval:
    """The fraction of rows whose most probable class is theirs, with its Wilson 95 % interval.

    Args:
        log_probabilities: (n, classes).
        classes: of the columns.
        labels: the class of each row.
    """
    result = accuracy(log_probabilities, classes, labels)
    return proportion(result.right, result.n)
