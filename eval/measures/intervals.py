"""The measures of the evaluation: pure functions over plain data, each with an interval and its n.

A case (one photograph with its answers) is the unit of every interval: all concepts of a case are drawn
together, and two arms are compared on the same drawn cases.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 2000
Line = dict[str, Any]
Figure = dict[str, float | int | None]  # value, low, high, n: see Interval.to_dict


@dataclass(frozen=True)
class Interval:
    """A share, or a difference of two shares, with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> Figure:
        """The four numbers as plain Python, ready for JSON; what is not defined (NaN) is None."""
        value, low, high = (None if math.isnan(x) else x for x in (self.value, self.low, self.high))
        return {"value": value, "low": low, "high": high, "n": self.n}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Interval":
        """Reads back what `to_dict` wrote; further keys are left aside."""
        return cls(data["value"], data["low"], data["high"], data["n"])

    def text(self) -> str:
        """A share for reading: `63.3 % (55.4 to 70.6, n = 150)`."""
        value, low, high = (_hundred(x) for x in (self.value, self.low, self.high))
        return f"{value} % ({low} to {high}, n = {self.n})"

    def points(self) -> str:
        """A difference of shares for reading: `+12.0 points (4.0 to 20.0, n = 150)`."""
        value, low, high = (_hundred(x) for x in (self.value, self.low, self.high))
        sign = "+" if float(value) > 0 else ""
        return f"{sign}{value} points ({low} to {high}, n = {self.n})"


def _hundred(share: float) -> str:
    # Adding zero turns a rounded "-0.0" into "0.0".
    return f"{round(100 * share, 1) + 0.0:.1f}"


