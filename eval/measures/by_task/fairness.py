"""Sensitivity, specificity and AUC of one class against another by group, and how far the groups are apart.

The fairness table of Daneshjou et al. 2022 (DDI, Science Advances 8:eabq6147). A case is called positive where the
positive class has the higher score; the AUC depends on the order of the cases alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.measures.by_task.clusters import Statistic, cluster_draws, interval_of, share, weighted_mean
from eval.measures.concepts import weighted_auroc
from eval.measures.intervals import RESAMPLES, Figure, Interval, Line
from eval.tasks.task import UNKNOWN

MEASURES = ("sensitivity", "specificity", "auc")
ALL = "all"
MIN_CASES = 5


def fairness(
    lines: Sequence[Line],
    positive: str,
    column: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
    min_cases: int = MIN_CASES,
) -> dict[str, Any]:
    """The table of one arm.

    Args:
        lines: with `class`, `class_scores` (two classes), `groups` and `cluster`.
        positive: the class that is to be found.
        column: key of `groups`.
        seed: of the draws.
        resamples: number of draws.
        min_cases: of each side; with fewer, a group's AUC and its gaps have no interval, for a bootstrap of so few
            cases has hardly any width.

    Returns:
        `groups`: {name: {n, num_positive, num_negative, and a figure for each of MEASURES}}, the first named "all";
        `gaps`: {measure: the highest group minus the lowest, with `highest` and `lowest`}; `last_minus_first`:
        {measure: figure, with `first` and `last`} of the groups in ascending order (of DDI's skin tones: dark minus
        light). Groups named unknown take part in "all" alone; a gap needs two groups in which the measure is defined.
        The interval of a gap takes its two groups as chosen beforehand.
    """
    statistics, counts = _statistics(lines, positive, column)
    draws = cluster_draws([line["cluster"] for line in lines], resamples, seed)
    groups: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for name, by_measure in statistics.items():
        groups[name] = dict(counts[name])
        for measure, statistic in by_measure.items():
            figure = _figure(measure, name, statistic, lines, positive, column, draws)
            if measure == "auc" and _side(counts[name]) < min_cases:
                figure = replace(figure, low=math.nan, high=math.nan)
            groups[name][measure] = figure.to_dict()
            if name not in (ALL, UNKNOWN) and not np.isnan(figure.value):
                values[measure][name] = figure.value
    gaps, ends = {}, {}
    for measure, known in values.items():
        if len(known) < 2:
            continue
        highest, lowest = max(known, key=lambda g: known[g]), min(known, key=lambda g: known[g])
        first, last = min(known, key=_order), max(known, key=_order)
        few = {name for name in known if _side(counts[name]) < min_cases}
        gaps[measure] = {
            "highest": highest, "lowest": lowest,
            **_gap(statistics, measure, highest, lowest, draws, few),
        }  # fmt: skip
        ends[measure] = {
            "first": first, "last": last,
            **_gap(statistics, measure, last, first, draws, few),
        }  # fmt: skip
    return {"positive": positive, "column": column, "groups": groups, "gaps": gaps, "last_minus_first": ends}


def _side(counts: dict[str, int]) -> int:
    """Cases of the smaller side of a group."""
    return min(counts["num_positive"], counts["num_negative"])


def _gap(
    statistics: dict[str, dict[str, Statistic]],
    measure: str,
    first: str,
    second: str,
    draws: np.ndarray,
    few: set[str],
) -> Figure:
    gap = _difference(statistics[first][measure], statistics[second][measure], draws)
    return (replace(gap, low=math.nan, high=math.nan) if {first, second} & few else gap).to_dict()


def _figure(
    measure: str,
    group: str,
    statistic: Statistic,
    lines: Sequence[Line],
    positive: str,
    column: str,
    draws: np.ndarray,
) -> Interval:
    """A share of cases as `share` has it, which stays sensible where all are alike; the AUC by drawing cases."""
    inside = [line for line in lines if group in (ALL, line["groups"][column])]
    if measure == "auc":
        return interval_of(statistic, draws, len(inside))
    asked = [line for line in inside if (line["class"] == positive) == (measure == "sensitivity")]
    if not asked:
        return interval_of(statistic, draws, 0)
    called = [
        (_log_odds(line["class_scores"], positive) > 0) == (line["class"] == positive) for line in asked
    ]
    return share(called, [line["cluster"] for line in asked])


def compare_fairness(
    first: Sequence[Line],
    second: Sequence[Line],
    positive: str,
    column: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """First arm minus second on the same cases: each measure, and how much more the last group loses.

    Both arms are drawn together, case by case, so what makes a case hard for both cancels out.

    Returns:
        {measure: {"difference": figure, "gap_difference": figure or None}}, of `last_minus_first`.

    Raises:
        ValueError: the arms answered other cases.
    """
    if [line["case_id"] for line in first] != [line["case_id"] for line in second]:
        raise ValueError("the two arms answered other cases")
    draws = cluster_draws([line["cluster"] for line in first], resamples, seed)
    (a, counts), (b, _) = (_statistics(lines, positive, column) for lines in (first, second))
    names = sorted((name for name in counts if name not in (ALL, UNKNOWN)), key=_order)
    compared: dict[str, Any] = {}
    for measure in MEASURES:
        gap = None
        if len(names) > 1:
            ends = [_minus(arm[names[-1]][measure], arm[names[0]][measure]) for arm in (a, b)]
            gap = _difference(ends[0], ends[1], draws).to_dict()
        compared[measure] = {
            "difference": _difference(a[ALL][measure], b[ALL][measure], draws).to_dict(),
            "gap_difference": gap,
        }
    return compared


def _order(name: str) -> tuple[float, str]:
    """Numbers by their value, then words."""
    return (float(name), "") if name.isdecimal() else (float("inf"), name)


def _statistics(
    lines: Sequence[Line], positive: str, column: str
) -> tuple[dict[str, dict[str, Statistic]], dict[str, dict[str, int]]]:
    """Of all cases and of each group: the measures as functions of weights, and the numbers of cases."""
    is_positive = np.array([line["class"] == positive for line in lines])
    log_odds = np.array([_log_odds(line["class_scores"], positive) for line in lines])
    labels = np.array([line["groups"][column] for line in lines])
    called = log_odds > 0
    statistics, counts = {}, {}
    for name in (ALL, *sorted(set(labels.tolist()), key=_order)):
        inside = np.ones(len(lines), dtype=bool) if name == ALL else labels == name
        statistics[name] = {
            "sensitivity": weighted_mean(called, inside & is_positive),
            "specificity": weighted_mean(~called, inside & ~is_positive),
            "auc": _auc(log_odds, is_positive, inside),
        }
        counts[name] = {
            "n": int(inside.sum()),
            "num_positive": int((inside & is_positive).sum()),
            "num_negative": int((inside & ~is_positive).sum()),
        }
    return statistics, counts


def _log_odds(scores: dict[str, float], positive: str) -> float:
    return scores[positive] - max(score for name, score in scores.items() if name != positive)


def _auc(log_odds: np.ndarray, is_positive: np.ndarray, inside: np.ndarray) -> Statistic:
    scores, truth = log_odds[inside], is_positive[inside].astype(np.float64)
    return lambda weights: weighted_auroc(scores, truth, weights[:, inside])


def _minus(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: first(weights) - second(weights)


def _difference(first: Statistic, second: Statistic, draws: np.ndarray) -> Interval:
    return interval_of(_minus(first, second), draws)
