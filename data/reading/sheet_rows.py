"""The rows of a workbook as JSON lines, in a process of its own: `python sheet_rows.py FILE`.

A small file can ask for more memory than a machine has (one cell in the last row and column), and the library then
ends its process. `data.reading.workbooks` reads the lines: [row from 1, cells] of each row that holds anything, or
one text, which says what is wrong.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from typing import Any

import python_calamine as calamine

try:
    import resource
except ImportError:  # Windows, where nothing bounds what a workbook asks for
    resource = None  # type: ignore[assignment]

MAX_BYTES = 4 * 2**30  # of memory; a million rows of fifty cells need half of that
MAX_SECONDS = 1800  # of CPU time


class WorkbookError(Exception):
    """A workbook that cannot be read; the message is a clause."""


def main() -> int:
    """Print the rows of the file that the command line names; returns the exit status."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for row in sheet_rows(only_sheet(sys.argv[1])):
            if any(row[1]):
                print(json.dumps(row))
    except WorkbookError as error:
        print(json.dumps(str(error)))
        return 1
    return 0


def only_sheet(path: str) -> calamine.CalamineSheet:
    """The only visible sheet that holds anything; the first sheet where none does.

    Raises:
        WorkbookError: not a workbook, locked, or several sheets hold something.
    """
    try:
        with (
            open(path, "rb") as file,
            calamine.load_workbook(file) as book,
        ):  # of a path, the suffix would count
            visible = calamine.SheetVisibleEnum.Visible
            hidden = {sheet.name for sheet in book.sheets_metadata if sheet.visible != visible}
            sheets = [book.get_sheet_by_name(name) for name in book.sheet_names if name not in hidden]
    except calamine.PasswordError:
        raise WorkbookError("is locked by a password; save it without one") from None
    except (calamine.CalamineError, OSError) as error:
        raise WorkbookError(
            f"is not a workbook that can be read ({error}); save it as .xlsx or as 'CSV UTF-8'"
        ) from None
    if not sheets:
        raise WorkbookError("has no visible sheet")
    filled = [sheet for sheet in sheets if sheet.start is not None]
    if len(filled) > 1:
        names = ", ".join(repr(sheet.name) for sheet in filled)
        raise WorkbookError(
            f"has rows in {len(filled)} sheets, {names}; hide all but the one to read, or save that as a file"
        )
    return filled[0] if filled else sheets[0]


def sheet_rows(sheet: calamine.CalamineSheet) -> Iterator[tuple[int, list[str]]]:
    """(row from 1, cells as texts); what cells merged over several rows hold counts for each of the rows."""
    merged = _merged_from(sheet)
    values: dict[tuple[int, int], str] = {}
    for number, row in enumerate(sheet.iter_rows()):
        cells = [as_cell(value) for value in row]
        for top, column in merged.get(number, ()):
            if number == top:
                values[top, column] = cells[column]
            else:
                cells[column] = values[top, column]
        yield number + 1, cells


def _merged_from(sheet: calamine.CalamineSheet) -> dict[int, list[tuple[int, int]]]:
    """For each row, (first row, column) of the merged cells that cover it, places from 0 as `iter_rows` has them."""
    (_, first), (last, end) = sheet.start or (0, 0), sheet.end or (0, 0)
    merged: dict[int, list[tuple[int, int]]] = {}
    for (top, left), (bottom, _) in sheet.merged_cell_ranges or ():
        if bottom > top and first <= left <= end:
            for row in range(top, min(bottom, last) + 1):
                merged.setdefault(row, []).append((top, left - first))
    return merged


def as_cell(value: Any) -> str:
    """A cell's value as its text: a date in ISO 8601, a number without what only its storage adds (3, not 3.0)."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ") if value.time() != datetime.time() else value.date().isoformat()
    return str(value)  # a date and a time of day write themselves in ISO 8601


if __name__ == "__main__":
    sys.exit(main())
