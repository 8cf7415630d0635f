"""The measures of a task as rows for people: one name, and of each arm a figure or a few words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from eval.asking.answers import Run
from eval.measures.by_task.fairness import MEASURES
from eval.measures.by_task.figures import fairness_pairs, task_figures, task_lines
from eval.measures.intervals import Figure, Interval
from eval.tasks import Task

Row = tuple[str, dict[str, Figure | str]]  # the measure, and of each arm what it has
NOTHING = "not measured"
NAMES = {"auc": "AUC", "fitzpatrick": "skin type"}


def add_task(run: Run, results: dict[str, Any]) -> None:
    """Put `task` into the results of a run and of each of its arms; the default task adds nothing."""
    task = run.task
    if task.is_default:
        return
    results["task"] = {
        "name": task.name,
        "title": task.title,
        "sha256": task.sha256,
        "published": [
            {key: getattr(row, key) for key in ("system", "metric", "value", "n", "source")}
            for row in task.published
        ],
        "clusters": _clusters(run, task),
    }
    lines = {name: task_lines(run, run.arms[name]) for name in results["arms"]}
    for name, arm in results["arms"].items():
        arm["task"] = task_figures(task, lines[name])
    if "fairness" in task.metrics:
        results["task"]["pairs"] = fairness_pairs(task, lines)


def _clusters(run: Run, task: Task) -> dict[str, Any] | None:
    if not task.cluster:
        return None
    numbers = {case.get("cluster") for case in run.cases.values()}
    return {"key": task.cluster, "number": len(numbers), "cases": len(run.cases)}


def task_rows(results: dict[str, Any]) -> list[Row]:
    """Every measure of the run's task that at least one arm has."""
    arms = {name: arm.get("task", {}) for name, arm in results["arms"].items()}
    names: dict[str, None] = {}
    cells: dict[str, dict[str, Figure | str]] = {}
    for arm, figures in arms.items():
        for metric, flatten in FLATTEN.items():
            for name, cell in flatten(figures[metric]) if metric in figures else ():
                names.setdefault(name)
                cells.setdefault(name, {})[arm] = cell
    return [(name, cells[name]) for name in names]


def pair_lines(results: dict[str, Any]) -> list[str]:
    """Two arms on the same cases, in words: the difference of each measure, and of what dark skin loses."""
    lines = []
    for name, columns in results["task"].get("pairs", {}).items():
        for column, measures in columns.items():
            for measure, compared in measures.items():
                for key, words in (("difference", "all"), ("gap_difference", "last minus first group")):
                    if compared[key] and compared[key]["value"] is not None:
                        text = Interval.from_dict(compared[key]).points()
                        lines.append(
                            f"{name}: {NAMES.get(measure, measure)}, {NAMES.get(column, column)} {words} {text}"
                        )
    return lines


Cells = Iterator[tuple[str, Figure | str]]


def _top_k(figures: dict[str, Any]) -> Cells:
    for name, figure in figures.items():
        yield f"class in top {name.removeprefix('top')}", figure


def _fairness(figures: dict[str, Any]) -> Cells:
    for column, table in figures.items():
        for measure in MEASURES:
            words = f"{NAMES.get(measure, measure)}, {NAMES.get(column, column)}"
            for name, group in table["groups"].items():
                yield f"{words} {name}", group[measure]
            if gap := table["last_minus_first"].get(measure):
                yield f"{words} {gap['last']} minus {gap['first']}", gap


def _weighted(figures: dict[str, Any]) -> Cells:
    words = {
        "weight_in_top": "weight of the differential in the best {}",
        "best_top": "the most that {} labels could hold",
        "likeliest_in_top": "a likeliest condition in the best {}",
    }
    for name, figure in figures.items():
        for start, text in words.items():
            if name.startswith(start):
                yield text.format(name.removeprefix(start)), figure
    yield "weight of conditions outside the task", figures["weight_outside"]


def _concepts(figures: dict[str, Any]) -> Cells:
    for name, words in (("macro", "mean over concepts"), ("micro", "all together")):
        if name in figures:
            yield f"AUROC of the concepts, {words}", figures[name]


def _choices(figures: dict[str, Any]) -> Cells:
    questions = f"{figures['num_questions']} questions of {figures['choices']} options"
    yield f"multiple choice, {questions} (chance {figures['chance']:.0%})", figures["accuracy"]


def _texts(figures: dict[str, Any]) -> Cells:
    if "missing" in figures:
        yield "overlap with reference texts", figures["missing"]
    for name, words in (("chrf", "chrF"), ("bleu", "BLEU of single answers")):
        if name in figures:
            yield f"{words} against {figures['num_references']} references", figures[name]


FLATTEN: dict[str, Callable[[dict[str, Any]], Cells]] = {
    "fairness": _fairness,
    "weighted_top_k": _weighted,
    "top_k": _top_k,
    "balanced_accuracy": lambda figure: iter([("balanced accuracy", figure)]),
    "concept_auroc": _concepts,
    "multiple_choice": _choices,
    "text_overlap": _texts,
}


def cell_text(name: str, cell: Figure | str | None) -> str:
    """What stands in a row for one arm: a share in percent, a difference in points."""
    if cell is None or isinstance(cell, str):
        return cell or NOTHING
    if cell["value"] is None:
        return f"not defined (n = {cell['n']})"
    if cell["low"] is None:
        return f"{100 * cell['value']:.1f} % (too few cases for an interval, n = {cell['n']})"
    interval = Interval.from_dict(cell)
    return interval.points() if " minus " in name else interval.text()


def task_text(results: dict[str, Any]) -> str:
    """The task's measures as a table for the terminal, and what others printed; empty for the default task."""
    task = results.get("task")
    if not task:
        return ""
    arms = list(results["arms"])
    rows = [[f"task {task['name']}", *arms]]
    rows += [[name, *(cell_text(name, cells.get(arm)) for arm in arms)] for name, cells in task_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += pair_lines(results)
    if task["clusters"]:
        counts = task["clusters"]
        key = counts["key"].removeprefix("x_")
        lines.append(
            f"intervals draw the cases of one {key} together ({counts['cases']} cases in {counts['number']} clusters)"
        )
    lines += [published_text(row) for row in task["published"]]
    return "\n".join(lines)


def published_text(row: dict[str, Any]) -> str:
    """A printed result of others, for orientation."""
    n = f", n = {row['n']}" if row["n"] else ""
    value = f"{100 * row['value']:.1f} %" if 0 <= row["value"] <= 1 else f"{row['value']:g}"
    return f"published, for orientation: {row['system']}: {row['metric']} {value}{n} ({row['source']})"
