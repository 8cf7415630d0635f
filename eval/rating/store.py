"""The ratings of a run in one SQLite file: raters, the order of their sheets, and every answer they ever gave.

A sheet is one case under one arm. An answer is never changed: a newer one is appended and counts, so the file is its
own history. One form is one transaction, on disk before it is acknowledged (WAL, synchronous FULL). Several raters
and processes may write at once.
"""

from __future__ import annotations

import hashlib
import random
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from eval.rating import passwords
from eval.rating.ratings import FLAG, ITEMS, Rating, check
from skingpt4.records.blanks import is_blank
from skingpt4.server.access.logins import MAX_LENGTH
from skingpt4.support.errors import UserError
from skingpt4.support.files import now
from skingpt4.support.sqlite import WAIT_SECONDS, private_file, write_ahead

FILE, VERSION = "ratings.sqlite", 1
MIN_PASSWORD = 8
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
SCHEMA = f"""
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
);
PRAGMA user_version = {VERSION};
"""


class StoreError(UserError):
    """Ratings that cannot be read or saved; the message says why and what to do."""


class Sheet(NamedTuple):
    """A case under an arm, at a rater's place (from 0)."""

    place: int
    arm: str
    case_id: str


def clean(text: str) -> str:
    """Free text as it is saved: no outer spaces, nothing that a UTF-8 CSV cannot hold."""
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc").strip()


