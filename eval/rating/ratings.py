"""People's ratings as a long CSV: the published items on the five-point scale, urgency, and texts of their own.

One line is one rater's answer to one item about one case under one arm:

    arm,case_id,rater,item,value,seconds,time,role
    two_step,case-0007,r1,diagnosis,4,12.5,2026-11-23T10:00:00Z,dermatologist

`value` is 1 (strongly disagree) to 5 (strongly agree) for the seven items, 0 or 1 for `hallucination`, one of
self-care, routine, soon and today for `own_urgency` (asked before the model's text is shown) and `urgency`, and free
text for `own_diagnosis` and `own_answer_1` ... (asked before it, too) and `comment`. `seconds` may be empty, and so
may `role` (dermatologist, physician, lay), which files from before roles do not have. Whatever `data.reading` reads
as a table will do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from data.reading.rows import RowError, SourceError
from data.reading.tables import Table
from data.reading.values import as_text, whole_number
from eval.asking.urgency import URGENCY
from eval.rating.questionnaire import (
    COMMENT,
    FLAG,
    ITEMS,
    OWN_ANSWER,
    OWN_DIAGNOSIS,
    OWN_URGENCY,
    ROLES,
    SCALE,
    UNKNOWN_ROLE,
    URGENCY_ITEM,
    is_text,
    is_urgency,
)
from skingpt4.records.blanks import text_or_none
from skingpt4.support.errors import UserError
from skingpt4.support.spreadsheets import csv_text, original

logger = logging.getLogger(__name__)


class RatingsError(UserError):
    """A table of ratings that cannot be used; the message names row and reason."""


@dataclass(frozen=True)
class Rating:
    """One answer; see the module's text for the columns."""

    arm: str
    case_id: str
    rater: str
    item: str
    value: str
    seconds: str = ""
    time: str = ""
    role: str = UNKNOWN_ROLE

    @property
    def number(self) -> int:
        """The value of one of ITEMS (1 to 5), of the flag (0 or 1), or of an urgency (0, self-care, to 3, today)."""
        return URGENCY.index(self.value) if is_urgency(self.item) else int(self.value)


COLUMNS = tuple(field.name for field in fields(Rating))
NEEDED = COLUMNS[:5]
NAMES = (*ITEMS, FLAG, OWN_URGENCY, URGENCY_ITEM, OWN_DIAGNOSIS, OWN_ANSWER.format("1"), COMMENT)


def check(rating: Rating, where: str) -> Rating:
    """The rating itself if its item, value and role fit.

    Raises:
        RatingsError: names what does not.
    """
    if not (rating.arm and rating.case_id and rating.rater):
        raise RatingsError(f"{where}: arm, case_id and rater must not be empty")
    check_role(rating.role, where)
    allowed: Sequence[str]
    if rating.item in ITEMS:
        allowed = [str(number) for number in sorted(SCALE)]
    elif rating.item == FLAG:
        allowed = ["0", "1"]
    elif is_urgency(rating.item):
        allowed = URGENCY
    elif is_text(rating.item):
        return rating
    else:
        raise RatingsError(f"{where}: {rating.item!r} is not an item; there are {', '.join(NAMES)}")
    if rating.value not in allowed:
        raise RatingsError(
            f"{where}: {rating.item} is {rating.value!r}; it must be one of {', '.join(allowed)}"
        )
    return rating


