"""CSV for spreadsheet programs: no text in it runs as a formula, and every text can be read back as it was.

A program such as Excel takes a cell that begins with =, +, - or @ for a formula, which may call other programs or
send the other cells away (OWASP, "CSV Injection"). Such a text gets an apostrophe in front, which shows it as text.
So does what follows a semicolon, tab or line break: where commas stand in numbers, as in Germany, Excel begins a new
cell there and takes no notice of quotes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Also the full-width forms, which Excel takes for the others, and outer space, which some programs remove.
_SIGN = r"[=+\-@＝＋－＠]"
_FORMULA = rf"(?:\s*{_SIGN}|[\t\r\n])"
_BEGINS_FORMULA = re.compile(f"'*{_FORMULA}")
_GUARDED = re.compile(f"'+{_FORMULA}")
_CELL_WITHIN = r"(?<=[;\t\r\n]){}(?='*[^\S\t\r\n]*" + _SIGN + ")"
_FORMULA_WITHIN, _GUARDED_WITHIN = (re.compile(_CELL_WITHIN.format(mark)) for mark in ("", "'"))
_NUMBER = re.compile(r"[+-][0-9]+(?:[.,][0-9]+)?")


def guarded(value: Any) -> Any:
    """A value as it may stand in a cell: what could be a formula begins with an apostrophe.

    Plain numbers stay as they are (-12, +3.5), and `original` gives every text back.
    """
    if not isinstance(value, str):
        return value
    text = _FORMULA_WITHIN.sub("'", value)
    return f"'{text}" if _BEGINS_FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original(cell: str) -> str:
    """The text that `guarded` made a cell of."""
    return _GUARDED_WITHIN.sub("", cell[1:] if _GUARDED.match(cell) else cell)


def csv_line(values: Sequence[Any], delimiter: str = ",") -> str:
    """Values as one line of CSV with its end, guarded."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")  # so that a bare \r is quoted, too
    writer.writerow([guarded(value) for value in values])
    return text.getvalue().removesuffix("\r\n") + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> str:
    """A header and rows as CSV, guarded."""
    return "".join(csv_line(values, delimiter) for values in (header, *rows))
