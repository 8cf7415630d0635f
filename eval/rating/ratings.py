"""Dermatologists' ratings: the seven published items on the five-point scale, as a long CSV.

One line is one rater's answer to one item about one case under one arm:

    arm,case_id,rater,item,value,seconds,time
    two_step,case-0007,r1,diagnosis,4,12.5,2026-11-23T10:00:00Z

`value` is 1 (strongly disagree) to 5 (strongly agree) for the seven items, 0 or 1 for `hallucination`, and free
text for `own_diagnosis` (asked before the model's text is shown) and `comment`. `seconds` may be empty. Whatever
`data.reading` reads as a table will do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from data.reading.rows import RowError, SourceError
from data.reading.tables import Table
from data.reading.values import as_text, whole_number
from skingpt4.records.blanks import text_or_none
from skingpt4.support.errors import UserError
from skingpt4.support.spreadsheets import csv_text, original

# The statements of the published questionnaire, for a model whose name is not shown.
ITEMS: dict[str, str] = {
    "diagnosis": "The diagnosis is correct or relevant.",
    "description": "The description is informative.",
    "suggestions": "The suggestions are useful.",
    "helps_doctors": "It can help doctors with diagnosis.",
    "helps_patients": "It can help patients to understand their disease better.",
    "privacy": "If it can be deployed locally, it protects patients' privacy.",
    "willingness": "I would be willing to use it.",
}
SCALE: dict[int, str] = {
    5: "strongly agree", 4: "agree", 3: "neutral", 2: "disagree", 1: "strongly disagree",
}  # fmt: skip
AGREE = (4, 5)  # what the paper counts as agreement
FLAG, TEXTS = "hallucination", ("own_diagnosis", "comment")

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

    @property
    def number(self) -> int:
        """The value of one of ITEMS (1 to 5) or of the flag (0 or 1)."""
        return int(self.value)


COLUMNS = tuple(field.name for field in fields(Rating))


def check(rating: Rating, where: str) -> Rating:
    """The rating itself if its item and value fit.

    Raises:
        RatingsError: names what does not.
    """
    if not (rating.arm and rating.case_id and rating.rater):
        raise RatingsError(f"{where}: arm, case_id and rater must not be empty")
    if rating.item in ITEMS:
        allowed = [str(number) for number in sorted(SCALE)]
    elif rating.item == FLAG:
        allowed = ["0", "1"]
    elif rating.item in TEXTS:
        return rating
    else:
        raise RatingsError(
            f"{where}: {rating.item!r} is not an item; there are {', '.join([*ITEMS, FLAG, *TEXTS])}"
        )
    if rating.value not in allowed:
        raise RatingsError(
            f"{where}: {rating.item} is {rating.value!r}; it must be one of {', '.join(allowed)}"
        )
    return rating


def read_ratings(path: str | Path) -> list[Rating]:
    """Ratings of a long table (CSV, JSONL or workbook); columns may stand in any order, others are ignored.

    4.0 and 4,0 are 4, and a comment that says nothing is left out. An own diagnosis stays as it is, since "not known"
    is one.

    Raises:
        RatingsError: missing file, missing column, a wrong line, or an answer given twice.
    """
    needed = COLUMNS[:5]
    try:
        table = Table(path)
        missing = [name for name in needed if name not in table.columns]
        if missing:
            raise RatingsError(f"{path}: has no column {', '.join(missing)}; it needs {', '.join(needed)}")
        rows = [_rating(cells, f"{path}, row {number}") for number, cells in table]
    except SourceError as error:
        raise RatingsError(str(error)) from None
    ratings = [rating for rating in rows if rating.value or rating.item != "comment"]
    if len(ratings) < len(rows):
        logger.info(
            "%s: comments that say nothing (nan, -, ...), left out: %d", path, len(rows) - len(ratings)
        )
    seen: set[tuple[str, ...]] = set()
    for rating in ratings:
        key = (rating.arm, rating.case_id, rating.rater, rating.item)
        if key in seen:
            raise RatingsError(
                f"{path}: {rating.rater} answers {rating.item} twice for case {rating.case_id}"
            )
        seen.add(key)
    if not ratings:
        raise RatingsError(f"{path}: holds no ratings")
    return ratings


def _rating(cells: dict[str, Any] | str, where: str) -> Rating:
    if isinstance(cells, str):
        raise RatingsError(f"{where}: {cells}")
    try:
        values = {name: original(as_text(name, cells.get(name))).strip() for name in COLUMNS}
    except RowError as error:
        raise RatingsError(f"{where}: {error}") from None
    for name in ("case_id", "rater", "seconds", "time"):
        values[name] = text_or_none(values[name]) or ""
    values["seconds"] = values["seconds"].replace(",", ".")
    if values["item"] == "comment":
        values["value"] = text_or_none(values["value"]) or ""
    elif values["item"] not in TEXTS and (number := whole_number(values["value"])) is not None:
        values["value"] = str(number)
    return check(Rating(**values), where)


def write_csv(ratings: Iterable[Rating], path: str | Path) -> None:
    """Write the long CSV, in which no text is a formula; `read_ratings` gives the same ratings back."""
    Path(path).write_text(csv_text(COLUMNS, map(astuple, ratings)), encoding="utf-8", newline="")
