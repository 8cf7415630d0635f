"""Measures by class and by skin type, how far apart the groups are, and whether chance alone explains it.

A measure is a ratio of sums over cases: right answers of all, or concept F1 (2 tp of 2 tp + fp + fn). So
one bootstrap and one permutation test serve all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from eval.measures.intervals import (
    RESAMPLES,
    Interval,
    Line,
    concept_counts,
    concept_sets,
    has_choice,
    having,
    percentile_interval,
    proportion,
    ratio_interval,
    top1_right,
)

MIN_CASES = 5  # a smaller group is shown, and takes no part in gap and test
UNKNOWN = "unknown"
# Fitzpatrick types as the records give them: 1 to 6, or DDI's pairs 12, 34, 56.
PAIRS = {"1": "I-II", "2": "I-II", "12": "I-II", "3": "III-IV", "4": "III-IV", "34": "III-IV",
         "5": "V-VI", "6": "V-VI", "56": "V-VI"}  # fmt: skip
LIGHT, DARK = "I-II", "V-VI"


@dataclass(frozen=True)
class Measured:
    """A measure of each case: its share of the numerator and of the denominator, both (num_cases,)."""

    top: np.ndarray
    bottom: np.ndarray
    is_share: bool  # of cases: Wilson's interval holds

    def interval(self, which: np.ndarray) -> Interval:
        """Of the cases with these numbers."""
        if self.is_share:
            return proportion(int(self.top[which].sum()), len(which))
        return ratio_interval(self.top[which], self.bottom[which])


def measures(lines: Sequence[Line]) -> dict[str, tuple[list[Line], Measured]]:
    """What is compared between groups, of what the arm has.

    `top1`, `top1_text`, and `concept_micro_f1` of cases with known concepts, each with the lines it is about.
    """
    compared = {}
    if chosen := [line for line in lines if has_choice(line)]:
        right = top1_right(chosen).astype(np.float64)
        compared["top1"] = (chosen, Measured(right, np.ones(len(chosen)), True))
    if answered := having(lines, "text_class"):
        text = np.array([line["text_class"] == line["class"] for line in answered], dtype=np.float64)
        compared["top1_text"] = (answered, Measured(text, np.ones(len(answered)), True))
    known = [line for line in having(lines, "predicted_concepts") if line["concepts"] is not None]
    if known:
        counts = concept_counts(*concept_sets(known))
        top = 2.0 * counts[:, 0]
        compared["concept_micro_f1"] = (known, Measured(top, top + counts[:, 1] + counts[:, 2], False))
    return compared


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)


def permutation_p(
    measured: Measured, groups: Sequence[np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """Fraction of random divisions into groups of these sizes that are as far apart as the true one.

    How far: the sum over groups of n (value - overall value)^2, which for shares is Pearson's chi-square up to
    a factor that all divisions share. The true division counts as one of them, so p is never 0.
    """
    cases = np.concatenate(groups)
    sizes = np.array([len(group) for group in groups])
    starts = np.append(0, np.cumsum(sizes)[:-1])
    top, bottom = measured.top[cases], measured.bottom[cases]
    overall = _ratio(top.sum(), bottom.sum())

    def separation(order: np.ndarray) -> np.ndarray:
        values = _ratio(
            np.add.reduceat(top[order], starts, axis=-1), np.add.reduceat(bottom[order], starts, axis=-1)
        )
        return (sizes * (values - overall) ** 2).sum(axis=-1)

    rng = np.random.default_rng(seed)
    true, as_far = separation(np.arange(len(cases))[None])[0], 0
    step = max(1, 1_000_000 // len(cases))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        orders = rng.permuted(np.tile(np.arange(len(cases)), (rows, 1)), axis=1)
        as_far += int((separation(orders) >= true - 1e-9).sum())
    return (1 + as_far) / (1 + resamples)


def difference(
    measured: Measured, first: np.ndarray, second: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """First group minus second, with a bootstrap that draws cases within each group."""
    rng = np.random.default_rng(seed)
    values, drawn = [], []
    for group in (first, second):
        top, bottom = measured.top[group], measured.bottom[group]
        weights = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=resamples)
        values.append(float(_ratio(top.sum(), bottom.sum())))
        drawn.append(_ratio(weights @ top, weights @ bottom))
    return percentile_interval(values[0] - values[1], drawn[0] - drawn[1], len(first) + len(second))


def _compared(measured: Measured, labels: Sequence[str], order: Sequence[str]) -> dict[str, Any]:
    """One measure by one grouping."""
    names = [name for name in order if name in labels]
    names += [UNKNOWN] if UNKNOWN in labels else []
    places = {name: np.flatnonzero(np.asarray(labels) == name) for name in names}
    values = {name: measured.interval(which) for name, which in places.items()}
    figures: dict[str, Any] = {"groups": {name: value.to_dict() for name, value in values.items()}}
    counted = [name for name in names if name != UNKNOWN and len(places[name]) >= MIN_CASES]
    counted = [name for name in counted if measured.bottom[places[name]].sum() > 0]
    figures["in_test"] = counted
    if len(counted) < 2:
        return {**figures, "gap": None, "p": None}
    ranked = sorted(counted, key=lambda name: values[name].value)
    gap = difference(measured, places[ranked[-1]], places[ranked[0]])
    figures["gap"] = {"highest": ranked[-1], "lowest": ranked[0], **gap.to_dict()}
    figures["p"] = permutation_p(measured, [places[name] for name in counted])
    if LIGHT in counted and DARK in counted:
        figures["dark_minus_light"] = {
            **difference(measured, places[DARK], places[LIGHT]).to_dict(),
            "p": permutation_p(measured, [places[DARK], places[LIGHT]]),
        }
    return figures


def _value(value: Any) -> str:
    return UNKNOWN if value in (None, -1, "") else str(value)


def _column(column: str, line: Line) -> str:
    return _value(line.get("groups", {}).get(column))


def _skin_type(line: Line) -> str:
    return _value(line.get("fitzpatrick"))


def by_group(lines: Sequence[Line], key: str) -> dict[str, Interval]:
    """Top-1 of each value of `key` ("fitzpatrick" or "class"), in order; no value or -1 is "unknown"."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        value = line.get(key)
        groups.setdefault("unknown" if value in (None, -1) else str(value), []).append(line)
    ordered = sorted(groups.items(), key=lambda item: (item[0] == "unknown", item[0]))
    return {name: proportion(int(top1_right(group).sum()), len(group)) for name, group in ordered}


