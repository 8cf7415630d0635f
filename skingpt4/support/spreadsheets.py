"""CSV for spreadsheet programs: no text in it runs as a formula, and every text can be read back as it was.

A program such as Excel takes a cell that begins with =, +, - or @ for a formula, which may call other programs or
send the other cells away (OWASP, "CSV Injection"). Such a text gets an apostrophe in front, which shows it as text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Also the full-width forms, which Excel takes for the others, and outer space, which some programs remove.
_FORMULA = r"(?:\s*[=+\-@＝＋－＠]|[\t\r\n])"
_BEGINS_FORMULA = re.compile(f"'*{_FORMULA}")
_GUARDED = re.compile(f"'+{_FORMULA}")
_NUMBER = re.compile(r"[+-][0-9]+(?:[.,][0-9]+)?")


def guarded(value: Any) -> Any:
    """A value as it may stand in a cell: a text that could be a formula begins with an apostrophe.

    Plain numbers stay as they are (-12, +3.5), and `original` gives every text back.
    """
    if isinstance(value, str) and _BEGINS_FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def original(cell: str) -> str:
    """The text that `guarded` made a cell of."""
    return cell[1:] if _GUARDED.match(cell) else cell


def csv_line(values: Sequence[Any], delimiter: str = ",") -> str:
    """Values as one line of CSV with its end, guarded."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")  # so that a bare \r is quoted, too
    writer.writerow([guarded(value) for value in values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> str:
    """A header and rows as CSV, guarded."""
    return "".join(csv_line(values, delimiter) for values in (header, *rows))
