"""What raters do, in the file of `eval.rating.database`: log in, go through their sheets, and answer.

A sheet is one case under one arm. An answer is never changed: a newer one is appended and counts. One form is one
transaction.
"""

from __future__ import annotations

import hashlib
import random
import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eval.rating.database import Database, StoreError
from eval.rating.questionnaire import ROLES, UNKNOWN_ROLE, is_own
from eval.rating.ratings import Rating, check
from skingpt4.records.blanks import is_blank
from skingpt4.server.access import passwords
from skingpt4.server.access.logins import MAX_LENGTH
from skingpt4.support.files import now

MIN_PASSWORD = 8
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
ORDERS = "orders"  # the setting that holds the secret of `Store.sheets`


class Sheet(NamedTuple):
    """A case under an arm, at a rater's place (from 0)."""

    place: int
    arm: str
    case_id: str


def clean(text: str) -> str:
    """Free text as it is saved: no outer spaces, nothing that a UTF-8 CSV cannot hold."""
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc").strip()


def check_name(name: str) -> None:
    """Refuse a name that raters cannot have.

    Raises:
        StoreError: says what a name may be.
    """
    if not NAME.fullmatch(name) or is_blank(name):
        raise StoreError(
            f"rater {name!r}: use up to 40 letters, digits, '.', '_' and '-', and no word for nothing (na, none)"
        )


class Store(Database):
    """The ratings of one run."""

    # Raters

    def add_rater(self, name: str, password: str, replace: bool = False, role: str = UNKNOWN_ROLE) -> None:
        """Add a rater, or (`replace`) give one a new password; only its Argon2id hash is stored.

        Raises:
            StoreError: a name, password or role that does not do, a rater who is there already, or is not.
        """
        check_name(name)
        if not MIN_PASSWORD <= len(password) <= MAX_LENGTH:
            raise StoreError(f"the password of {name} needs {MIN_PASSWORD} to {MAX_LENGTH} characters")
        if (name in self.raters()) != replace:
            known = (
                "exists already; --new-password changes the password" if not replace else "does not exist yet"
            )
            raise StoreError(f"{self.path}: rater {name} {known}")
        with self.transaction() as connection:
            _set_roles(connection, {name: role}, self.path)
            # The hash holds its own salt; those from before Argon2 do not.
            connection.execute(
                "INSERT OR REPLACE INTO rater VALUES (?, ?, ?, ?)",
                (name, b"", passwords.hashed(password), now()),
            )

    def raters(self) -> list[str]:
        """Names of all who can log in."""
        return [name for (name,) in self.rows("SELECT name FROM rater ORDER BY name")]

    def roles(self) -> dict[str, str]:
        """Role of each rater of whom it is known, also of those whose ratings were imported."""
        return dict(self.rows("SELECT rater, role FROM role ORDER BY rater"))

    def set_roles(self, roles: Mapping[str, str]) -> None:
        """Store raters' roles, all or none; a role is chosen once.

        Raises:
            StoreError: a role that does not exist, or a rater who has another one.
        """
        with self.transaction() as connection:
            _set_roles(connection, roles, self.path)

    def login(self, name: str, password: str) -> bool:
        """Whether the password is the rater's; an unknown name takes as long as a wrong password.

        A hash from before Argon2, or of another cost than today's, is replaced once the password is known.
        """
        rows = self.rows("SELECT salt, hash FROM rater WHERE name = ?", name)
        salt, stored = rows[0] if rows else (b"", passwords.nobodys_hash())
        if not passwords.matches(password, salt, stored):
            return False
        if passwords.is_outdated(salt, stored):
            with suppress(StoreError), self.transaction() as connection:  # it can wait for the next log-in
                values = (b"", passwords.hashed(password), name)
                connection.execute("UPDATE rater SET salt = ?, hash = ? WHERE name = ?", values)
        return True

    # Sheets

    def sheets(self, rater: str, arms: Sequence[str], cases: Sequence[str]) -> list[Sheet]:
        """The rater's sheets of these arms and cases in the order drawn for them, once and for all.

        Each round shows every case once, under an arm drawn for it, in a new order: so the arms are mixed, and a
        case comes back only in the next round. What a run gains later is put behind.

        Nobody can work out an order: a secret of this file decides it. A rater who knows the names of the cases and
        arms would otherwise know which arm wrote each text.
        """
        needed = {(arm, case) for arm in arms for case in cases}
        query = "SELECT place, arm, case_id FROM sheet WHERE rater = ? ORDER BY place"
        rows = self.rows(query, rater)
        if not needed <= {row[1:] for row in rows}:
            with self.transaction() as connection:
                there = connection.execute(query, (rater,)).fetchall()
                first = there[-1][0] + 1 if there else 0
                new = draw(rater, needed - {row[1:] for row in there}, _secret(connection))
                connection.executemany(
                    "INSERT INTO sheet VALUES (?, ?, ?, ?)",
                    [(rater, place, *pair) for place, pair in enumerate(new, first)],
                )
            rows = self.rows(query, rater)
        return [Sheet(*row) for row in rows if row[1:] in needed]

    def rated(self, rater: str, needed: Sequence[str]) -> set[tuple[str, str]]:
        """(arm, case_id) of the rater's complete forms, in which all `needed` items are answered."""
        marks = ", ".join("?" * len(needed))
        rows = self.rows(
            f"SELECT arm, case_id FROM newest WHERE rater = ? AND item IN ({marks}) "
            "GROUP BY arm, case_id HAVING count(*) = ?",
            rater, *needed, len(needed),
        )  # fmt: skip
        return {(arm, case) for arm, case in rows}

    def form(self, rater: str, arm: str, case_id: str) -> dict[str, str]:
        """The newest value of each item of a sheet."""
        return dict(
            self.rows(
                "SELECT item, value FROM newest WHERE rater = ? AND arm = ? AND case_id = ?",
                rater,
                arm,
                case_id,
            )
        )

    def own(self, rater: str, case_id: str) -> dict[str, str]:
        """What the rater answered before the first text about the case was shown, under whichever arm that was."""
        rows = self.rows(
            "SELECT item, value FROM newest WHERE rater = ? AND case_id = ? ORDER BY id DESC", rater, case_id
        )
        return {item: value for item, value in rows if is_own(item)}  # of two, the older one

    # Answers

    def save(self, rater: str, arm: str, case_id: str, values: Mapping[str, str], seconds: float) -> None:
        """Save a form, or what comes before it, in one transaction; it is on disk when this returns.

        What was answered before the first text stays as it is, also if two pages save theirs at once.

        Raises:
            RatingsError: a value that does not fit its item; nothing is saved.
            StoreError: the file cannot be written.
        """
        time = now()
        rows = [
            check(Rating(arm, case_id, rater, item, clean(value), f"{seconds:.1f}", time), "the form")
            for item, value in values.items()
        ]
        with self.transaction() as connection:
            query = "SELECT DISTINCT item FROM answer WHERE rater = ? AND case_id = ?"
            there = {item for (item,) in connection.execute(query, (rater, case_id)) if is_own(item)}
            rows = [row for row in rows if row.item not in there]
            _insert(connection, rows, "form")

    def current(self) -> list[Rating]:
        """The newest answers of everybody, by rater and in the order they were given; empty comments left out."""
        rows = self.rows(
            "SELECT arm, case_id, newest.rater, item, value, seconds, newest.time, coalesce(role.role, '') "
            "FROM newest LEFT JOIN role ON role.rater = newest.rater "
            "WHERE NOT (item = 'comment' AND value = '') ORDER BY newest.rater, id"
        )
        return [Rating(*row) for row in rows]

    def add(self, rows: Sequence[Rating], overwrite: bool = False) -> int:
        """Import ratings with their raters' roles, all or none; those that exist already are skipped.

        Returns:
            How many are new.

        Raises:
            StoreError: an answer exists with another value, and `overwrite` is not set; or a rater has another role.
        """
        with self.transaction() as connection:
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
            _set_roles(connection, {r.rater: r.role for r in rows}, self.path)
            _insert(connection, new, "import")
        return len(new)


