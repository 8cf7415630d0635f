"""The rows of a source before any image is opened: candidates for records, and refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError
from skingpt4.taxonomy.taxonomy import nearest

# Why a row is refused before its image is opened; the reasons of images are in skingpt4.records.images.REASONS.
REASONS = {
    "flagged": "the source says not to consider this picture",
    "listed_twice": "the same picture is in an earlier row",
    "not_listed": "a picture that no row names",
    "unknown_folder": "an unknown class folder",
    "bad_row": "a row that cannot be read",
    "bad_value": "a value that the column cannot have",
    "unknown_class": "none of the classes",
    "unknown_concept": "none of SKINCON's concepts",
    "no_label": "no note, diagnosis, class or concept",
    "phi": "a text that seems to identify a person",
}


class SourceError(UserError):
    """A source that cannot be read; the message says what was expected and what is there."""


class RowError(Exception):
    """A row that is refused: `reason` is a key of REASONS, the message says what is wrong with it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that becomes a record if its image is usable.

    `file` and `row` say where it is (the header of a table is row 1; None: the file itself is the row),
    `fields` holds what the source knows (keys of a record), `remarks` are counted over the records, `folder` is one
    of the source's class folders.
    """

    file: str
    row: int | None
    image_path: Path
    fields: dict[str, Any]
    remarks: tuple[str, ...] = ()
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that becomes no record; one line of `rejected.jsonl`."""

    file: str
    row: int | None
    image: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Rows:
    """A source's `total` rows, in an order that never changes.

    While they are read, `blanks` counts by key the cells in which a word stands for nothing; `remarks()` then says
    how the tables were read, where that is not certain. `folders` are the class folders, of which none may be lost
    completely, and `left_out` counts files that are no rows, by reason.
    """

    rows: Iterable[Candidate | Refusal]
    total: int
    blanks: Counter[str] = field(default_factory=Counter)
    remarks: Callable[[], Sequence[str]] = tuple
    folders: Sequence[str] = ()
    left_out: Counter[str] = field(default_factory=Counter)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known name that is written most alike, or nothing."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
