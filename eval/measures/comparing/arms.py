"""Arms against each other on the same cases, and p-values corrected for how many are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from eval.measures.intervals import (
    RESAMPLES,
    Line,
    concept_counts,
    concept_sets,
    f1_of_counts,
    has_choice,
    mcnemar,
    paired_difference,
    paired_f1_difference,
    top1_right,
)


def shared_lines(first: Sequence[Line], second: Sequence[Line]) -> tuple[list[Line], list[Line]]:
    """The lines of the cases that both arms answered, in the order of the first.

    Raises:
        ValueError: there is none.
    """
    by_id = {line["case_id"]: line for line in second}
    shared = [line for line in first if line["case_id"] in by_id]
    if not shared:
        raise ValueError("the two arms share no case")
    return shared, [by_id[line["case_id"]] for line in shared]


def f1_exchange_p(
    truth: Sequence[set[str]],
    first: Sequence[set[str]],
    second: Sequence[set[str]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float:
    """Two-sided p of the difference of micro F1: the two arms' answers are exchanged within cases at random.

    Approximate randomisation (Noreen 1989); the answers as they are count as one exchange, so p is never 0.
    """
    a, b = (concept_counts(truth, named).astype(np.float64) for named in (first, second))

    swap = (np.random.default_rng(seed).random((resamples, len(a))) < 0.5).astype(np.float64)
    change = swap @ (b - a)
    drawn = np.abs(f1_of_counts(a.sum(0) + change) - f1_of_counts(b.sum(0) - change))
    true = abs(float(f1_of_counts(a.sum(0)) - f1_of_counts(b.sum(0))))
    return float((1 + (drawn >= true - 1e-12).sum()) / (1 + resamples))


def _both(
    first: Sequence[Line], second: Sequence[Line], has: Callable[[Line], bool]
) -> tuple[list[Line], list[Line]]:
    """Of two arms' lines about the same cases those in which both have what is compared."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if has(a) and has(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _text_right(lines: Sequence[Line]) -> np.ndarray:
    return np.array([int(line["text_class"] == line["class"]) for line in lines])


def _shares(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    test = mcnemar(first, second)
    return {
        **paired_difference(first, second).to_dict(),
        "only_first": test.only_first,
        "only_second": test.only_second,
        "p": test.p,
        "test": "McNemar, exact",
    }


def compare_pair(first: Sequence[Line], second: Sequence[Line]) -> dict[str, Any]:
    """First minus second for each measure that both arms have: a figure with `p` and `test`.

    Returns:
        `top1`, `top1_text` (with `only_first`, `only_second`: cases that one arm alone got right) and, where
        concepts are known, `concept_micro_f1`.

    Raises:
        ValueError: the arms share no case.
    """
    a, b = shared_lines(first, second)
    figures = {}
    for measure, has, right in (
        ("top1", has_choice, top1_right),
        ("top1_text", lambda line: "text_class" in line, _text_right),
    ):
        one, other = _both(a, b, has)
        if one:
            figures[measure] = _shares(right(one), right(other))
    one, other = _both(a, b, lambda line: "predicted_concepts" in line)
    truth, named = concept_sets(one)
    if truth:
        named_by_other = concept_sets(other)[1]
        figures["concept_micro_f1"] = {
            **paired_f1_difference(truth, named, named_by_other).to_dict(),
            "p": f1_exchange_p(truth, named, named_by_other),
            "test": f"approximate randomisation, {RESAMPLES} exchanges",
        }
    return figures


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given.

    Here in three lines, since statsmodels' collects garbage at every call, which takes a third of a second beside
    torch.
    """
    order = np.argsort(p_values)
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def correct(pairs: dict[str, dict[str, Any]]) -> None:
    """Put `p_holm` beside every `p`: Holm's correction over all pairs of arms, for each measure on its own."""
    for measure in sorted({name for pair in pairs.values() for name in pair}):
        tested = [pair[measure] for pair in pairs.values() if measure in pair]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_holm"] = p
            entry["num_tests"] = len(tested)


def compare_all(arms: dict[str, list[Line]]) -> dict[str, dict[str, Any]]:
    """Every pair of arms with a common case and measure, named FIRST_minus_SECOND in the order of display."""
    pairs = {}
    for first, second in combinations(arms, 2):
        if {line["case_id"] for line in arms[first]} & {line["case_id"] for line in arms[second]}:
            compared = compare_pair(arms[first], arms[second])
            if compared:
                pairs[f"{first}_minus_{second}"] = compared
    correct(pairs)
    return pairs
