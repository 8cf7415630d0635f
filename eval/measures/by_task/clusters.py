"""The bootstrap where cases belong together: pictures of one lesion, lesions of one patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from eval.measures.intervals import RESAMPLES, Interval, case_draws, percentile_interval, proportion

Statistic = Callable[[np.ndarray], np.ndarray]  # weights (resamples, cases) -> values (resamples,)


def cluster_draws(clusters: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each case is drawn in each resample: (resamples, cases); cases of one cluster equally often.

    Whole clusters are drawn with replacement, as many as there are (the cluster bootstrap, Field and Welsh 2007).
    With a cluster for each case these are the draws of `case_draws`.

    Args:
        clusters: of each case.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: no case.
    """
    numbers: dict[Hashable, int] = {}
    member = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return case_draws(len(numbers), resamples, seed)[:, member]


def interval_of(statistic: Statistic, draws: np.ndarray, n: int | None = None) -> Interval:
    """A statistic of all cases with the 2.5th and 97.5th percentile of its resamples.

    Args:
        statistic: of weighted cases; NaN where it is not defined.
        draws: of `cluster_draws`.
        n: cases behind it (default: all).
    """
    value = float(statistic(np.ones((1, draws.shape[1])))[0])
    if math.isnan(value):
        return Interval(math.nan, math.nan, math.nan, draws.shape[1] if n is None else n)
    return percentile_interval(value, statistic(draws), draws.shape[1] if n is None else n)


def weighted_mean(values: Sequence[float] | np.ndarray, among: np.ndarray | None = None) -> Statistic:
    """The mean of a number of each case, among some of the cases; NaN where none of them is drawn.

    Args:
        values: (cases,).
        among: (cases,) bool; None is all.
    """
    chosen = np.ones(len(values)) if among is None else np.asarray(among, dtype=np.float64)
    top = np.asarray(values, dtype=np.float64) * chosen

    def mean(weights: np.ndarray) -> np.ndarray:
        bottom = weights @ chosen
        return np.divide(weights @ top, bottom, out=np.full(len(weights), np.nan), where=bottom > 0)

    return mean


def share(right: Sequence[bool] | np.ndarray, clusters: Sequence[Hashable], seed: int = 0) -> Interval:
    """A share of cases: Wilson's interval where every case is a cluster, else a bootstrap that draws clusters.

    Where no case or every case is right, whatever is drawn is the same; the interval is then Wilson's of so many
    clusters.

    Raises:
        ValueError: no case.
    """
    hits = np.asarray(right, dtype=np.float64)
    num_clusters = len(set(clusters))
    if num_clusters == len(hits):
        return proportion(int(hits.sum()), len(hits))
    if hits.min() == hits.max():
        return replace(proportion(int(hits[0]) * num_clusters, num_clusters), n=len(hits))
    return interval_of(weighted_mean(hits), cluster_draws(clusters, seed=seed))
