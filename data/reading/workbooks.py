"""Workbooks of spreadsheet programs (.xlsx, .xlsm, .xlsb, .xls, .ods), read by python-calamine as a grid of texts."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.reading.rows import SourceError

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

SIGNATURES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # zip; the older Office's container


def is_workbook(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a workbook, whatever it is called."""
    return head.startswith(SIGNATURES)


class Workbook:
    """The only visible sheet with cells of a workbook; a formula counts as its last result.

    Raises:
        SourceError: the file is not a workbook, is locked, or has rows in several visible sheets.
    """

    remark = None

    def __init__(self, path: Path) -> None:
        import python_calamine as calamine  # not needed for other tables

        self.path = path
        try:
            with calamine.load_workbook(path) as book:
                hidden = {
                    sheet.name
                    for sheet in book.sheets_metadata
                    if sheet.visible != calamine.SheetVisibleEnum.Visible
                }
                shown = [book.get_sheet_by_name(name) for name in book.sheet_names if name not in hidden]
        except calamine.PasswordError:
            raise SourceError(f"{path}: is locked by a password; save it without one") from None
        except (calamine.CalamineError, OSError) as error:
            raise SourceError(
                f"{path}: is not a workbook that can be read ({error}); save it as .xlsx or as 'CSV UTF-8'"
            ) from None
        filled = [sheet for sheet in shown if sheet.start is not None]
        if len(filled) > 1:
            names = ", ".join(repr(sheet.name) for sheet in filled)
            raise SourceError(
                f"{path}: has rows in {len(filled)} sheets, {names}; save the one to read as a file of its own, "
                "or hide the others"
            )
        self._sheet = filled[0] if filled else None

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row from 1, cells as texts); what cells merged over several rows hold counts for each of the rows."""
        if self._sheet is None or self._sheet.start is None:
            return
        merged = _merged_from(self._sheet)
        values: dict[tuple[int, int], str] = {}
        for number, row in enumerate(self._sheet.iter_rows()):
            cells = [as_cell(value) for value in row]
            for top, column in merged.get(number, ()):
                if number == top:
                    values[top, column] = cells[column]
                else:
                    cells[column] = values[top, column]
            yield number + 1, cells


def _merged_from(sheet: CalamineSheet) -> dict[int, list[tuple[int, int]]]:
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
