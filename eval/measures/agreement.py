"""How far repeated answers, and raters, agree: pure functions over tables of categories or scores.

Libraries do it where maintained ones exist: statsmodels (Fleiss' kappa), krippendorff, pingouin (intraclass
correlation). Gwet's AC2 is implemented here, because the one package that has it pins an old scipy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations

import krippendorff
import numpy as np
import pandas as pd
import pingouin
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from eval.measures.intervals import Interval


def _codes(answers: Sequence[Sequence[str | None]]) -> np.ndarray:
    """Answers (cases, repeats) as category numbers; no answer (None) is a category of its own."""
    flat = ["\0none" if answer is None else answer for row in answers for answer in row]
    return np.unique(flat, return_inverse=True)[1].reshape(len(answers), -1)


def pairwise_agreement(answers: Sequence[Sequence[str | None]]) -> np.ndarray:
    """Share of pairs of repeats that agree, for each case: (cases,).

    Args:
        answers: (cases, repeats) categories, at least 2 repeats.

    Raises:
        ValueError: fewer than 2 repeats, or rows of different length.
    """
    codes = _codes(answers)
    repeats = codes.shape[1]
    if repeats < 2:
        raise ValueError("agreement needs at least 2 repeats")
    pairs = [(codes[:, a] == codes[:, b]) for a, b in combinations(range(repeats), 2)]
    return np.mean(pairs, axis=0)


def modal_agreement(answers: Sequence[Sequence[str | None]]) -> np.ndarray:
    """Share of repeats that give the case's most frequent answer: (cases,)."""
    codes = _codes(answers)
    return np.array([np.bincount(row).max() / len(row) for row in codes])


def fleiss(answers: Sequence[Sequence[str | None]]) -> float:
    """Fleiss' kappa; NaN where all answers are one category, for which chance agreement is certain."""
    codes = _codes(answers)
    if codes.max(initial=0) == 0:
        return float("nan")
    return float(fleiss_kappa(aggregate_raters(codes)[0]))


def statistic_interval(
    table: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    draw_raters: bool = False,
    seed: int = 0,
    resamples: int = 500,
) -> Interval:
    """A statistic of a (cases, raters) table with a 95 % bootstrap interval.

    Args:
        table: scores, NaN where a rater has none.
        statistic: of such a table; draws for which it is NaN are left out.
        draw_raters: also draw raters, who stand for others of their kind. For a share or a mean only: a rater
            drawn twice agrees with itself.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        The interval; `n` is the number of cases.
    """
    rng = np.random.default_rng(seed)
    cases, raters = table.shape
    values = []
    for _ in range(resamples):
        rows = rng.integers(cases, size=cases)
        columns = rng.integers(raters, size=raters) if draw_raters else np.arange(raters)
        values.append(statistic(table[np.ix_(rows, columns)]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(statistic(table)), float(low), float(high), cases)


def weighted_kappa(table: np.ndarray) -> float:
    """Mean quadratic-weighted Cohen's kappa over all pairs of raters with common cases; NaN where none is defined.

    For quadratic weights kappa is 2 cov / (var + var + squared difference of means) (Fleiss and Cohen 1973,
    doi 10.1177/001316447303300309), which spares a bootstrap the tables of counts.
    """
    kappas = []
    for a, b in combinations(range(table.shape[1]), 2):
        both = ~np.isnan(table[:, a]) & ~np.isnan(table[:, b])
        left, right = table[both, a], table[both, b]
        if len(left):
            spread = left.var() + right.var() + (left.mean() - right.mean()) ** 2
            if spread:
                kappas.append(2 * ((left - left.mean()) * (right - right.mean())).mean() / spread)
    return float(np.mean(kappas)) if kappas else float("nan")


def krippendorff_ordinal(table: np.ndarray) -> float:
    """Krippendorff's alpha for ordered categories; NaN where there is nothing to disagree about."""
    known = table[~np.isnan(table)]
    if len(np.unique(known)) < 2 or not ((~np.isnan(table)).sum(axis=1) > 1).any():
        return float("nan")
    return float(krippendorff.alpha(table.T, level_of_measurement="ordinal"))


def gwet_ac2(table: np.ndarray, scale: Sequence[int] = (1, 2, 3, 4, 5)) -> float:
    """Gwet's AC2 with quadratic weights, any number of raters, missing ratings allowed.

    It stays sensible where nearly all ratings fall into one category and kappa collapses (Gwet 2008,
    doi 10.1348/000711006X126600; weights and missing ratings: Gwet, Handbook of Inter-Rater Reliability, 4th ed.).

    Args:
        table: (cases, raters) scores of `scale`, NaN where missing.
        scale: all categories in order.
    """
    values = np.asarray(scale, dtype=float)
    weights = 1 - (values[:, None] - values[None]) ** 2 / (values[-1] - values[0]) ** 2
    counts = (table[:, :, None] == values).sum(axis=1).astype(float)  # (cases, categories)
    rated = counts.sum(axis=1)
    counts, rated = counts[rated > 0], rated[rated > 0]
    twice = rated >= 2
    if not twice.any():
        return float("nan")
    weighted = counts @ weights
    agree = (counts * (weighted - 1)).sum(axis=1)[twice] / (rated * (rated - 1))[twice]
    prevalence = (counts / rated[:, None]).mean(axis=0)
    chance = weights.sum() / (len(values) * (len(values) - 1)) * (prevalence * (1 - prevalence)).sum()
    return float((agree.mean() - chance) / (1 - chance))


def icc_interval(table: np.ndarray) -> Interval:
    """ICC(2,k): two-way random effects, absolute agreement of the raters' mean, with an F-based interval.

    Shrout and Fleiss 1979, doi 10.1037/0033-2909.86.2.420; McGraw and Wong 1996 (their ICC(A,k)). Cases that a rater
    left out take no part; NaN with fewer than 5 complete cases or 2 raters, or without variance.
    """
    complete = table[~np.isnan(table).any(axis=1)]
    undefined = Interval(float("nan"), float("nan"), float("nan"), len(complete))
    if len(complete) < 5 or complete.shape[1] < 2 or np.ptp(complete) == 0:
        return undefined
    frame = pd.DataFrame(complete).reset_index().melt(id_vars="index", var_name="rater", value_name="score")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # an F of infinity where raters agree wholly
        types = pingouin.intraclass_corr(frame, targets="index", raters="rater", ratings="score")
    row = types.set_index("Type").loc["ICC(A,k)"]
    bounds = row["CI95"] if "CI95" in row else row["CI95%"]
    return Interval(float(row["ICC"]), float(bounds[0]), float(bounds[1]), len(complete))
