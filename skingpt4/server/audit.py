"""An audit log on this machine: who opened a case, asked, used a bad image anyway, exported or deleted, and when.

The log is one SQLite file for its owner (mode 0600). Triggers refuse to change or delete a line, and each line holds
the hash of the line before it, so `skingpt4 audit LOG` detects a removal that went around the triggers. It cannot
detect that somebody wrote the complete file again, or removed the newest lines together with SQLite's count of them.
To detect that too, note the newest hash, which the command prints, and pass it with --hash later.

The log never holds an image, and no free text (questions, answers, history) unless `free_text` is set.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError
from skingpt4.support.files import now
from skingpt4.support.locks import WAIT_SECONDS, private_file, write_ahead

VERSION = 1
START = "0" * 64  # what the first line names as the hash before it
# Facts that hold what people or a model wrote, or that name people; logged only with `free_text`.
FREE_TEXT = ("question", "answer", "prompt", "history", "note", "text", "name", "patient", "file")
MAX_TEXT = 200  # characters; enough for names from this software's own lists and for hashes
SCHEMA = (
    "CREATE TABLE line (id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, event TEXT NOT NULL, "
    "facts TEXT NOT NULL, before TEXT NOT NULL, hash TEXT NOT NULL UNIQUE)",
    "CREATE TRIGGER never_changed BEFORE UPDATE ON line BEGIN SELECT raise(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER never_deleted BEFORE DELETE ON line BEGIN SELECT raise(ABORT, 'the log is append-only'); END",
    f"PRAGMA user_version = {VERSION}",
)


class AuditError(UserError):
    """A log that cannot be written or is not complete; the message says why and what to do."""


@dataclass(frozen=True)
class Line:
    """One event. `facts` are JSON-able; `hash` is SHA-256 over everything else and over `before`."""

    id: int
    time: str
    event: str
    facts: dict[str, Any]
    before: str
    hash: str


def line_hash(number: int, time: str, event: str, facts: str, before: str) -> str:
    """SHA-256 (64 hex digits) of a line; `facts` as the text that is stored."""
    return hashlib.sha256(json.dumps([number, time, event, facts, before]).encode()).hexdigest()


def without_free_text(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they are logged by default: whatever could hold a sentence is replaced by its length."""
    logged: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            logged[key] = "left out" if key in FREE_TEXT else without_free_text(value)
        elif isinstance(value, list | tuple):
            rows = [without_free_text({key: item})[key] for item in value]
            logged[key] = "left out" if key in FREE_TEXT else rows
        elif isinstance(value, str) and (key in FREE_TEXT or len(value) > MAX_TEXT):
            logged[key] = f"{len(value)} characters, left out"
        else:
            logged[key] = value
    return logged


class AuditLog:
    """The log in one file. Every call opens the file, so any thread and several processes may use it."""

    def __init__(self, path: str | Path, free_text: bool = False) -> None:
        """Open the log, or create it.

        Args:
            path: of the SQLite file.
            free_text: also log questions, answers and history, which may identify a person.

        Raises:
            AuditError: not writable, damaged, or not such a log.
        """
        self.path, self.free_text = Path(path), free_text
        try:
            private_file(self.path)
        except OSError as error:
            raise AuditError(
                f"{self.path}: cannot be created ({error.strerror}); choose another place"
            ) from None
        with _as_audit_errors(self.path), closing(self._connect()) as connection:
            write_ahead(connection)
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0:
                for statement in SCHEMA:
                    connection.execute(statement)
            elif version != VERSION:
                raise AuditError(f"{self.path}: is not an audit log of this version; name another file")
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def append(self, event: str, **facts: Any) -> str:
        """Write one line. It is on disk when this returns.

        Args:
            event: a short name, e.g. "opened", "asked", "overridden", "exported", "deleted".
            facts: JSON-able; texts under a name of `FREE_TEXT`, or longer than `MAX_TEXT`, are left out by default.

        Returns:
            The line's hash.

        Raises:
            AuditError: bytes or a picture among the facts, or the file cannot be written.
        """
        try:
            text = json.dumps(
                facts if self.free_text else without_free_text(facts), ensure_ascii=False, sort_keys=True
            )
        except (TypeError, ValueError) as error:
            raise AuditError(f"the event {event!r} holds what an audit line cannot ({error})") from None
        with _as_audit_errors(self.path), closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            last = connection.execute("SELECT id, hash FROM line ORDER BY id DESC LIMIT 1").fetchone()
            number, before = (last[0] + 1, last[1]) if last else (1, START)
            row = (number, now(), event, text, before)
            connection.execute("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?)", (*row, line_hash(*row)))
            connection.execute("COMMIT")
        return line_hash(*row)


def read(path: str | Path) -> Iterator[Line]:
    """The lines of a log, oldest first; nothing is written.

    Raises:
        AuditError: no such file, or not a log.
    """
    for number, time, event, facts, before, own_hash in _rows(Path(path)):
        try:
            yield Line(number, time, event, json.loads(facts), before, own_hash)
        except (ValueError, RecursionError):
            raise AuditError(f"{path}: line {number} was changed after it was written") from None


def verify(path: str | Path) -> tuple[int, str]:
    """Check the chain of hashes.

    Returns:
        The number of lines and the newest hash (`START` for an empty log).

    Raises:
        AuditError: a line was changed, inserted or removed; the message says which.
    """
    expected, before = 1, START
    for number, time, event, facts, named, own_hash in _rows(Path(path)):
        if number != expected:
            missing = f"line {expected}" if number == expected + 1 else f"lines {expected} to {number - 1}"
            raise AuditError(f"{path}: {missing} of the log were removed")
        if named != before:
            raise AuditError(f"{path}: line {number} does not follow the one before it; a line was replaced")
        if line_hash(number, time, event, facts, named) != own_hash:
            raise AuditError(f"{path}: line {number} was changed after it was written")
        expected, before = number + 1, own_hash
    with _as_audit_errors(Path(path)), closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
        counted = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'line'").fetchone()
    newest = counted[0] if counted else 0  # SQLite counts what was ever written
    if newest >= expected:
        raise AuditError(f"{path}: the newest {newest - expected + 1} lines of the log were removed")
    if newest != expected - 1:
        raise AuditError(f"{path}: the count of the log's lines was changed, so its newest may be missing")
    return expected - 1, before


def _rows(path: Path) -> Iterator[tuple[int, str, str, str, str, str]]:
    if not path.is_file():
        raise AuditError(f"{path}: no such audit log")
    with _as_audit_errors(path), closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
        query = "SELECT id, time, event, facts, before, hash FROM line ORDER BY id"
        for number, *texts in connection.execute(query):
            if not all(isinstance(text, str) for text in texts):  # SQLite's columns take values of every type
                raise AuditError(f"{path}: line {number} was changed after it was written")
            yield number, *texts


@contextmanager
def _as_audit_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise AuditError(f"{path}: cannot be used as an audit log ({error})") from None
    except sqlite3.DatabaseError as error:
        raise AuditError(f"{path}: is damaged or not an audit log ({error}); move it away") from None
