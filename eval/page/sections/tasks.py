"""The measures that a task other than the default asks for."""

from __future__ import annotations

from typing import Any

from eval.measures.by_task.table import cell_text, task_rows
from eval.page.parts import NOTHING, Cell, Part, Row, Table, Text, plain


def task_parts(results: dict[str, Any]) -> list[Part]:
    """A table of every measure of the run's task; nothing for the default task."""
    task = results.get("task")
    if not task:
        return []
    arms = list(results["arms"])
    rows: list[Row] = [
        [name, *(_cell(name, cells.get(arm)) for arm in arms)] for name, cells in task_rows(results)
    ]
    parts: list[Part] = [
        Table(f"The measures of the task {task['title']}", ["measure", *map(plain, arms)], rows, "words")
    ]
    if clusters := task["clusters"]:
        parts.append(
            Text(
                f"Intervals draw the cases of one {clusters['key'].removeprefix('x_')} together: {clusters['cases']} "
                f"cases in {clusters['number']} clusters.", "soft",
            )
        )  # fmt: skip
    return parts


def _cell(name: str, cell: Any) -> Cell:
    return Cell(NOTHING) if cell is None else Cell(cell_text(name, cell))
