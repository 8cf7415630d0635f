"""What a study asks for, and who agreed to take part: set with the form's options and stored beside the ratings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eval.rating.database import FILE, Database, StoreError
from skingpt4.support.files import now

NO_APPROVAL = "No approval number was given for this study."
CONSENT_TEXT = """
You are asked to rate texts that a computer program wrote about pictures of skin. The program is research software,
not a medical device. Its texts can be wrong, and they are not advice about your own skin.

What is recorded: your answers, how long you took for each form, and the name that you log in with. They are stored in
one file on the computer that serves this form, and nothing is sent to anybody else by this program.

Taking part is voluntary. You can stop at any time; what you have saved until then stays recorded. Some pictures show
diseased skin and may be unpleasant to look at.
""".strip()


@dataclass(frozen=True)
class Study:
    """The settings of a study.

    Attributes:
        approval: number under which an ethics board approved it; empty if none was given.
        consent: the text that raters agree to before their first case.
        urgency: whether raters say how soon somebody should be seen, before and after a text.
        own_answers: whether dermatologists answer the prompts themselves before they see a text.
        cover: whether pictures are covered until they are clicked.
    """

    approval: str = ""
    consent: str = CONSENT_TEXT
    urgency: bool = False
    own_answers: bool = False
    cover: bool = True


ASKED = ("urgency", "own_answers")  # what decides which answers a form needs


@dataclass(frozen=True)
class Consent:
    """That a rater agreed to take part, when, and to what."""

    rater: str
    role: str
    time: str
    approval: str
    text: str


def read_study(database: Database) -> Study:
    """The settings as they are now."""
    query = "SELECT name, value FROM setting ORDER BY id"
    values: dict[str, Any] = dict(database.rows(query))  # the newest of each name
    defaults = {field.name: field.default for field in fields(Study)}
    known = {name: value for name, value in values.items() if name in defaults}
    return Study(**{n: v == "yes" if isinstance(defaults[n], bool) else v for n, v in known.items()})


def change_study(database: Database, changes: Mapping[str, str | bool | None]) -> Study:
    """Change settings (None leaves one as it is) and return all of them.

    Raises:
        StoreError: raters have answered already, and what they are asked would change.
    """
    before = read_study(database)
    given = {n: v.strip() if isinstance(v, str) else v for n, v in changes.items() if v is not None}
    new = {name: value for name, value in given.items() if value != getattr(before, name)}
    changed = [name for name in ASKED if name in new]
    with database.transaction() as connection:
        if changed and connection.execute("SELECT 1 FROM answer LIMIT 1").fetchone():
            option = changed[0].replace("_", "-")
            raise StoreError(
                f"{database.path}: raters have answered already {'without' if new[changed[0]] else 'with'} "
                f"--{option}, and forms of two kinds are not mixed; use another run folder, or move this file away"
            )
        connection.executemany(
            "INSERT INTO setting (name, value, time) VALUES (?, ?, ?)",
            [(n, ("yes" if v else "no") if isinstance(v, bool) else v, now()) for n, v in new.items()],
        )
    return read_study(database)


def has_agreed(database: Database, rater: str, study: Study) -> bool:
    """Whether the rater agreed to this text under this approval number."""
    query = "SELECT 1 FROM consent WHERE rater = ? AND approval = ? AND text = ?"
    return bool(database.rows(query, rater, study.approval, study.consent))


def agree(database: Database, rater: str, study: Study) -> None:
    """Record that the rater agrees; a second time changes nothing."""
    add_consents(database, [Consent(rater, "", now(), study.approval, study.consent)])


def consents(database: Database) -> list[Consent]:
    """Who agreed, in order of time."""
    rows = database.rows(
        "SELECT consent.rater, coalesce(role.role, ''), consent.time, approval, text FROM consent "
        "LEFT JOIN role ON role.rater = consent.rater ORDER BY consent.time, id"
    )
    return [Consent(*row) for row in rows]


def participation(run_dir: Path, raters: Collection[str]) -> dict[str, Any]:
    """Under which approval people rated, and how many of some raters agreed to take part.

    Returns:
        `approvals` (numbers), `num_raters`, `num_agreed`, `texts` (that they agreed to); empty where the folder holds
        no file of a review.

    Raises:
        StoreError: that file cannot be read.
    """
    if not (run_dir / FILE).is_file():
        return {}
    database = Database(run_dir)
    agreed = [one for one in consents(database) if one.rater in raters]
    numbers = (read_study(database).approval, *(one.approval for one in agreed))
    return {
        "approvals": list(dict.fromkeys(filter(None, numbers))),
        "num_raters": len(raters),
        "num_agreed": len({one.rater for one in agreed}),
        "texts": list(dict.fromkeys(one.text for one in agreed)),
    }


def add_consents(database: Database, new: Iterable[Consent]) -> int:
    """Record consents, all or none; returns how many are new. A second one to the same is skipped."""
    query = "SELECT 1 FROM consent WHERE rater = ? AND approval = ? AND text = ?"
    count = 0
    with database.transaction() as connection:
        for one in new:
            if not connection.execute(query, (one.rater, one.approval, one.text)).fetchone():
                connection.execute(
                    "INSERT INTO consent (rater, time, approval, text) VALUES (?, ?, ?, ?)",
                    (one.rater, one.time, one.approval, one.text),
                )
                count += 1
    return count
