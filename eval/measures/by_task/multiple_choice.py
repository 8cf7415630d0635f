"""Closed sets as multiple choice: one right option among a few, drawn once and for all arms alike.

In the manner of DermoBench: a question for each thing that a case shows, whose other options are drawn from what it
does not show. The option with the highest score is the answer, so no text is read and chance is 1 in the number of
options.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.measures.by_task.clusters import cluster_draws, interval_of
from eval.measures.intervals import RESAMPLES, Line


@dataclass(frozen=True)
class Question:
    """The options of one question, in the order in which they were drawn, and the right one."""

    options: tuple[str, ...]
    right: str


def questions(case_id: str, shown: Collection[str], names: Sequence[str], choices: int) -> list[Question]:
    """A question for each of the names that a case shows, a function of the case alone.

    Args:
        case_id: seeds the draw.
        shown: what the case shows.
        names: all that could be asked; what is shown and not among them is not asked.
        choices: options of a question.

    Returns:
        No question where too few names are not shown.
    """
    absent = [name for name in names if name not in shown]
    if len(absent) < choices - 1:
        return []
    asked = []
    for right in (name for name in names if name in shown):
        seed = int(hashlib.sha256(f"{case_id}\0{right}\0{choices}".encode()).hexdigest()[:16], 16)
        rng = random.Random(seed)  # noqa: S311 - options are no secret
        options = [right, *rng.sample(absent, choices - 1)]
        rng.shuffle(options)
        asked.append(Question(tuple(options), right))
    return asked


def credit(question: Question, scores: Mapping[str, float]) -> float:
    """1 where the right option alone has the highest score, 1/m where it shares that with m - 1 others, else 0."""
    highest = max(scores[name] for name in question.options)
    best = [name for name in question.options if scores[name] == highest]
    return 1 / len(best) if question.right in best else 0.0


def multiple_choice(
    lines: Sequence[Line],
    names: Sequence[str],
    choices: int,
    about_concepts: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Accuracy over all questions of all cases; the questions of a case, or of a cluster, are drawn together.

    Args:
        lines: with `case_id`, `cluster` and either `concepts` and `concept_scores` or `class` and `class_scores`.
        names: concepts or classes.
        choices: options of a question.
        about_concepts: which of the two.
        seed: of the draws of the interval.
        resamples: number of draws.

    Returns:
        {} where nothing can be asked, else `accuracy` (its n is the number of cases), `num_questions`, `num_cases`,
        `choices`, `chance` and `per_name`: {name: {"accuracy", "num_questions"}}.
    """
    key = "concept_scores" if about_concepts else "class_scores"
    clusters, right, asked = [], [], []
    per_name: dict[str, list[float]] = {}
    for line in lines:
        shown = line["concepts"] if about_concepts else [line["class"]]
        if not shown or not line.get(key):
            continue
        each = questions(line["case_id"], shown, names, choices)
        credits = [credit(question, line[key]) for question in each]
        for question, value in zip(each, credits, strict=True):
            per_name.setdefault(question.right, []).append(value)
        if each:
            clusters.append(line["cluster"])
            right.append(sum(credits))
            asked.append(len(each))
    if not asked:
        return {}
    top, bottom = np.array(right), np.array(asked, dtype=np.float64)
    draws = cluster_draws(clusters, resamples, seed)
    return {
        "accuracy": interval_of(lambda weights: (weights @ top) / (weights @ bottom), draws).to_dict(),
        "num_questions": int(bottom.sum()),
        "num_cases": len(asked),
        "choices": choices,
        "chance": 1 / choices,
        "per_name": {
            name: {"accuracy": sum(values) / len(values), "num_questions": len(values)}
            for name, values in sorted(per_name.items(), key=lambda item: (-len(item[1]), item[0]))
        },
    }
