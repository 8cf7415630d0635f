"""How well the 48 concepts are recognised: by name in the answer, and by the likelihood of each concept's sentence.

Cases whose concepts are unknown (null) take no part. Concepts that no case has are left out of the table and of macro
means, and are listed; where an answer names one, it counts as wrong in the micro measures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from eval.measures.intervals import (
    RESAMPLES,
    Line,
    case_draws,
    concept_sets,
    micro_f1,
    micro_precision,
    micro_recall,
    per_concept,
    percentile_interval,
    proportion,
    ratio_interval,
)
from skingpt4.taxonomy.taxonomy import CONCEPTS

_AT_ONCE = 4_000_000  # numbers in memory while resampling


def weighted_auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weighted items, for many weightings at once; NaN without a positive or negative.

    The share of (positive, negative) pairs in the right order, equal scores counting one half.

    Args:
        scores: (n,) fp64.
        positive: (n,) 0 or 1.
        weights: (resamples, n), not below 0.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    drawn = weights[:, order]
    positives = np.add.reduceat(drawn * positive[order], starts, axis=1)
    negatives = np.add.reduceat(drawn * (1 - positive[order]), starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    with np.errstate(invalid="ignore"):
        pairs = positives.sum(1) * negatives.sum(1)
        return np.where(pairs > 0, (positives * (below + negatives / 2)).sum(1) / pairs, np.nan)


def _in_parts(draws: np.ndarray, items: int, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    step = max(1, _AT_ONCE // max(1, items))
    return np.concatenate([measure(draws[i : i + step]) for i in range(0, len(draws), step)])


def _f1(drawn: np.ndarray) -> np.ndarray:
    """F1 from sums of (tp, fp, fn) in the last axis; NaN where a concept is not present."""
    hit, added, missed = np.moveaxis(drawn, -1, 0)
    with np.errstate(invalid="ignore"):
        return np.where(hit + missed > 0, 2 * hit / (2 * hit + added + missed), np.nan)


def _nanmean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def named_concepts(
    lines: Sequence[Line],
    seed: int = 0,
    resamples: int = RESAMPLES,
    concepts: Sequence[str] = CONCEPTS,
) -> dict[str, Any]:
    """Precision, recall and F1 of the concepts that answers name.

    Args:
        lines: of one arm.
        seed: of the draws.
        resamples: number of draws.
        concepts: all that a case may have.

    Returns:
        {} where no case has known concepts, else `micro` and `macro` (`precision`, `recall`, `f1`), `per_concept`
        (concept: `num_positive`, `num_named`, and the three figures) in the order of frequency, and `never_positive`.
        Precision of a concept that is never named is None. Per concept precision and recall have Wilson intervals,
        all else draws cases; macro precision is over the concepts that are named.
    """
    truth, named = concept_sets(lines)
    if not truth:
        return {}
    rows = [row for row in per_concept(truth, named) if row.support]
    names = [row.concept for row in rows]
    present = np.array([[name in case for name in names] for case in truth], dtype=np.float64)
    mentioned = np.array([[name in case for name in names] for case in named], dtype=np.float64)
    counts = np.stack([present * mentioned, mentioned * (1 - present), present * (1 - mentioned)], axis=-1)
    counts = counts.reshape(len(truth), len(names), 3)
    drawn = case_draws(len(truth), resamples, seed) @ counts.reshape(len(truth), -1)
    drawn = drawn.reshape(resamples, len(names), 3)
    f1_drawn = _f1(drawn)
    table: dict[str, Any] = {}
    for place, row in enumerate(rows):
        hits = int(counts[:, place, 0].sum())
        table[row.concept] = {
            "num_positive": row.support,
            "num_named": row.predicted,
            "precision": proportion(hits, row.predicted).to_dict() if row.predicted else None,
            "recall": proportion(hits, row.support).to_dict(),
            "f1": percentile_interval(row.f1, f1_drawn[:, place], len(truth)).to_dict(),
        }
    with np.errstate(invalid="ignore"):
        means = {
            "precision": lambda sums: sums[..., 0] / (sums[..., 0] + sums[..., 1]),
            "recall": lambda sums: sums[..., 0] / (sums[..., 0] + sums[..., 2]),
            "f1": _f1,
        }
        macro = {}
        for name, share in means.items():
            value = float(_nanmean(share(counts.sum(axis=0)))) if names else float("nan")
            resampled = _nanmean(share(drawn)) if names else np.array([])
            macro[name] = percentile_interval(value, resampled, len(truth)).to_dict()
    return {
        "num_cases": len(truth),
        "micro": {
            "precision": micro_precision(truth, named, seed, resamples).to_dict(),
            "recall": micro_recall(truth, named, seed, resamples).to_dict(),
            "f1": micro_f1(truth, named, seed, resamples).to_dict(),
        },
        "macro": macro,
        "per_concept": table,
        "never_positive": [name for name in concepts if name not in names],
    }


def scored_concepts(lines: Sequence[Line], seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """AUROC of the concepts' log-odds against what is known.

    Returns:
        {} where no case has both scores and known concepts, else `micro` (over all pairs of case and concept),
        `macro`, `per_concept` (concept: figure with `num_positive`) and `left_out`: concepts that no case or
        every case has.
    """
    known = [line for line in lines if line["concepts"] is not None and line.get("concept_scores")]
    if not known:
        return {}
    names = list(known[0]["concept_scores"])
    scores = np.array([[line["concept_scores"][name] for name in names] for line in known], dtype=np.float64)
    present = np.array([[name in line["concepts"] for name in names] for line in known], dtype=np.float64)
    draws = case_draws(len(known), resamples, seed)
    usable = [i for i in range(len(names)) if 0 < present[:, i].sum() < len(known)]
    table, values, resampled = {}, [], []
    for i in usable:
        column, label = scores[:, i], present[:, i]
        drawn = _in_parts(draws, len(known), lambda w, c=column, t=label: weighted_auroc(c, t, w))  # type: ignore[misc]
        values.append(float(roc_auc_score(label, column)))
        resampled.append(drawn)
        figure = percentile_interval(values[-1], drawn, len(known)).to_dict()
        table[names[i]] = {**figure, "num_positive": int(label.sum())}
    figures: dict[str, Any] = {
        "num_cases": len(known),
        "per_concept": table,
        "left_out": [name for i, name in enumerate(names) if i not in usable],
    }
    if usable:
        macro = _nanmean(np.stack(resampled, axis=1))
        figures["macro"] = percentile_interval(float(np.mean(values)), macro, len(known)).to_dict()
        flat, labels = scores.ravel(), present.ravel()
        micro = _in_parts(
            draws, flat.size, lambda w: weighted_auroc(flat, labels, np.repeat(w, len(names), axis=1))
        )
        value = float(roc_auc_score(labels, flat))
        figures["micro"] = percentile_interval(value, micro, len(known)).to_dict()
    return figures


def hallucinations(lines: Sequence[Line], concepts: Sequence[str] = CONCEPTS) -> dict[str, Any]:
    """Concepts that an answer names and the labels do not have, in the order of `concepts` where equally frequent.

    Returns:
        {} where no case has known concepts, else `share_of_named` (None values where nothing is named),
        `cases_with_one` (share of cases with at least one), `per_case` (mean number) and `most_frequent`
        (concept: number of cases).
    """
    truth, named = concept_sets(lines)
    if not truth:
        return {}
    added = [n - t for t, n in zip(truth, named, strict=True)]
    numbers = [len(case) for case in added]
    counts = {name: sum(name in case for case in added) for name in concepts}
    frequent = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    return {
        "share_of_named": ratio_interval(numbers, [len(case) for case in named]).to_dict(),
        "cases_with_one": proportion(sum(map(bool, numbers)), len(numbers)).to_dict(),
        "per_case": ratio_interval(numbers).to_dict(),
        "most_frequent": {name: counts[name] for name in frequent[:10]},
    }