def by_groups(lines: Sequence[Line]) -> dict[str, Any]:
    """Each measure by class, by skin type and by pairs of skin types.

    Returns:
        {grouping: {measure: {"groups": {name: figure}, "in_test": names of groups of 5 cases or more, "gap":
        highest minus lowest (with `highest`, `lowest`), "p": of the permutation test, "dark_minus_light" (pairs
        alone)}}} for the groupings `class`, `fitzpatrick` (as recorded), `fitzpatrick_pairs` and the columns by
        which the run's task divides; a grouping that is unknown for all cases is left out. The gap's interval takes
        the two groups as chosen beforehand, so it is too far from 0 where there are many groups; the test is not.
    """
    groupings: dict[str, Callable[[Line], str]] = {
        "class": lambda line: line["class"],
        "fitzpatrick": _skin_type,
        "fitzpatrick_pairs": lambda line: PAIRS.get(_skin_type(line), UNKNOWN),
    }
    for column in dict.fromkeys(column for line in lines for column in line.get("groups", ())):
        groupings.setdefault(column, partial(_column, column))
    by_grouping: dict[str, Any] = {}
    for grouping, label in groupings.items():
        every = [label(line) for line in lines]
        if set(every) == {UNKNOWN}:
            continue
        order = sorted(set(every) - {UNKNOWN})
        compared = {
            name: _compared(measured, [label(line) for line in some], order)
            for name, (some, measured) in measures(lines).items()
        }
        if compared:
            by_grouping[grouping] = compared
    return by_grouping
