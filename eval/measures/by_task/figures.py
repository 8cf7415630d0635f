"""All measures of a task other than the default, for one arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.metrics import recall_score

from eval.asking.answers import ArmAnswers, Run
from eval.measures.by_task.clusters import Statistic, cluster_draws, interval_of, share
from eval.measures.by_task.differential import KS, weighted_top_k
from eval.measures.by_task.fairness import compare_fairness, fairness
from eval.measures.by_task.multiple_choice import multiple_choice
from eval.measures.by_task.reference_texts import text_overlap
from eval.measures.concepts import scored_concepts
from eval.measures.intervals import Line
from eval.tasks import Task


def task_lines(run: Run, arm: ArmAnswers) -> list[Line]:
    """One line for each case that an arm has anything of: the greedy, unchanged answers that a task measures.

    Its `class_scores`, `concept_scores` and `answer` (to the first prompt) are None where the arm has none.
    """
    scores = {answer.key.case_id: answer.fields for answer in arm.of("scores")}
    first = {answer.key.case_id: answer.text for answer in arm.of("turn") if answer.key.number == 1}
    lines = []
    for name, case in run.cases.items():
        if name in scores or name in first:
            own = scores.get(name, {})
            line = {key: case.get(key) for key in ("class", "concepts", "differential", "references")}
            line |= {
                "case_id": name,
                "groups": case.get("groups") or {},
                "cluster": case.get("cluster", name),
            }
            line |= {key: own.get(key) for key in ("class_scores", "concept_scores")}
            lines.append(line | {"answer": first.get(name)})
    return lines


def task_figures(task: Task, lines: Sequence[Line]) -> dict[str, Any]:
    """What the task asks for, as far as an arm's lines have it.

    Returns:
        {metric: figures}; a metric of which an arm has nothing is left out.
    """
    scored = [line for line in lines if line["class_scores"] and line["class"] in line["class_scores"]]
    about_concepts = bool(task.concepts) and not task.classes
    names = task.concepts if about_concepts else task.classes
    compute: dict[str, Callable[[], dict[str, Any]]] = {
        "top_k": lambda: top_k(scored),
        "balanced_accuracy": lambda: balanced_accuracy(scored),
        "fairness": lambda: {
            column: fairness(scored, task.positive or "", column) for column in task.group_columns
        },
        "weighted_top_k": lambda: weighted_top_k(scored),
        "concept_auroc": lambda: scored_concepts(lines),
        "multiple_choice": lambda: multiple_choice(lines, names, task.choices, about_concepts),
        "text_overlap": lambda: text_overlap(lines),
    }
    needs_scores = ("top_k", "balanced_accuracy", "fairness", "weighted_top_k")
    figures: dict[str, Any] = {}
    for metric in task.metrics:
        if (scored or metric not in needs_scores) and (result := compute[metric]()):
            figures[metric] = result
    return figures


def fairness_pairs(task: Task, arms: Mapping[str, Sequence[Line]]) -> dict[str, dict[str, Any]]:
    """Every pair of arms with scores of common cases, named FIRST_minus_SECOND: {group column: differences}."""
    scored = {
        name: {line["case_id"]: line for line in lines if line["class_scores"]}
        for name, lines in arms.items()
    }
    pairs = {}
    for first, second in combinations((name for name in scored if scored[name]), 2):
        shared = [name for name in scored[first] if name in scored[second]]
        if shared:
            a, b = ([scored[arm][name] for name in shared] for arm in (first, second))
            pairs[f"{first}_minus_{second}"] = {
                column: compare_fairness(a, b, task.positive or "", column) for column in task.group_columns
            }
    return pairs


def top_k(lines: Sequence[Line], ks: Sequence[int] = KS) -> dict[str, Any]:
    """Shares of cases whose class is among the k with the highest scores; equal scores rank in the line's order."""
    clusters = [line["cluster"] for line in lines]
    num_classes = len(lines[0]["class_scores"])
    return {
        f"top{k}": share([among_best(line, k) for line in lines], clusters).to_dict()
        for k in ks
        if k == 1 or k < num_classes
    }


def among_best(line: Line, k: int = 1) -> bool:
    """Whether a case's class is among the k with the highest scores."""
    scores = line["class_scores"]
    return line["class"] in sorted(scores, key=lambda name: -scores[name])[:k]


def balanced_accuracy(lines: Sequence[Line]) -> dict[str, Any]:
    """Mean recall of the classes that have cases; clusters are drawn together."""
    truth = [line["class"] for line in lines]
    right = np.array([among_best(line) for line in lines])
    classes = sorted(set(truth))
    present = np.array(truth)[:, None] == np.array(classes)
    draws = cluster_draws([line["cluster"] for line in lines])
    figure = interval_of(_mean_recall(right, present), draws).to_dict()
    predicted = [name if hit else "" for name, hit in zip(truth, right, strict=True)]
    value = recall_score(truth, predicted, labels=classes, average="macro", zero_division=0)
    return {**figure, "value": float(value), "num_classes": len(classes)}


def _mean_recall(right: np.ndarray, present: np.ndarray) -> Statistic:
    def mean(weights: np.ndarray) -> np.ndarray:
        total = weights @ present
        hit = weights @ (present * right[:, None])
        shares = np.divide(hit, total, out=np.full(total.shape, np.nan), where=total > 0)
        return np.nanmean(shares, axis=1)

    return mean
