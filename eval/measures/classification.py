"""How well a class is recognised: by the likelihood of the 15 sentences, and by what the written answer commits to.

Shares of cases have Wilson intervals; balanced accuracy and macro F1 a bootstrap that draws cases.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, recall_score

from eval.measures.intervals import (
    RESAMPLES,
    Figure,
    Interval,
    Line,
    best_class,
    case_draws,
    percentile_interval,
    proportion,
    top1_right,
    top_k,
)
from skingpt4.taxonomy.free_text import OUTCOMES
from skingpt4.taxonomy.taxonomy import CLASSES

NO_ANSWER = "no answer"  # the class of a text that commits to none


def _class_counts(truth: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The classes that have cases, and per case and class whether it is hit, named, present: (n, classes, 3)."""
    classes = sorted(set(truth))
    present = np.asarray(truth)[:, None] == np.asarray(classes)
    named = np.asarray(predicted)[:, None] == np.asarray(classes)
    return classes, np.stack([present & named, named, present], axis=-1).astype(np.float64)


def _macro(counts: np.ndarray, weight_named: int, seed: int, resamples: int) -> np.ndarray:
    """Mean over classes of hit / present (weight 0) or of F1 (weight 1), in each resample: (resamples,)."""
    drawn = case_draws(len(counts), resamples, seed) @ counts.reshape(len(counts), -1)
    hit, named, present = np.moveaxis(drawn.reshape(resamples, -1, 3), -1, 0)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        shares = (1 + weight_named) * hit / (present + weight_named * named)
        # A class of which a resample drew no case takes no part in it.
        return np.nanmean(np.where(present > 0, shares, np.nan), axis=1)


def balanced_accuracy(
    truth: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean recall of the classes that have cases."""
    classes, counts = _class_counts(truth, predicted)
    value = recall_score(truth, predicted, labels=classes, average="macro", zero_division=0)
    return percentile_interval(value, _macro(counts, 0, seed, resamples), len(truth))


def macro_f1(
    truth: Sequence[str], predicted: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean F1 of the classes that have cases; a class that is named but never present has no F1 of its own."""
    classes, counts = _class_counts(truth, predicted)
    value = f1_score(truth, predicted, labels=classes, average="macro", zero_division=0)
    return percentile_interval(value, _macro(counts, 1, seed, resamples), len(truth))


def per_class(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, dict[str, Figure | None]]:
    """Recall (of the cases that have the class) and precision (of the answers that name it), Wilson intervals.

    Classes that are neither present nor named are left out; a share of nothing is None.
    """
    present, named = Counter(truth), Counter(predicted)
    hit = Counter(t for t, p in zip(truth, predicted, strict=True) if t == p)
    return {
        name: {
            "recall": proportion(hit[name], present[name]).to_dict() if present[name] else None,
            "precision": proportion(hit[name], named[name]).to_dict() if named[name] else None,
        }
        for name in sorted({*present, *named} - {NO_ANSWER})
    }


def confusion(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Counts of (true class, predicted class): (num_classes, num_classes), rows are the truth.

    Raises:
        ValueError: when the lengths differ or a name is not among `classes`.
    """
    if len(truth) != len(predicted):
        raise ValueError(f"{len(truth)} cases of truth but {len(predicted)} of predictions")
    unknown = sorted((set(truth) | set(predicted)) - set(classes))
    if unknown:
        raise ValueError(f"not among the classes: {', '.join(unknown)}")
    index = {name: position for position, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for true_class, predicted_class in zip(truth, predicted, strict=True):
        table[index[true_class], index[predicted_class]] += 1
    return table


def _table(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    return {"classes": list(classes), "counts": confusion(truth, predicted, classes).tolist()}


def by_likelihood(lines: Sequence[Line], classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Everything about the class with the highest score of the closed set, or the one chosen from a list.

    Args:
        lines: each with scores or a choice.
        classes: for the table of confusions, where the lines have no scores.

    Returns:
        `top1`, `top3`, `top5`, `balanced_accuracy`, `macro_f1` (figures), `per_class`, and `confusion` with
        `classes` and `counts` (rows are the truth). `top5` is missing where fewer than 6 classes are scored; it and
        `top3` are missing where one was chosen from a list.
    """
    truth, predicted = [line["class"] for line in lines], [best_class(line) or NO_ANSWER for line in lines]
    scored = list(lines[0].get("class_scores", [*classes, NO_ANSWER]))
    figures: dict[str, Any] = {"top1": proportion(int(top1_right(lines).sum()), len(lines)).to_dict()}
    if all("class_scores" in line for line in lines):
        figures |= {f"top{k}": top_k(lines, k).to_dict() for k in (3, 5) if k < len(scored)}
    figures["balanced_accuracy"] = balanced_accuracy(truth, predicted).to_dict()
    figures["macro_f1"] = macro_f1(truth, predicted).to_dict()
    figures["per_class"] = per_class(truth, predicted)
    figures["confusion"] = _table(truth, predicted, scored)
    return figures


def by_text(lines: Sequence[Line], classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """Everything about the class that the written answer commits to; committing to none is wrong, and counted.

    Args:
        lines: each with a text that was read for a class.
        classes: for the table of confusions, where the lines have no scores.

    Returns:
        `accuracy` over all cases, `committed` (share that commits to a class), `accuracy_committed` (share of those
        that is right; None where there is none), `balanced_accuracy`, `macro_f1`, `per_class`, `confusion` (its last
        column is "no answer") and `outcomes`: the share of answers of each of the taxonomy's outcomes.
    """
    truth = [line["class"] for line in lines]
    predicted = [line["text_class"] or NO_ANSWER for line in lines]
    committed = [(t, p) for t, p in zip(truth, predicted, strict=True) if p != NO_ANSWER]
    right = sum(t == p for t, p in committed)
    columns = list(lines[0].get("class_scores", classes))
    columns += sorted({*truth, *predicted} - {*columns, NO_ANSWER})  # what a text names outside the list
    outcomes = Counter(line["text_outcome"] for line in lines if line.get("text_outcome"))
    counted = outcomes.total()
    return {
        "accuracy": proportion(right, len(lines)).to_dict(),
        "committed": proportion(len(committed), len(lines)).to_dict(),
        "accuracy_committed": proportion(right, len(committed)).to_dict() if committed else None,
        "balanced_accuracy": balanced_accuracy(truth, predicted).to_dict(),
        "macro_f1": macro_f1(truth, predicted).to_dict(),
        "outcomes": {name: proportion(outcomes[name], counted).to_dict() for name in OUTCOMES if counted},
        "per_class": per_class(truth, predicted),
        "confusion": _table(truth, predicted, [*columns, NO_ANSWER]),
    }
