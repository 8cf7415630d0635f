"""Answers against reference texts by overlap of words, with sacrebleu (Post 2018).

chrF (Popovic 2015) and BLEU of single answers, the mean over cases, each against all references of its case. Overlap
rewards wording: it says nothing about whether an answer is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from eval.measures.by_task.clusters import cluster_draws, interval_of, weighted_mean
from eval.measures.intervals import RESAMPLES, Line

INSTALL = "not measured: pip install sacrebleu, then run eval.report again"


def text_overlap(lines: Sequence[Line], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Of the cases that have references and an answer.

    Args:
        lines: with `references`, `answer` (of the first prompt) and `cluster`.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        {} where there is no such case, else `num_cases` and `num_references`, and `chrf` and `bleu` (figures from 0
        to 1) with the `signature` of each, or `missing`, a sentence that says what to install.
    """
    lines = [line for line in lines if line["references"] and line.get("answer") is not None]
    if not lines:
        return {}
    counts = {"num_cases": len(lines), "num_references": sum(len(line["references"]) for line in lines)}
    if find_spec("sacrebleu") is None:
        return {**counts, "missing": INSTALL}
    from sacrebleu.metrics import BLEU, CHRF

    draws = cluster_draws([line["cluster"] for line in lines], resamples, seed)
    figures: dict[str, Any] = dict(counts)
    for name, metric in (("chrf", CHRF()), ("bleu", BLEU(effective_order=True))):
        scores = [
            metric.sentence_score(line["answer"], list(line["references"])).score / 100 for line in lines
        ]
        figure = interval_of(weighted_mean(scores), draws).to_dict()
        figures[name] = {**figure, "signature": str(metric.get_signature())}
    return figures