class Store:
    """The file of one run; every method opens it again, so it may be used from any thread."""

    def __init__(self, run_dir: Path | str) -> None:
        """Open the file, or make it.

        Raises:
            StoreError: locked, damaged, of another version, or not writable.
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
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version == 0 and tables == 0:
                    for statement in filter(str.strip, SCHEMA.split(";\n")):
                        connection.execute(statement)
                elif version != VERSION:
                    raise StoreError(
                        f"{self.path}: was not made by this version of eval.review; move it away"
                    )
                connection.execute("COMMIT")
                state = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if state != "ok":
                    raise sqlite3.DatabaseError(state)
            finally:
                connection.close()

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
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends."""
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

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._reported():
            connection = self._connect()
            try:
                return connection.execute(query, values).fetchall()
            finally:
                connection.close()

    # Raters

    def add_rater(self, name: str, password: str, replace: bool = False) -> None:
        """Add a rater, or (`replace`) give one a new password; only its Argon2id hash is stored.

        Raises:
            StoreError: a name or password that does not do, a rater who is there already, or is not.
        """
        if not NAME.fullmatch(name) or is_blank(name):
            raise StoreError(
                f"rater {name!r}: use up to 40 letters, digits, '.', '_' and '-', and no word for nothing (na, none)"
            )
        if not MIN_PASSWORD <= len(password) <= MAX_LENGTH:
            raise StoreError(f"the password of {name} needs {MIN_PASSWORD} to {MAX_LENGTH} characters")
        if (name in self.raters()) != replace:
            known = (
                "exists already; --new-password changes the password" if not replace else "does not exist yet"
            )
            raise StoreError(f"{self.path}: rater {name} {known}")
        with (
            self._transaction() as connection
        ):  # the hash holds its own salt; those from before Argon2 do not
            connection.execute(
                "INSERT OR REPLACE INTO rater VALUES (?, ?, ?, ?)",
                (name, b"", passwords.hashed(password), now()),
            )

    def raters(self) -> list[str]:
        """Names of all who can log in."""
        return [name for (name,) in self._rows("SELECT name FROM rater ORDER BY name")]

    def login(self, name: str, password: str) -> bool:
        """Whether the password is the rater's; an unknown name takes as long as a wrong password.

        A hash from before Argon2, or of another cost than today's, is replaced once the password is known.
        """
        rows = self._rows("SELECT salt, hash FROM rater WHERE name = ?", name)
        salt, stored = rows[0] if rows else (b"", passwords.nobodys_hash())
        if not passwords.matches(password, salt, stored):
            return False
        if passwords.is_outdated(salt, stored):
            with suppress(StoreError), self._transaction() as connection:  # it can wait for the next log-in
                values = (b"", passwords.hashed(password), name)
                connection.execute("UPDATE rater SET salt = ?, hash = ? WHERE name = ?", values)
        return True

    # Sheets

    def sheets(self, rater: str, arms: Sequence[str], cases: Sequence[str]) -> list[Sheet]:
        """The rater's sheets of these arms and cases in the order drawn for them, once and for all.

        Each round shows every case once, under an arm drawn for it, in a new order: so the arms are mixed, and a
        case comes back only in the next round. What a run gains later is put behind.
        """
        needed = {(arm, case) for arm in arms for case in cases}
        query = "SELECT place, arm, case_id FROM sheet WHERE rater = ? ORDER BY place"
        rows = self._rows(query, rater)
        if not needed <= {row[1:] for row in rows}:
            with self._transaction() as connection:
                there = connection.execute(query, (rater,)).fetchall()
                first = there[-1][0] + 1 if there else 0
                new = draw(rater, needed - {row[1:] for row in there})
                connection.executemany(
                    "INSERT INTO sheet VALUES (?, ?, ?, ?)",
                    [(rater, place, *pair) for place, pair in enumerate(new, first)],
                )
            rows = self._rows(query, rater)
        return [Sheet(*row) for row in rows if row[1:] in needed]

    def rated(self, rater: str) -> set[tuple[str, str]]:
        """(arm, case_id) of the rater's complete forms: all seven items and the flag."""
        needed = (*ITEMS, FLAG)
        marks = ", ".join("?" * len(needed))
        rows = self._rows(
            f"SELECT arm, case_id FROM newest WHERE rater = ? AND item IN ({marks}) "
            "GROUP BY arm, case_id HAVING count(*) = ?",
            rater, *needed, len(needed),
        )  # fmt: skip
        return {(arm, case) for arm, case in rows}

    def form(self, rater: str, arm: str, case_id: str) -> dict[str, str]:
        """The newest value of each item of a sheet."""
        return dict(
            self._rows(
                "SELECT item, value FROM newest WHERE rater = ? AND arm = ? AND case_id = ?",
                rater,
                arm,
                case_id,
            )
        )

    def own_diagnosis(self, rater: str, case_id: str) -> str | None:
        """What the rater wrote before the first text about the case was shown, under whichever arm that was."""
        rows = self._rows(
            "SELECT value FROM newest WHERE rater = ? AND case_id = ? AND item = 'own_diagnosis' ORDER BY id",
            rater, case_id,
        )  # fmt: skip
        return rows[0][0] if rows else None

    # Answers

    def save(
        self, rater: str, arm: str, case_id: str, values: Mapping[str, str], seconds: float
    ) -> list[Rating]:
        """Save a form (or the own diagnosis) in one transaction; it is on disk when this returns.

        An own diagnosis that is there already stays the only one, also if two pages save theirs at once.

        Raises:
            RatingsError: a value that does not fit its item; nothing is saved.
            StoreError: the file cannot be written.
        """
        time = now()
        rows = [
            check(Rating(arm, case_id, rater, item, clean(value), f"{seconds:.1f}", time), "the form")
            for item, value in values.items()
        ]
        with self._transaction() as connection:
            query = "SELECT 1 FROM answer WHERE rater = ? AND case_id = ? AND item = 'own_diagnosis'"
            if connection.execute(query, (rater, case_id)).fetchone():
                rows = [row for row in rows if row.item != "own_diagnosis"]
            _insert(connection, rows, "form")
        return rows

    def current(self) -> list[Rating]:
        """The newest answers of everybody, by rater and in the order they were given; empty comments left out."""
        rows = self._rows(
            "SELECT arm, case_id, rater, item, value, seconds, time FROM newest "
            "WHERE NOT (item = 'comment' AND value = '') ORDER BY rater, id"
        )
        return [Rating(*row) for row in rows]

    def add(self, rows: Sequence[Rating], overwrite: bool = False) -> int:
        """Import ratings, all or none; those that exist already are skipped.

        Returns:
            How many are new.

        Raises:
            StoreError: an answer exists with another value, and `overwrite` is not set.
        """
        with self._transaction() as connection:
            there = {
                tuple(key): value
                for *key, value in connection.execute("SELECT arm, case_id, rater, item, value FROM newest")
            }
            new = [r for r in rows if there.get((r.arm, r.case_id, r.rater, r.item)) != r.value]
            changed = [r for r in new if (r.arm, r.case_id, r.rater, r.item) in there]
            if changed and not overwrite:
                one = changed[0]
                raise StoreError(
                    f"{self.path}: {len(changed)} of the imported answers exist with another value, first: "
                    f"{one.rater}, case {one.case_id}, {one.item}; nothing was imported (--overwrite replaces them)"
                )
            _insert(connection, new, "import")
        return len(new)


def _insert(connection: sqlite3.Connection, rows: Iterable[Rating], source: str) -> None:
    connection.executemany(
        "INSERT INTO answer (source, arm, case_id, rater, item, value, seconds, time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(source, r.arm, r.case_id, r.rater, r.item, r.value, r.seconds, r.time) for r in rows],
    )


def draw(rater: str, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(arm, case_id) pairs in an order that depends on the rater and the pairs alone; see `Store.sheets`."""
    pairs = sorted(pairs)
    rng = random.Random(hashlib.sha256(repr((rater, pairs)).encode()).digest())
    arms: dict[str, list[str]] = {}
    for arm, case in pairs:
        arms.setdefault(case, []).append(arm)
    for names in arms.values():
        rng.shuffle(names)
    order: list[tuple[str, str]] = []
    while arms:
        cases = list(arms)
        rng.shuffle(cases)
        if order and order[-1][1] == cases[0]:  # no case twice running, where there is another
            cases.append(cases.pop(0))
        order += [(arms[case].pop(), case) for case in cases]
        arms = {case: names for case, names in arms.items() if names}
    return order
