"""Workbooks of spreadsheet programs (.xlsx, .xlsm, .xlsb, .xls, .ods), read by python-calamine as a grid of texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from data.reading.rows import SourceError

SIGNATURES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # zip; the older Office's container
PROGRAM = Path(__file__).with_name("sheet_rows.py")


def is_workbook(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a workbook, whatever it is called."""
    return head.startswith(SIGNATURES)


class Workbook:
    """The only visible sheet with cells of a workbook; a formula counts as its last result."""

    encoding = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row from 1, cells as texts).

        Raises:
            SourceError: not a workbook, locked, too large, or with rows in several visible sheets.
        """
        command = [sys.executable, "-I", str(PROGRAM), str(self.path.absolute())]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        ) as process:
            try:
                for line in process.stdout or ():
                    if not line.endswith("\n"):  # the process ended in it
                        break
                    row = json.loads(line)
                    if isinstance(row, str):
                        raise SourceError(f"{self.path}: {row}")
                    yield row[0], row[1]
                process.wait()
            finally:
                process.kill()
        if process.returncode:
            raise SourceError(
                f"{self.path}: is damaged, or too large to be read; delete stray cells far below or beside the "
                "table, or save it as 'CSV UTF-8'"
            )
