"""Tables of any size: rows of CSV, TSV, JSONL and workbooks; a map on disk."""

from __future__ import annotations

import codecs
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data.reading.delimited import UTF_8, WINDOWS_1252, Delimited, encoding_of, opened_bytes, opened_text
from data.reading.rows import SourceError
from data.reading.workbooks import Workbook, is_workbook
from skingpt4.records.naming import from_storable, storable
from skingpt4.records.record import distinct_keys
from skingpt4.taxonomy.taxonomy import nearest

MORE_CELLS = "a comma (or other delimiter) inside a text needs quotation marks around the text"
INVISIBLE = dict.fromkeys(
    map(ord, "\u200b\u2060\ufeff")
)  # spaces without width, left in headings by web pages
AS_TEXT = re.compile(r'\A="([^"]*)"\Z')  # how programs keep spreadsheets from reading 00123 as a number
HTML = re.compile(rb"\s*<(?:!doctype|html|head|meta|table|\?xml)", re.IGNORECASE)  # what some export as .xls
FIRST_ROWS = 1000  # of a JSONL file, which say what columns it has
MAX_MISSING = 3  # columns that a message names


class DiskMap:
    """Texts or file names to JSON values in a temporary SQLite file, so that memory stays flat.

    The file has no name and goes with the object.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("PRAGMA cache_size=-4096")
        self._base.execute("CREATE TABLE map (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def add(self, key: str, value: Any = None) -> bool:
        """Store the value under a new key; False, and nothing changes, if the key exists already."""
        text = None if value is None else json.dumps(value)
        values = (storable(key), text)
        return self._base.execute("INSERT OR IGNORE INTO map VALUES (?, ?)", values).rowcount == 1

    def get(self, key: str) -> Any:
        """The value; None for an unknown key."""
        row = self._base.execute("SELECT value FROM map WHERE key = ?", (storable(key),)).fetchone()
        return None if row is None or row[0] is None else json.loads(row[0])

    def __contains__(self, key: str) -> bool:
        return self._base.execute("SELECT 1 FROM map WHERE key = ?", (storable(key),)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._base.execute("SELECT COUNT(*) FROM map").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        """Keys in the order of their UTF-8 bytes."""
        for (key,) in self._base.execute("SELECT key FROM map ORDER BY key"):
            yield from_storable(key)


def need_folder(path: Path, what: str) -> Path:
    """The folder itself, if it is one.

    Raises:
        SourceError: it is missing, or a file.
    """
    if not path.is_dir():
        state = "is a file" if path.exists() else "is not there"
        raise SourceError(f"{path}: {state}; expected the folder of {what}")
    return path


def some_names(names: Iterable[str], count: int = 6) -> str:
    """The first few names in order, for a message; hidden ones are left out."""
    known = sorted(name for name in names if not name.startswith("."))
    return (", ".join(known[:count]) or "nothing") + (" ..." if len(known) > count else "")


class Table:
    """A CSV, TSV, JSONL or workbook file: `columns`, and on every iteration its rows as texts.

    What the file is shows in its bytes, only JSONL in its name (.jsonl, .ndjson, .json). Headings are read without
    outer spaces, a line break in one as a space. Values of a JSONL file that are not texts stay what they are; its
    columns are the keys of its first rows.

    Raises:
        SourceError: the file is missing, empty, in an unknown encoding, or has the same heading twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_json = self.path.suffix.lower() in (".jsonl", ".ndjson", ".json")
        self._num_short = 0
        with opened_bytes(self.path) as file:
            head = file.read(64)
        if HTML.match(head.removeprefix(codecs.BOM_UTF8)):
            raise SourceError(
                f"{self.path}: is HTML or XML; open it in a spreadsheet program and save it as .xlsx or 'CSV UTF-8'"
            )
        self._grid: Delimited | Workbook | None = None
        self._encoding: str | None = None
        if self.is_json:
            self._encoding = encoding_of(self.path)
            first = list(islice(self._objects(), FIRST_ROWS))
            if first and isinstance(first[0][1], str):
                raise SourceError(
                    f"{self.path}, line {first[0][0]}: {first[0][1]}; expected one JSON object a line "
                    "(pandas: to_json(..., orient='records', lines=True))"
                )
            keys = [key for _, row in first if isinstance(row, dict) for key in row]
            columns = list(dict.fromkeys(keys)) if first else None
        else:
            self._grid = Workbook(self.path) if is_workbook(head) else Delimited(self.path)
            self._encoding = self._grid.encoding
            header = next(filter(_is_filled, self._grid.rows()), None)
            self._header_row = header[0] if header else 0
            columns = None if header is None else self._headings(header[1])
        if columns is None:
            raise SourceError(f"{self.path}: is empty")
        self.columns = columns

    def _headings(self, cells: list[str]) -> list[str]:
        names = [" ".join(cell.translate(INVISIBLE).split()) for cell in cells]
        double = next((name for name, count in Counter(names).items() if name and count > 1), None)
        if double is not None:
            places = [str(place) for place, name in enumerate(names, 1) if name == double]
            raise SourceError(
                f"{self.path}: the heading {double!r} stands over columns {' and '.join(places)}; "
                "rename all but the one to read"
            )
        return names

    @property
    def remarks(self) -> list[str]:
        """How the rows of the last iteration were read, where that is not certain; for people."""
        remarks = []
        if self._encoding == WINDOWS_1252:  # the only one that is a guess
            remarks.append(f"{self.path.name}: read as Windows-1252; save it as UTF-8 if letters are wrong")
        if self._num_short:
            remarks.append(
                f"{self.path.name}: rows with fewer cells than headings: {self._num_short:,}; the missing last cells "
                "were read as empty"
            )
        return remarks

    def need(self, needed: Sequence[str | tuple[str, ...]]) -> None:
        """Check that columns exist; of a tuple one is enough.

        Raises:
            SourceError: names the missing columns, the nearest existing name, and the existing columns.
        """
        missing = []
        for names in needed:
            names = (names,) if isinstance(names, str) else names
            if not any(name in self.columns for name in names):
                near = next((n for name in names if (n := nearest(name, self.columns))), None)
                hint = f"; it has {near!r}" if near else ""
                missing.append(" or ".join(repr(name) for name in names) + hint)
        if missing:
            columns = ", ".join(repr(c) for c in self.columns[:12]) + (
                " ..." if len(self.columns) > 12 else ""
            )
            lacking = "; no column ".join(missing[:MAX_MISSING])
            if len(missing) > MAX_MISSING:
                lacking += f"; nor {len(missing) - MAX_MISSING} others of the {len(needed)} that are needed"
            raise SourceError(
                f"{self.path}: no column {lacking}; found {len(self.columns)} columns: {columns}"
            )

    def count(self) -> int:
        """Number of rows.

        Raises:
            SourceError: the file cannot be read to its end.
        """
        if self._grid is None:
            return sum(1 for _ in self._objects())
        return sum(number > self._header_row for number, _ in filter(_is_filled, self._grid.rows()))

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """(row, values by column), or (row, what is wrong with it); in a spreadsheet the first row is 1.

        Rows without any text are left out, and missing last cells are empty.

        Raises:
            SourceError: the file cannot be read to its end.
        """
        self._num_short = 0
        if self._grid is None:
            yield from self._objects()
            return
        width = len(self.columns)
        for number, cells in filter(_is_filled, self._grid.rows()):
            if number <= self._header_row:
                continue
            if len(cells) != width:
                if any(map(str.strip, cells[width:])):
                    yield number, f"has {len(cells)} cells, the header has {width}; {MORE_CELLS}"
                    continue
                self._num_short += len(cells) < width
                cells = [*cells[:width], *[""] * (width - len(cells))]
            if any(cell[:2] == '="' for cell in cells):
                cells = [AS_TEXT.sub(r"\1", cell) for cell in cells]
            yield number, dict(zip(self.columns, cells, strict=True))

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        with opened_text(self.path, self._encoding or UTF_8) as text:
            for number, line in enumerate(text, 1):
                if line.strip():
                    try:
                        yield number, json_object(line)
                    except ValueError as error:
                        yield number, str(error)


def _is_filled(row: tuple[int, list[str]]) -> bool:
    return any(map(str.strip, row[1]))


def json_object(line: str) -> dict[str, Any]:
    """One line of JSON as an object.

    Raises:
        ValueError: it is not JSON, not an object, or an object has a key twice.
    """
    try:
        row = json.loads(line, object_pairs_hook=distinct_keys)
    except RecursionError:
        raise ValueError("is not JSON (nested too deep)") from None
    except KeyError as error:
        raise ValueError(f"has the key {error} twice") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    return row