def read_cells(
    path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of each row of a table (CSV, JSONL or workbook) as texts; other columns are ignored.

    Raises:
        RatingsError: missing file, missing column, or a row that is not one.
    """
    try:
        table = Table(path)
        missing = [name for name in needed if name not in table.columns]
        if missing:
            raise RatingsError(f"{path}: has no column {', '.join(missing)}; it needs {', '.join(needed)}")
        for number, cells in table:
            if isinstance(cells, str):
                raise RatingsError(f"{path}, row {number}: {cells}")
            try:
                yield (
                    number,
                    {name: original(as_text(name, cells.get(name))).strip() for name in (*needed, *optional)},
                )
            except RowError as error:
                raise RatingsError(f"{path}, row {number}: {error}") from None
    except SourceError as error:
        raise RatingsError(str(error)) from None


def check_role(role: str, where: str) -> str:
    """The role itself if there is such a one, or if it is not known.

    Raises:
        RatingsError: names it.
    """
    if role not in (*ROLES, UNKNOWN_ROLE):
        raise RatingsError(f"{where}: role is {role!r}; it must be one of {', '.join(ROLES)}, or empty")
    return role


def role_in(text: str) -> str:
    """The role that a cell names, by its short or long name; other texts as they are, for `check`."""
    word = (text_or_none(text) or UNKNOWN_ROLE).casefold()
    return next((role for role, words in ROLES.items() if word in (role, words)), word)


def one_role(rows: Iterable[tuple[int, str, str]], known: dict[str, str], path: str | Path) -> dict[str, str]:
    """The role of each rater of a table; empty where no row says it.

    Args:
        rows: (number of the row, rater, role).
        known: roles of raters that are stored already.
        path: of the table.

    Raises:
        RatingsError: a rater has two roles, or another one than is stored; names the row.
    """
    roles: dict[str, str] = dict(known)
    for number, rater, role in rows:
        before = roles.get(rater) or UNKNOWN_ROLE
        if role and before and role != before:
            whence = "is stored as" if known.get(rater) else "is in an earlier row"
            raise RatingsError(
                f"{path}, row {number}: the role of {rater} is {role}, who {whence} {before}; a rater has one role"
            )
        roles[rater] = before or role
    return roles


def read_ratings(path: str | Path) -> list[Rating]:
    """Ratings of a long table; columns may stand in any order.

    4.0 and 4,0 are 4, and a comment that says nothing is left out. An own diagnosis stays as it is, since "not known"
    is one. A rater has the role that any of their rows names.

    Raises:
        RatingsError: missing file, missing column, a wrong line, or an answer given twice.
    """
    return [rating for _, rating in numbered_ratings(path)]


def numbered_ratings(path: str | Path, roles: dict[str, str] | None = None) -> list[tuple[int, Rating]]:
    """`read_ratings` with the number of each row; `roles` are those of raters that are known already."""
    cells = read_cells(path, NEEDED, COLUMNS[len(NEEDED) :])
    rows = [(number, _rating(values, f"{path}, row {number}")) for number, values in cells]
    ratings = [(number, rating) for number, rating in rows if rating.value or rating.item != COMMENT]
    if len(ratings) < len(rows):
        logger.info(
            "%s: comments that say nothing (nan, -, ...), left out: %d", path, len(rows) - len(ratings)
        )
    by_rater = one_role(((number, r.rater, r.role) for number, r in ratings), roles or {}, path)
    seen: set[tuple[str, ...]] = set()
    for number, rating in ratings:
        key = (rating.arm, rating.case_id, rating.rater, rating.item)
        if key in seen:
            raise RatingsError(
                f"{path}, row {number}: {rating.rater} answers {rating.item} twice for case {rating.case_id}"
            )
        seen.add(key)
    if not ratings:
        raise RatingsError(f"{path}: holds no ratings")
    return [(number, replace(rating, role=by_rater[rating.rater])) for number, rating in ratings]


def _rating(values: dict[str, str], where: str) -> Rating:
    for name in ("case_id", "rater", "seconds", "time"):
        values[name] = text_or_none(values[name]) or ""
    values["seconds"] = values["seconds"].replace(",", ".")
    values["role"] = role_in(values["role"])
    if values["item"] == COMMENT:
        values["value"] = text_or_none(values["value"]) or ""
    elif is_urgency(values["item"]):
        values["value"] = values["value"].casefold()
    elif not is_text(values["item"]) and (number := whole_number(values["value"])) is not None:
        values["value"] = str(number)
    return check(Rating(**values), where)


def ratings_csv(ratings: Iterable[Rating]) -> str:
    """The long CSV, in which no text is a formula; `read_ratings` gives the same ratings back."""
    return csv_text(COLUMNS, map(astuple, ratings))


def write_csv(ratings: Iterable[Rating], path: str | Path) -> None:
    """Write the long CSV."""
    Path(path).write_text(ratings_csv(ratings), encoding="utf-8", newline="")
