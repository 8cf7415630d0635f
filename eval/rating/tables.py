"""The other tables of a review as CSV: the raters' own answers as an arm, their consents, and a list of raters."""

from __future__ import annotations

from dataclasses import astuple, fields
from pathlib import Path

from data.reading.rows import SourceError
from data.reading.tables import Table
from eval.rating.questionnaire import ROLES, own_answer_number
from eval.rating.ratings import RatingsError, check_role, one_role, read_cells, role_in
from eval.rating.store import Store
from eval.rating.study import Consent, consents
from skingpt4.support.spreadsheets import csv_text

CONSENT_COLUMNS = tuple(field.name for field in fields(Consent))
OWN_ANSWER_COLUMNS = ("case_id", "turn", "text", "seconds", "rater", "role")


def own_answers_csv(store: Store) -> tuple[str, int]:
    """What raters answered to the prompts in their own words, as `eval.add import` reads it; and how many answers."""
    rows = [
        (rating.case_id, number, rating.value, rating.seconds, rating.rater, rating.role)
        for rating in store.current()
        if (number := own_answer_number(rating.item)) and rating.value
    ]
    return csv_text(OWN_ANSWER_COLUMNS, sorted(rows, key=lambda row: (row[4], row[0], row[1]))), len(rows)


def consents_csv(store: Store) -> tuple[str, int]:
    """Who agreed to take part, when, to which text and under which number; and how many lines."""
    rows = [astuple(one) for one in consents(store)]
    return csv_text(CONSENT_COLUMNS, rows), len(rows)


def holds_consents(path: Path) -> bool:
    """Whether a table is one of consents.

    Raises:
        RatingsError: it cannot be read.
    """
    try:
        columns = Table(path).columns
    except SourceError as error:
        raise RatingsError(str(error)) from None
    return "item" not in columns and {"rater", "approval", "text"} <= set(columns)


def read_consents(path: Path, roles: dict[str, str]) -> list[Consent]:
    """Consents of a table; `roles` are those of raters that are known already.

    Raises:
        RatingsError: a row without rater or time, an unknown role, or a rater with two roles; names the row.
    """
    rows = []
    for number, cells in read_cells(path, CONSENT_COLUMNS):
        where = f"{path}, row {number}"
        if not (cells["rater"] and cells["time"]):
            raise RatingsError(f"{where}: rater and time must not be empty")
        rows.append((number, Consent(**{**cells, "role": check_role(role_in(cells["role"]), where)})))
    one_role(((number, one.rater, one.role) for number, one in rows), roles, path)
    return [one for _, one in rows]


def read_raters(path: Path, roles: dict[str, str]) -> dict[str, str]:
    """Name and role of each rater of a table with the columns rater and role.

    Raises:
        RatingsError: no or an unknown role, or a rater with two; names the row.
    """
    rows = []
    for number, cells in read_cells(path, ("rater", "role")):
        where = f"{path}, row {number}"
        role = check_role(role_in(cells["role"]), where)
        if not (role and cells["rater"]):
            raise RatingsError(
                f"{where}: rater and role must not be empty; a role is one of {', '.join(ROLES)}"
            )
        rows.append((number, cells["rater"], role))
    if not rows:
        raise RatingsError(f"{path}: names no rater")
    by_rater = one_role(rows, roles, path)
    return {rater: by_rater[rater] for _, rater, _ in rows}
