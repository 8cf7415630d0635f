"""Tables and folders of any size, read as streams: CSV, TSV and JSONL rows, sorted files, a map on disk."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from data.reading.rows import SourceError
from skingpt4.taxonomy.taxonomy import nearest

MAX_FIELD = 16 * 2**20  # characters of one field; more is a quote that was never closed
DELIMITERS = ",;\t"
MAX_MISSING = 3  # columns that a message names


class DiskMap:
    """Texts to JSON values in a temporary SQLite file, so that memory stays flat however many there are.

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
        return self._base.execute("INSERT OR IGNORE INTO map VALUES (?, ?)", (key, text)).rowcount == 1

    def get(self, key: str) -> Any:
        """The value; None for an unknown key."""
        row = self._base.execute("SELECT value FROM map WHERE key = ?", (key,)).fetchone()
        return None if row is None or row[0] is None else json.loads(row[0])

    def __contains__(self, key: str) -> bool:
        return self._base.execute("SELECT 1 FROM map WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._base.execute("SELECT COUNT(*) FROM map").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        """Keys in the order of their UTF-8 bytes."""
        for (key,) in self._base.execute("SELECT key FROM map ORDER BY key"):
            yield key


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


def find_files(folder: Path) -> DiskMap:
    """Every file under a folder as its path relative to it (with /); hidden files and folders are left out.

    Raises:
        SourceError: a folder cannot be read.
    """
    files = DiskMap()
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(folder / inner) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini", "__MACOSX"):
                        continue
                    name = f"{inner}/{entry.name}" if inner else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    else:
                        files.add(_storable(name))
        except OSError as error:
            raise SourceError(f"{folder / inner}: cannot be read ({error.strerror})") from None
    return files


def _storable(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 are shown as \\x.., which names no file."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A table's text.

    Raises:
        SourceError: it is missing, cannot be read, or is not UTF-8, at whatever line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            yield text
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None


class Table:
    """A CSV, TSV or JSONL file: `columns`, and on every iteration its rows as texts.

    The delimiter of a CSV (comma, semicolon or tab) is derived from its header. Values of a JSONL file that are not
    texts stay what they are; its columns are the keys of its first row.

    Raises:
        SourceError: the file is missing, empty or not UTF-8.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_json = self.path.suffix.lower() in (".jsonl", ".ndjson", ".json")
        with _opened(self.path) as text:
            header = text.readline()
            if not header.strip():
                raise SourceError(f"{self.path}: is empty")
            if self.is_json:
                try:
                    self.columns = list(_object(header))
                except ValueError as error:
                    raise SourceError(
                        f"{self.path}, line 1: {error}; expected one JSON object a line"
                    ) from None
                return
        self.delimiter = max(DELIMITERS, key=header.count)
        self.columns = next(csv.reader([header], delimiter=self.delimiter))

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
        with _opened(self.path) as text:
            if self.is_json:
                return sum(1 for line in text if line.strip())
            return sum(1 for row in self._csv(text) if row) - 1

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """(row, values by column), or (row, what is wrong with it); a CSV's header is row 1.

        Raises:
            SourceError: the file cannot be read to its end.
        """
        with _opened(self.path) as text:
            if self.is_json:
                for number, line in enumerate(text, 1):
                    if line.strip():
                        try:
                            yield number, _object(line)
                        except ValueError as error:
                            yield number, str(error)
                return
            for number, row in enumerate(self._csv(text), 1):  # blank ones count, as in a spreadsheet
                if number == 1 or not row:
                    continue
                if len(row) != len(self.columns):
                    yield number, f"has {len(row)} fields, the header has {len(self.columns)}"
                else:
                    yield number, dict(zip(self.columns, row, strict=True))

    def _csv(self, text: TextIO) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_FIELD)
        # Strict: otherwise a quotation mark that is never closed would silently swallow all rows after it.
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        while True:
            begun = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise SourceError(
                    f"{self.path}, line {begun}: is not CSV from here on ({error}); "
                    'a text in quotation marks must be closed, and those inside it doubled ("")'
                ) from None
            if row is None:
                return
            yield row


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError:
        raise ValueError("is not JSON (nested too deep)") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    return row
