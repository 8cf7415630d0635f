"""The sections about the first arm in detail: its losses, confusions, concepts and groups of cases."""

from __future__ import annotations

import numpy as np

from eval.measures.classification import NO_ANSWER, confusion
from eval.measures.comparing.groups import by_group
from eval.measures.intervals import Line, best_class, concept_sets, has_choice, per_concept
from eval.page.data import Report
from eval.page.figures import measures as figures
from eval.page.parts import SKIN_TYPES, Details, Figure, Pair, Part, Row, Table, Text, plain, share_cell

STEPS = {"align": "Alignment: captions", "step1": "Step 1: concepts", "step2": "Step 2: diagnoses"}
MOST_CLASSES = 40  # of a table of confusions
NO_SCORES = "No arm of this run scored the classes or chose one from a list."


def losses_parts(report: Report) -> list[Part]:
    """Training and validation loss of the steps."""
    if not report.losses:
        return [Text("The run folder holds no loss logs.")]
    drawn = [[Figure(figures.loss_figure(step, log), STEPS[step])] for step, log in report.losses.items()]
    missing = [step for step in ("step1", "step2") if step not in report.losses]
    note = [Text(f"No loss log of {' and '.join(missing)}.")] if missing else []
    how = "Thin line: each logged training loss; thick line: its running mean; squares: validation."
    return [Pair(drawn), *note, Text(how, "soft")]


def confusion_parts(report: Report) -> list[Part]:
    """Which class the first arm with a choice takes for which."""
    chosen = _with_choice(report)
    if chosen is None:
        return [Text(NO_SCORES)]
    arm, lines = chosen
    predicted = [best_class(line) or NO_ANSWER for line in lines]
    scored = list(lines[0].get("class_scores", report.answers.task.classes))
    met = {line["class"] for line in lines} | set(predicted)
    classes = [name for name in scored if name in met] + sorted(met - set(scored))
    table = confusion([line["class"] for line in lines], predicted, classes)
    wrong = table - np.diag(np.diag(table))
    worst = [(int(wrong[i, j]), classes[i], classes[j]) for i, j in zip(*np.nonzero(wrong), strict=True)]
    worst = sorted(worst, key=lambda item: (-item[0], item))[:3]
    text = "; ".join(f"{plain(true)} taken for {plain(named)} ({count})" for count, true, named in worst)
    sentence = Text(f"Most frequent confusions: {text}." if worst else "No confusions.")
    if len(classes) > MOST_CLASSES:
        return [Text(f"{plain(arm)}: {len(classes)} classes are too many for a table to be read."), sentence]
    caption = (
        f"{plain(arm)}: counts; the stronger the blue, the larger the share of the true class. Blank: none."
    )
    return [
        Figure(figures.confusion_figure(table, [plain(name) for name in classes]), caption, wide=True),
        sentence,
    ]


def concepts_parts(report: Report) -> list[Part]:
    """Every concept of the first arm that was asked for concepts."""
    named = report.leading("predicted_concepts")
    if named is None:
        return [Text("No arm of this run was asked for concepts.")]
    arm, lines = named
    concepts = per_concept(*concept_sets(lines))
    if not concepts:
        return [Text("No concept is annotated or named in these cases.")]
    caption = f"{plain(arm)}: F1 of each concept; in brackets the cases that have it. Few cases say little."
    rows: list[Row] = [
        [
            row.concept,
            str(row.support),
            str(row.predicted),
            *(f"{100 * share:.0f}" for share in (row.precision, row.recall, row.f1)),
        ]
        for row in concepts
    ]
    head = ["concept", "cases", "named in", "precision %", "recall %", "F1 %"]
    table = Table("Concepts, most frequent first", head, rows)
    figure = Figure(figures.concepts_figure(concepts), caption)
    return [figure, Details("Precision and recall of each concept", [table])]


def groups_parts(report: Report) -> list[Part]:
    """Top-1 of the first arm with a choice, by skin type and by class."""
    chosen = _with_choice(report)
    if chosen is None:
        return [Text(NO_SCORES)]
    arm, lines = chosen
    types = {SKIN_TYPES.get(name, name): share for name, share in by_group(lines, "fitzpatrick").items()}
    by_class = by_group(lines, "class")
    order = lines[0].get("class_scores", report.answers.task.classes)
    classes = {plain(name): by_class[name] for name in order if name in by_class}
    groups: list[list[Part]] = []
    for shares, name, what in ((types, "fitzpatrick", "Fitzpatrick skin type"), (classes, "class", "class")):
        caption = f"{plain(arm)}: top-1 by {what}; at the right, right answers of all."
        rows: list[Row] = [[key, share_cell(share.to_dict()), str(share.n)] for key, share in shares.items()]
        table = Table(f"Top-1 by {what}", [what, "top-1", "n"], rows)
        figure = Figure(figures.groups_figure(shares, name), caption)
        groups.append([figure, Details(f"Numbers by {what}", [table])])
    return [Pair(groups)]


def _with_choice(report: Report) -> tuple[str, list[Line]] | None:
    """The first arm that scored the classes, or chose one."""
    for arm, lines in report.arms.items():
        if chosen := [line for line in lines if has_choice(line)]:
            return arm, chosen
    return None