def proportion(successes: int, n: int) -> Interval:
    """A share with its Wilson 95 % interval, which stays sensible at 0 of n and n of n.

    Raises:
        ValueError: when n is 0 or successes does not lie between 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    low, high = proportion_confint(int(successes), int(n), alpha=0.05, method="wilson")
    return Interval(successes / n, max(0.0, float(low)), min(1.0, float(high)), int(n))


@lru_cache(maxsize=4)
def case_draws(num_cases: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each case is drawn in each resample: (resamples, num_cases), every row sums to num_cases.

    Integers as fp64, for which matrix products are fast. The array is cached and therefore read-only.

    Raises:
        ValueError: no case.
    """
    if num_cases < 1:
        raise ValueError("an interval needs at least one case")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=resamples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def percentile_interval(value: float, resampled: np.ndarray, n: int) -> Interval:
    """A value with the 2.5th and 97.5th percentile of its resamples, of which the undefined (NaN) are left out."""
    defined = resampled[~np.isnan(resampled)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (math.nan, math.nan)
    return Interval(float(value), float(low), float(high), n)


def ratio_interval(
    part: Sequence[float] | np.ndarray,
    total: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Sum of `part` over sum of `total`, with a percentile bootstrap over cases; NaN where `total` is 0.

    Args:
        part: (num_cases,) one number a case.
        total: (num_cases,) likewise; None is 1 for each case, so that the result is the mean of `part`.
        seed: of the draws.
        resamples: number of draws.
    """
    top = np.asarray(part, dtype=np.float64)
    bottom = np.ones(len(top)) if total is None else np.asarray(total, dtype=np.float64)
    draws = case_draws(len(top), resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, drawn = top.sum() / bottom.sum(), (draws @ top) / (draws @ bottom)
    return percentile_interval(value, np.where(np.isfinite(drawn), drawn, np.nan), len(top))


def concept_counts(truth: Sequence[set[str]], predicted: Sequence[set[str]]) -> np.ndarray:
    """True positives, false positives and false negatives of each case: (num_cases, 3).

    Raises:
        ValueError: when the two lists differ in length.
    """
    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} cases of truth but {len(predicted)} of predictions")
    rows = [(len(t & p), len(p - t), len(t - p)) for t, p in zip(truth, predicted, strict=True)]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _share(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    # Nothing to find and nothing named is 0/0; it counts as 0, so that silence is never rewarded.
    part, total = np.asarray(part, dtype=float), np.asarray(total, dtype=float)
    return np.divide(part, total, out=np.zeros_like(total), where=total > 0)


def _precision(counts: np.ndarray) -> np.ndarray:
    return _share(counts[..., 0], counts[..., 0] + counts[..., 1])


def _recall(counts: np.ndarray) -> np.ndarray:
    return _share(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """F1 of counts (..., 3) of true positives, false positives and false negatives; 0 where all are 0."""
    return _share(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _micro(
    measure: Callable[[np.ndarray], np.ndarray],
    truth: Sequence[set[str]],
    predicted: Sequence[set[str]],
    seed: int,
    resamples: int,
) -> Interval:
    counts = concept_counts(truth, predicted)
    resampled = measure(case_draws(len(counts), resamples, seed) @ counts)
    return percentile_interval(float(measure(counts.sum(axis=0))), resampled, len(counts))


def micro_f1(
    truth: Sequence[set[str]], predicted: Sequence[set[str]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """F1 over all (case, concept) pairs, with a percentile bootstrap over cases."""
    return _micro(f1_of_counts, truth, predicted, seed, resamples)


def micro_precision(
    truth: Sequence[set[str]], predicted: Sequence[set[str]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Share of the named concepts that are present, with a percentile bootstrap over cases."""
    return _micro(_precision, truth, predicted, seed, resamples)


def micro_recall(
    truth: Sequence[set[str]], predicted: Sequence[set[str]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Share of the present concepts that are named, with a percentile bootstrap over cases."""
    return _micro(_recall, truth, predicted, seed, resamples)


@dataclass(frozen=True)
class ConceptRow:
    """One concept: how many cases have it, how many answers name it, and the three shares."""

    concept: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float


def per_concept(truth: Sequence[set[str]], predicted: Sequence[set[str]]) -> list[ConceptRow]:
    """One row for each concept that is present or named at least once, most frequent first."""
    concept_counts(truth, predicted)  # refuses lists of different length
    present = Counter(concept for case in truth for concept in case)
    named = Counter(concept for case in predicted for concept in case)
    hit = Counter(c for t, p in zip(truth, predicted, strict=True) for c in t & p)
    rows = []
    for concept in sorted(set(present) | set(named), key=lambda name: (-present[name], name)):
        hits, support, number = hit[concept], present[concept], named[concept]
        counts = np.array([hits, number - hits, support - hits])
        shares = (float(_precision(counts)), float(_recall(counts)), float(f1_of_counts(counts)))
        rows.append(ConceptRow(concept, support, number, *shares))
    return rows


def paired_difference(
    a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Accuracy of a minus accuracy of b on the same cases, with a paired percentile bootstrap over cases.

    Args:
        a: (num_cases,) 1 where the first arm is right, else 0.
        b: (num_cases,) the same for the second arm, in the same order of cases.
        seed: seed of the resampling.
        resamples: number of resamples.

    Raises:
        ValueError: when the lengths differ or there is no case.
    """
    first, second = _pair(a, b)
    difference = first - second
    resampled = case_draws(len(difference), resamples, seed) @ difference / len(difference)
    return percentile_interval(float(difference.mean()), resampled, len(difference))


class McNemar(NamedTuple):
    """The cases that only one of two arms got right, and the exact two-sided p of that split."""

    only_first: int
    only_second: int
    p: float


def mcnemar(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> McNemar:
    """McNemar's exact test: are the cases that only one arm got right split evenly?"""
    first, second = _pair(a, b)
    only_first = int(((first == 1) & (second == 0)).sum())
    only_second = int(((first == 0) & (second == 1)).sum())
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def _pair(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired values need one shape (num_cases,), got {first.shape} and {second.shape}")
    return first, second


def paired_f1_difference(
    truth: Sequence[set[str]],
    predicted_a: Sequence[set[str]],
    predicted_b: Sequence[set[str]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Micro F1 of a minus micro F1 of b on the same cases, both computed on the same drawn cases."""
    counts_a, counts_b = concept_counts(truth, predicted_a), concept_counts(truth, predicted_b)
    draws = case_draws(len(counts_a), resamples, seed)
    value = float(f1_of_counts(counts_a.sum(axis=0)) - f1_of_counts(counts_b.sum(axis=0)))
    return percentile_interval(
        value, f1_of_counts(draws @ counts_a) - f1_of_counts(draws @ counts_b), len(counts_a)
    )


def having(lines: Iterable[Line], key: str) -> list[Line]:
    """The lines in which `key` stands; what an arm was not asked is missing (`eval.asking.answers.case_lines`)."""
    return [line for line in lines if key in line]


def has_choice(line: Line) -> bool:
    """Whether one of the classes was taken: by scores, or by a choice from a list of them."""
    return "class_scores" in line or "listed_class" in line


def best_class(line: Line) -> str | None:
    """The class whose closed-set score is highest; of equal scores the first in the line's order.

    Without scores the class that was chosen from a list; None where an answer names none of it, or several.
    """
    scores: dict[str, float] | None = line.get("class_scores")
    return max(scores, key=lambda name: scores[name]) if scores else line.get("listed_class")


def in_top_k(lines: Iterable[Line], k: int) -> np.ndarray:
    """(num_cases,) 1 where the true class is among the k with the highest score; equals rank in the line's order."""
    right = []
    for line in lines:
        scores: dict[str, float] = line["class_scores"]
        # A sort that keeps the order of equals, so that k = 1 agrees with best_class.
        right.append(int(line["class"] in sorted(scores, key=lambda name: -scores[name])[:k]))
    return np.array(right, dtype=np.int64)


def top_k(lines: Sequence[Line], k: int) -> Interval:
    """Share of cases whose class is among the k with the highest score."""
    return proportion(int(in_top_k(lines, k).sum()), len(lines))


def top1_right(lines: Iterable[Line]) -> np.ndarray:
    """(num_cases,) 1 where the class that was scored best, or chosen, is the true one, else 0."""
    return np.array([int(best_class(line) == line["class"]) for line in lines], dtype=np.int64)


def concept_sets(lines: Iterable[Line]) -> tuple[list[set[str]], list[set[str]]]:
    """The true and the named concepts of each case where both are known (null is unknown, [] is none)."""
    known = [line for line in having(lines, "predicted_concepts") if line["concepts"] is not None]
    return [set(line["concepts"]) for line in known], [set(line["predicted_concepts"]) for line in known]


def arm_summary(lines: Sequence[Line]) -> dict[str, Figure]:
    """The headline measures of one arm, each as `Interval.to_dict()`.

    `concept_micro_f1` is over the cases whose concepts are known and missing where there is none; what the arm lacks
    is missing too.
    """
    summary = {}
    if chosen := [line for line in lines if has_choice(line)]:
        summary["top1"] = proportion(int(top1_right(chosen).sum()), len(chosen))
    if scored := having(lines, "class_scores"):
        summary["top3"] = top_k(scored, 3)
    if answered := having(lines, "text_class"):
        # An answer that commits to no class has text_class None and counts as wrong.
        right = sum(line["text_class"] == line["class"] for line in answered)
        summary["top1_text"] = proportion(right, len(answered))
    truth, named = concept_sets(lines)
    if truth:
        summary["concept_micro_f1"] = micro_f1(truth, named)
    return {name: interval.to_dict() for name, interval in summary.items()}


def text_outcomes(lines: Iterable[Line]) -> dict[str, int]:
    """How many answers assert a class, and how many do what else; most frequent first."""
    return dict(Counter(line["text_outcome"] for line in lines if "text_outcome" in line).most_common())
