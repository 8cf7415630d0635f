"""The SQLite file of a run's ratings: opened, brought up to date, and written to all or nothing.

Nothing in it is changed: what is newer is appended and counts, so the file is its own history. A transaction is on
disk before it is acknowledged (WAL, synchronous FULL). Several raters and processes may write at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skingpt4.support.errors import UserError
from skingpt4.support.locks import WAIT_SECONDS, private_file, write_ahead

FILE, VERSION = "ratings.sqlite", 2
SCHEMA_1 = """
CREATE TABLE rater (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL, time TEXT NOT NULL);
CREATE TABLE sheet (
    rater TEXT NOT NULL, place INTEGER NOT NULL, arm TEXT NOT NULL, case_id TEXT NOT NULL,
    PRIMARY KEY (rater, place), UNIQUE (rater, arm, case_id)
);
CREATE TABLE answer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL,
    arm TEXT NOT NULL, case_id TEXT NOT NULL, rater TEXT NOT NULL, item TEXT NOT NULL, value TEXT NOT NULL,
    seconds TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX answer_key ON answer (rater, case_id, arm, item, id);
CREATE VIEW newest AS SELECT * FROM answer WHERE id IN (
    SELECT max(id) FROM answer GROUP BY rater, case_id, arm, item
)"""
# Since version 2: who the raters are, what the study asks for, and who agreed to take part.
SCHEMA_2 = """
CREATE TABLE role (rater TEXT PRIMARY KEY, role TEXT NOT NULL, time TEXT NOT NULL);
CREATE TABLE setting (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, value TEXT NOT NULL, time TEXT NOT NULL
);
CREATE TABLE consent (
    id INTEGER PRIMARY KEY AUTOINCREMENT, rater TEXT NOT NULL, time TEXT NOT NULL, approval TEXT NOT NULL,
    text TEXT NOT NULL
)"""


class StoreError(UserError):
    """Ratings that cannot be read or saved; the message says why and what to do."""


class Database:
    """The file of one run; every call opens it again, so it may be used from any thread."""

    def __init__(self, run_dir: Path | str) -> None:
        """Open the file, or make it; one of an older version gets the tables it lacks.

        Raises:
            StoreError: locked, damaged, of a newer version, or not writable.
        """
        self.path = Path(run_dir) / FILE
        try:
            private_file(self.path)  # it holds what people wrote
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be made ({error.strerror})") from None
        with self._reported():
            connection = self._connect()
            try:
                write_ahead(connection)
                connection.execute("BEGIN IMMEDIATE")
                self._bring_up_to_date(connection)
                connection.execute("COMMIT")
                state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
            finally:
                connection.close()

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version > VERSION or (version == 0 and tables):
            raise StoreError(f"{self.path}: was not made by this version of eval.review; move it away")
        for schema in (SCHEMA_1, SCHEMA_2)[version:]:
            for statement in schema.split(";\n"):
                connection.execute(statement)
        if version < VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                why = "is held by another program; end that one (or an SQLite browser), then go on"
            else:
                why = f"cannot be used ({error}); look at the disk's space and the folder's rights"
            raise StoreError(f"{self.path}: {why}") from None
        except sqlite3.DatabaseError as error:
            why = " ".join(str(error).split())
            raise StoreError(
                f"{self.path}: is damaged ({why}); move it away together with {FILE}-wal and {FILE}-shm "
                "and bring the last export back with --import"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends.

        Raises:
            StoreError: the file cannot be written.
        """
        with self._reported():
            connection = self._connect()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                connection.close()

    def rows(self, query: str, *values: object) -> list[tuple]:
        """All rows of a query.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._reported():
            connection = self._connect()
            try:
                return connection.execute(query, values).fetchall()
            finally:
                connection.close()
