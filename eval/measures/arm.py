"""All automatic measures of a run: what `eval.report` writes into results.json (see docs/evaluation.md)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from eval.asking.answers import ArmAnswers
from eval.measures.calibration import calibration
from eval.measures.classification import by_likelihood, by_text
from eval.measures.concepts import hallucinations, named_concepts, scored_concepts
from eval.measures.groups import by_groups
from eval.measures.intervals import RESAMPLES, Line, arm_summary
from eval.measures.texts import text_statistics

LIBRARIES = ("numpy", "scipy", "scikit-learn", "statsmodels")


def measure_arm(arm: ArmAnswers, lines: Sequence[Line]) -> dict[str, Any]:
    """Every measure of one arm.

    Args:
        arm: all its answers, for the statistics of texts.
        lines: its greedy, unchanged answers, one a case (`eval.asking.answers.case_lines`).
    """
    return {
        **arm_summary(lines),
        "class": by_likelihood(lines),
        "text": by_text(lines),
        "concepts": named_concepts(lines),
        "concepts_auroc": scored_concepts(lines),
        "hallucination": hallucinations(lines),
        "calibration": calibration(lines),
        "groups": by_groups(lines),
        "answers": text_statistics(arm),
    }


def statistics() -> dict[str, Any]:
    """How intervals and tests were computed, and with what."""
    return {
        "intervals": "95 %: Wilson for shares of cases, else a percentile bootstrap that draws whole cases",
        "bootstrap seed": 0,
        "bootstrap resamples": RESAMPLES,
        "tests between arms": "McNemar exact for shares, approximate randomisation for F1; two-sided",
        "tests between groups": f"permutation of cases between groups, {RESAMPLES} times",
        "multiplicity": "Holm over all pairs of arms for each measure; tests between groups are not corrected",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
