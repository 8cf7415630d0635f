"""A ranking against a weighted differential: how much of the weight is among the best k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.measures.by_task.clusters import cluster_draws, interval_of, share, weighted_mean
from eval.measures.intervals import RESAMPLES, Line

KS = (1, 3, 5)


def weighted_top_k(
    lines: Sequence[Line], ks: Sequence[int] = KS, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Of the cases that have a differential.

    Args:
        lines: with `differential` ({label: weight}, summing to 1), `class_scores` and `cluster`.
        ks: how many of the best are looked at; those that would be all labels are left out.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        {} where no case has a differential, else `num_cases`, `weight_outside` (mean weight of names that are none
        of the labels, which nothing can hit) and for each k `weight_in_topK` (mean over cases), `best_topK` (the most
        that k labels could hold) and `likeliest_in_topK` (share of cases in which a name of the highest weight is
        among them). Equal scores are ranked in the order of the labels.
    """
    lines = [line for line in lines if line["differential"]]
    if not lines:
        return {}
    clusters = [line["cluster"] for line in lines]
    draws = cluster_draws(clusters, resamples, seed)
    labels = lines[0]["class_scores"]
    outside = [
        sum(weight for name, weight in line["differential"].items() if name not in labels) for line in lines
    ]
    figures: dict[str, Any] = {
        "num_cases": len(lines),
        "weight_outside": interval_of(weighted_mean(outside), draws).to_dict(),
    }
    for k in (k for k in ks if k == 1 or k < len(labels)):
        got, most, likeliest = [], [], []
        for line in lines:
            weights = {name: weight for name, weight in line["differential"].items() if name in labels}
            scores = line["class_scores"]
            best = sorted(scores, key=lambda name: -scores[name])[:k]
            got.append(sum(weights.get(name, 0.0) for name in best))
            most.append(sum(sorted(weights.values(), reverse=True)[:k]))
            top = max(line["differential"].values())
            likeliest.append(any(weights.get(name) == top for name in best))
        figures[f"weight_in_top{k}"] = interval_of(weighted_mean(got), draws).to_dict()
        figures[f"best_top{k}"] = interval_of(weighted_mean(most), draws).to_dict()
        figures[f"likeliest_in_top{k}"] = share(likeliest, clusters, seed).to_dict()
    return figures
