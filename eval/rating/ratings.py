"""Dermatologists' ratings: the seven published items on the five-point scale, as a long CSV.

One line is one rater's answer to one item about one case under one arm:

    arm,case_id,rater,item,value,seconds,time
    two_step,case-0007,r1,diagnosis,4,12.5,2026-11-23T10:00:00Z

`value` is 1 (strongly disagree) to 5 (strongly agree) for the seven items, 0 or 1 for `hallucination`, and free
text for `own_diagnosis` (asked before the model's text is shown) and `comment`. `seconds` may be empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from skingpt4.support.errors import UserError, reason_of

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


class RatingsError(UserError):
    """A CSV of ratings that cannot be used; the message names line and reason."""


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


def read_csv(path: str | Path) -> list[Rating]:
    """Ratings of a long CSV; columns may stand in any order, others are ignored.

    Raises:
        RatingsError: missing file, missing column, a wrong line, or an answer given twice.
    """
    needed = COLUMNS[:5]
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise RatingsError(
                    f"{path}: has no column {', '.join(missing)}; it needs {', '.join(needed)}"
                )
            ratings = [
                check(
                    Rating(**{name: (row.get(name) or "").strip() for name in COLUMNS}),
                    f"{path}, line {reader.line_num}",
                )
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RatingsError(f"{path}: cannot be read ({reason_of(error)})") from None
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


def write_csv(ratings: Iterable[Rating], path: str | Path) -> None:
    """Write the long CSV."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(rating) for rating in ratings)
