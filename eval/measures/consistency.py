"""Does a model give the same answer when it is asked again, or when the picture is changed a little?

Repeats at a stated temperature are compared by the class that each answer commits to ("no answer" is a class of
its own) and by the concepts that it names. Mean pairwise agreement is the share of equal pairs among a case's
repeats, averaged over cases. At temperature 0 all repeats are the same by construction, so that says nothing
about a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from eval.asking.answers import Answer, ArmAnswers, Run
from eval.asking.classes import read_task_class
from eval.measures.agreement import fleiss, modal_agreement, pairwise_agreement
from eval.measures.intervals import (
    RESAMPLES,
    Interval,
    best_class,
    case_draws,
    paired_difference,
    percentile_interval,
    proportion,
    ratio_interval,
)
from eval.tasks import Task
from skingpt4.taxonomy.free_text import ANSWER_FORM

# What a class is read from: the trained question about the diagnosis, and the first answer of the conversation.
SOURCES = ("diagnosis probe", "turn 1")
Readings = dict[tuple[str, int, str | None], Any]  # (case, repeat, change) -> what is read of it


def read_classes(arm: ArmAnswers, source: str, task: Task) -> Readings:
    """The class that each answer commits to, None where it commits to none.

    Args:
        arm: all its answers.
        task: whose classes are read.
        source: one of SOURCES; the probe's class stands in its line, that of turn 1 is read here in the same way.
    """
    if source == "diagnosis probe":
        return _read(
            arm,
            lambda a: a.key.kind == "probe" and "text_class" in a.fields,
            lambda a: a.fields["text_class"],
        )
    form = arm.meta.get("disease_sentence", ANSWER_FORM)
    scored = zip(task.classes, arm.meta.get("scored_diseases", ()), strict=False)
    options = {name: (disease,) for name, disease in scored}
    read: dict[str, str | None] = {}

    def class_of(answer: Answer) -> str | None:
        if answer.text not in read:
            read[answer.text] = read_task_class(answer.text, form, task, options)["text_class"]
        return read[answer.text]

    return _read(arm, lambda a: a.key.kind == "turn" and a.key.number == 1, class_of)


def read_concepts(arm: ArmAnswers) -> Readings:
    """The set of concepts that each answer to the question about them names."""
    return _read(
        arm, lambda a: "predicted_concepts" in a.fields, lambda a: frozenset(a.fields["predicted_concepts"])
    )


def read_scored(arm: ArmAnswers) -> Readings:
    """The class with the highest likelihood."""
    return _read(
        arm,
        lambda a: a.key.kind == "scores" and "class_scores" in a.fields,
        lambda a: best_class(a.fields),
    )


def _read(arm: ArmAnswers, which: Callable[[Answer], bool], what: Callable[[Answer], Any]) -> Readings:
    return {
        (key.case_id, key.repeat, key.perturbation): what(answer)
        for key, answer in arm.lines.items()
        if which(answer)
    }


def repeats_table(readings: Readings, repeats: int) -> tuple[list[str], list[list[Any]]]:
    """(cases, their answers (cases, repeats)), of the cases that have all repeats on the unchanged picture."""
    cases = [case for case, repeat, change in readings if repeat == 0 and change is None]
    complete = [case for case in cases if all((case, r, None) in readings for r in range(repeats))]
    return complete, [[readings[case, r, None] for r in range(repeats)] for case in complete]


def fleiss_interval(
    answers: Sequence[Sequence[str | None]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Fleiss' kappa with a bootstrap that draws cases; NaN where all answers are one category."""
    names = {name: place for place, name in enumerate(dict.fromkeys(x for row in answers for x in row))}
    counts = np.zeros((len(answers), len(names)))
    for place, row in enumerate(answers):
        np.add.at(counts[place], [names[x] for x in row], 1)
    draws = case_draws(len(answers), resamples, seed)
    observed = draws @ np.asarray(pairwise_agreement(answers)) / len(answers)
    share = draws @ counts / counts.sum()
    chance = (share**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)
    return percentile_interval(fleiss(answers), drawn, len(answers))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared concepts of all; 1 where both are empty, because then both say the same."""
    return len(first & second) / len(first | second) if first | second else 1.0


def repeat_consistency(arm: ArmAnswers, task: Task) -> dict[str, Any] | None:
    """How far the repeats of each case agree; None where there is only one.

    Args:
        arm: all its answers.
        task: whose classes are read.

    Returns:
        `repeats`, `temperature`, `trivial` (True at temperature 0, where `identical_texts` alone is given, as a
        check of the software); else for each of SOURCES `pairwise`, `modal`, `fleiss_kappa` (figures; kappa is
        None where only one category occurs), `always_same` (share of cases), `case_ids`, `matrix` (cases x
        repeats of classes, None is no
        answer: the heat map) and `between_repeats` (repeats x repeats, share of equal cases); and `concepts_jaccard`.
    """
    numbers = {key.repeat for key in arm.lines if key.perturbation is None}
    repeats, temperature = len(numbers), arm.meta.get("decoding", {}).get("temperature")
    if repeats < 2:
        return None
    figures: dict[str, Any] = {"repeats": repeats, "temperature": temperature, "trivial": temperature == 0}
    texts = _read(arm, lambda a: a.key.kind == "turn" and a.key.number == 1, lambda a: a.text)
    texts = texts or _read(arm, lambda a: a.key.kind == "probe", lambda a: a.text)
    _, rows = repeats_table(texts, repeats)
    if rows:
        figures["identical_texts"] = proportion(sum(len(set(row)) == 1 for row in rows), len(rows)).to_dict()
    if figures["trivial"]:
        figures["reason"] = (
            "greedy decoding draws nothing, so repeats are the same by construction: not a result"
        )
        return figures
    for source in SOURCES:
        cases, rows = repeats_table(read_classes(arm, source, task), repeats)
        if not rows:
            continue
        table = np.array([[name or "" for name in row] for row in rows])
        figures[source] = {
            "pairwise": ratio_interval(pairwise_agreement(rows)).to_dict(),
            "modal": ratio_interval(modal_agreement(rows)).to_dict(),
            "fleiss_kappa": fleiss_interval(rows).to_dict(),
            "always_same": proportion(sum(len(set(row)) == 1 for row in rows), len(rows)).to_dict(),
            "case_ids": cases,
            "matrix": rows,
            "between_repeats": (table[:, :, None] == table[:, None]).mean(axis=0).tolist(),
        }
    _, rows = repeats_table(read_concepts(arm), repeats)
    if rows:
        means = [float(np.mean([jaccard(a, b) for a, b in combinations(row, 2)])) for row in rows]
        figures["concepts_jaccard"] = ratio_interval(means).to_dict()
    return figures


def perturbation_consistency(run: Run, arm: ArmAnswers) -> dict[str, Any]:
    """How far the answers about changed pictures agree with those about the pictures as they are.

    Returns:
        {change: {`kind`, `strength`, `class_scored`, `diagnosis probe`, `turn 1` (share of cases with the same
        class, Wilson), `concepts_jaccard` (mean), `top1` (accuracy on changed pictures), `top1_change` (changed
        minus unchanged, paired)}}; what was not asked is left out. With sampling, compare with the agreement of
        repeats: it is the ceiling.
    """
    changes = dict.fromkeys(key.perturbation for key in arm.lines if key.perturbation is not None)
    read: dict[str, Readings] = {"class_scored": read_scored(arm)}
    read |= {source: read_classes(arm, source, run.task) for source in SOURCES}
    concepts = read_concepts(arm)
    by_change: dict[str, Any] = {}
    for change in changes:
        kind, _, strength = change.partition(":")
        entry: dict[str, Any] = {"kind": kind, "strength": float(strength)}
        for name, readings in read.items():
            both = _pairs(readings, change)
            if both:
                entry[name] = proportion(sum(a == b for _, a, b in both), len(both)).to_dict()
        both = _pairs(concepts, change)
        if both:
            entry["concepts_jaccard"] = ratio_interval([jaccard(a, b) for _, a, b in both]).to_dict()
        both = _pairs(read["class_scored"], change)
        if both:
            before, after = (
                np.array([int(pair[place] == run.cases[pair[0]]["class"]) for pair in both])
                for place in (1, 2)
            )
            entry["top1"] = proportion(int(after.sum()), len(after)).to_dict()
            entry["top1_change"] = paired_difference(after, before).to_dict()
        by_change[change] = entry
    return by_change


def _pairs(readings: Readings, change: str) -> list[tuple[str, Any, Any]]:
    """(case, on the picture as it is, on the changed one) of the cases with both."""
    return [
        (case, readings[case, repeat, None], value)
        for (case, repeat, name), value in readings.items()
        if name == change and repeat == 0 and (case, 0, None) in readings
    ]


def consistency(run: Run) -> dict[str, Any]:
    """For each arm `repeats` (or None) and `perturbations` (or {}); arms with neither are left out."""
    by_arm = {}
    for name, arm in run.arms.items():
        entry = {
            "repeats": repeat_consistency(arm, run.task),
            "perturbations": perturbation_consistency(run, arm),
        }
        if any(entry.values()):
            by_arm[name] = entry
    return by_arm
