"""A table of answers as rows: CSV of any encoding and delimiter, a workbook, or JSONL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.reading.tables import Table
from eval.arms.importing.rows import SCORES, ImportingError, Row, log_scores, read_number, read_turn
from eval.tasks import Task
from skingpt4.records.blanks import is_blank
from skingpt4.support.spreadsheets import original

# What a column holds: the headings that it may have.
COLUMNS = {
    "case": ("case", "case_id", "id"),
    "turn": ("turn",),
    "text": ("text", "answer"),
    "seconds": ("seconds",),
    "first": ("seconds_to_first_token",),
    "tokens": ("num_tokens", "tokens"),
    "question": ("question", "prompt"),
    "repeat": ("repeat",),
    "scores": ("class_scores", "scores"),  # an object, in JSONL
}


def read_table(
    path: Path, task: Task, scores_are: str | None, headings: Mapping[str, str], where: Mapping[str, str]
) -> tuple[list[Row], list[str]]:
    """The answers of a table, and how it was read, where that is not certain.

    Args:
        path: the file.
        task: its classes may be columns that hold scores.
        scores_are: "probabilities" or "log".
        headings: keys of COLUMNS to headings of one's own.
        where: columns with the one value whose rows are taken.

    Raises:
        SourceError: the file cannot be read as a table.
        ImportingError: a row that cannot be an answer.
    """
    table = Table(path)
    columns = {key: (headings[key],) if key in headings else names for key, names in COLUMNS.items()}
    table.need([columns["case"], *([] if _has_scores(table, task) else [columns["turn"]]), *where])
    rows: list[Row] = []
    for number, cells in table:
        place = f"{path.name}, row {number}"
        if isinstance(cells, str):
            raise ImportingError(f"{place}: {cells}")
        values = cells if table.is_json else {name: original(cell) for name, cell in cells.items()}
        if all(str(values.get(name, "")).strip() == value for name, value in where.items()):
            rows += _rows(_Cells(values, columns, place), task, scores_are)
    if where and not rows:
        condition = ", ".join(f"{name}={value}" for name, value in where.items())
        raise ImportingError(f"{path.name}: no row has {condition}")
    return rows, table.remarks


def _has_scores(table: Table, task: Task) -> bool:
    return any(name in table.columns for name in (*task.classes, *COLUMNS["scores"]))


class _Cells:
    """The cells of one row."""

    def __init__(self, values: Mapping[str, Any], columns: Mapping[str, Sequence[str]], place: str) -> None:
        self.values, self.columns, self.place = values, columns, place

    def value(self, key: str) -> Any:
        """What is given under a key of COLUMNS; None for nothing, or a word for it."""
        value = next(
            (self.values[name] for name in self.columns[key] if self.values.get(name) is not None), None
        )
        return None if isinstance(value, str) and is_blank(value) else value

    def text(self, key: str, blank_words: bool = True) -> str | None:
        """A text; None for nothing. An answer may be a word that elsewhere stands for nothing.

        Raises:
            ImportingError: a list or an object.
        """
        if not blank_words:
            value = next(
                (self.values[name] for name in self.columns[key] if self.values.get(name) is not None), None
            )
        else:
            value = self.value(key)
        if isinstance(value, list | dict):
            raise ImportingError(f"{self.place}: {self.columns[key][0]!r} is not a text")
        return str(value) if value is not None and str(value).strip() else None

    def number(self, key: str) -> float | None:
        """A number of 0 or more; None for nothing."""
        value = self.value(key)
        return None if value is None else read_number(value, repr(self.columns[key][0]), self.place)

    def count(self, key: str) -> int | None:
        """A whole number of 0 or more; None for nothing.

        Raises:
            ImportingError: a number with a fraction.
        """
        number = self.number(key)
        if number is not None and number != int(number):
            raise ImportingError(
                f"{self.place}: {self.columns[key][0]!r} is {number:g}; write a whole number"
            )
        return None if number is None else int(number)


def _rows(cells: _Cells, task: Task, scores_are: str | None) -> Iterator[Row]:
    """The answer of a row, and the scores that stand beside it."""
    case_id, turn = cells.text("case"), cells.text("turn")
    if case_id is None:
        raise ImportingError(f"{cells.place}: names no case")
    case_id = case_id.strip()
    repeat = cells.count("repeat")
    if repeat == 0:
        raise ImportingError(f"{cells.place}: 'repeat' is 0; the first repeat is 1")
    repeat = (repeat or 1) - 1
    text, seconds = cells.text("text", blank_words=False), cells.number("seconds")
    scores = cells.value("scores") or {
        name: cells.values[name] for name in task.classes if not is_blank(str(cells.values.get(name) or ""))
    }
    if not isinstance(scores, dict):
        raise ImportingError(f"{cells.place}: 'scores' is not an object of classes with numbers")
    what, number = (SCORES, 0) if turn is None else read_turn(turn, cells.place)
    if what != SCORES:
        if text is None and seconds is None:
            raise ImportingError(
                f"{cells.place}: has neither a text nor seconds; leave the row out, or fill it in"
            )
        yield Row(
            cells.place, case_id, what, number, repeat, text, cells.text("question"), seconds,
            cells.number("first"), cells.count("tokens"),
        )  # fmt: skip
    elif not scores:
        raise ImportingError(f"{cells.place}: has neither a turn nor scores of classes")
    if scores:
        yield Row(
            cells.place, case_id, SCORES, repeat=repeat, scores=log_scores(scores, scores_are, task, cells.place)
        )  # fmt: skip