def _set_roles(connection: sqlite3.Connection, roles: Mapping[str, str], path: Path) -> None:
    there = dict(connection.execute("SELECT rater, role FROM role"))
    for rater, role in roles.items():
        if role not in (*ROLES, UNKNOWN_ROLE):
            raise StoreError(f"{path}: {role!r} is not a role; the roles are {', '.join(ROLES)}")
        if role and there.get(rater, role) != role:
            raise StoreError(
                f"{path}: the role of {rater} is {there[rater]} and does not change; "
                f"add a rater of another name as {role}"
            )
        if role and rater not in there:
            connection.execute("INSERT INTO role VALUES (?, ?, ?)", (rater, role, now()))


def _insert(connection: sqlite3.Connection, rows: Iterable[Rating], source: str) -> None:
    connection.executemany(
        "INSERT INTO answer (source, arm, case_id, rater, item, value, seconds, time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(source, r.arm, r.case_id, r.rater, r.item, r.value, r.seconds, r.time) for r in rows],
    )


def _secret(connection: sqlite3.Connection) -> str:
    """What decides the orders of this file; drawn once."""
    query = "SELECT value FROM setting WHERE name = ? ORDER BY id LIMIT 1"
    found = connection.execute(query, (ORDERS,)).fetchone()
    if found:
        return str(found[0])
    secret = secrets.token_hex(32)
    connection.execute("INSERT INTO setting (name, value, time) VALUES (?, ?, ?)", (ORDERS, secret, now()))
    return secret


def draw(rater: str, pairs: Iterable[tuple[str, str]], secret: str) -> list[tuple[str, str]]:
    """(arm, case_id) pairs in an order that depends on the arguments alone; see `Store.sheets`."""
    pairs = sorted(pairs)
    rng = random.Random(hashlib.sha256(repr((rater, pairs, secret)).encode()).digest())
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
