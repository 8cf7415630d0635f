"""Imported answers: what one is, how a set of them is checked, and the lines of an arm that they become."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.arms.questions import probes_of, read_answer
from eval.arms.respondent import FREE_TEXT, IMPORTED, LIST
from eval.asking.answers import Answer, Key
from eval.asking.cases import Case
from eval.asking.classes import options_of
from eval.tasks import Task
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.support.errors import UserError
from skingpt4.taxonomy.taxonomy import nearest

TURN, CONCEPTS, DIAGNOSIS, LISTED, SCORES = "turn", "concepts", "class", "listed", "scores"
FLOOR = 1e-12  # the probability that one of 0 is read as
MAX_TURN = 50


class ImportingError(UserError):
    """Answers that cannot be imported; the message names the file, the row and what to do."""


@dataclass(frozen=True)
class Row:
    """One answer, or the scores of a closed set.

    `where` is the file and row, for messages; `what` one of the five above, `number` that of a turn (from 1) and
    `repeat` from 0. `scores` are log-probabilities by class. None is not known; `text` None with seconds is an
    answer of which only the time is known.
    """

    where: str
    case_id: str
    what: str
    number: int = 0
    repeat: int = 0
    text: str | None = None
    question: str | None = None
    seconds: float | None = None
    seconds_to_first_token: float | None = None
    num_tokens: int | None = None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """An arm's lines in the order of the cases, and what its meta file says of them."""

    lines: list[Answer]
    meta: dict[str, Any]
    num_repeats: int
    notes: list[str]


def read_turn(text: str, where: str) -> tuple[str, int]:
    """(what, number) of a word in the column of turns.

    Raises:
        ImportingError: it is neither a number nor one of the words.
    """
    words = {"concepts": CONCEPTS, "diagnosis": DIAGNOSIS, "list": LISTED, "scores": SCORES}
    word = text.strip().casefold()
    number = word.removesuffix(".0")  # of a spreadsheet
    if number.isdecimal() and number.isascii() and 1 <= int(number) <= MAX_TURN:
        return TURN, int(number)
    if word not in words:
        raise ImportingError(
            f"{where}: the turn is {text[:40]!r}; write 1 to {MAX_TURN} (of the conversation) or {', '.join(words)}"
        )
    return words[word], 0


def log_scores(values: Mapping[str, Any], kind: str | None, task: Task, where: str) -> dict[str, float]:
    """Log-probabilities of all classes of a task, in its order.

    Args:
        values: class to number, or a text that is one.
        kind: "probabilities" or "log"; None is refused.
        task: whose classes are needed.
        where: file and row.

    Raises:
        ImportingError: a class is missing, unknown or no number, or it was not said what the numbers are.
    """
    if kind is None:
        raise ImportingError(
            f"{where}: has scores of classes; say what they are with --scores-are probabilities or --scores-are log"
        )
    unknown = [name for name in values if name not in task.classes]
    missing = [name for name in task.classes if name not in values]
    if unknown or missing:
        name = (unknown or missing)[0]
        near = nearest(name, task.classes) if unknown else None
        hint = (
            f"; did you mean {near!r}?" if near else f"; the task {task.name} needs all {len(task.classes)}"
        )
        state = "is none of the classes" if unknown else "has no score"
        raise ImportingError(f"{where}: {name!r} {state}{hint}")
    scores = {}
    for name in task.classes:
        value = read_number(values[name], f"the score of {name!r}", where, negative=kind == "log")
        if kind == "probabilities":
            if value > 1.000001:
                raise ImportingError(
                    f"{where}: the score of {name!r} is {value:g}, and a probability is 0 to 1"
                )
            value = math.log(max(value, FLOOR))
        scores[name] = round(value, 4)
    return scores


def read_number(value: Any, name: str, where: str, negative: bool = False) -> float:
    """A finite number out of a cell.

    Raises:
        ImportingError: it is none, or below 0 where that cannot be.
    """
    text = str(value).strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")  # as spreadsheets write it in half of Europe
    try:
        number = float("nan") if isinstance(value, bool) else float(text)
    except ValueError:
        number = float("nan")
    if not math.isfinite(number) or (number < 0 and not negative):
        raise ImportingError(f"{where}: {name} is {str(value)[:40]!r}; write a number, such as 12.5")
    return number


def assemble(rows: Sequence[Row], arm: str, cases: Sequence[Case], task: Task, cases_name: str) -> Imported:
    """Check rows against the cases, and make lines of them.

    Raises:
        ImportingError: no rows, unknown cases, one answer twice, or an answer that says nothing.
    """
    if not rows:
        raise ImportingError("there are no answers to import; the table has no rows")
    _check_cases(rows, cases, cases_name)
    by_key: dict[Key, Row] = {}
    kinds = [what for what in (CONCEPTS, DIAGNOSIS, LISTED) if any(row.what == what for row in rows)]
    for row in rows:
        key = _key(row, kinds)
        if key in by_key:
            raise ImportingError(
                f"{row.where}: the same answer is in {by_key[key].where} already (case {row.case_id!r}, "
                f"{_name(row)}); keep one of them, or choose one person's rows with --where COLUMN=VALUE"
            )
        by_key[key] = row
    questions = _prompts(rows, task)
    probes = {what: question for what, question in probes_of(task).items() if what in kinds}
    for what in kinds:
        if what not in probes:
            raise ImportingError(f"the task {task.name} does not ask for {what}; leave these rows out")
    options = options_of(task, (case.known for case in cases))
    places = {case.id: place for place, case in enumerate(cases)}
    order = sorted(by_key, key=lambda key: (places[key.case_id], key.repeat, key.kind, key.number))
    hashes = {case.id: case.image_sha256 for case in cases}
    lines = []
    for key in order:
        row = by_key[key]
        fields = _fields(row)
        if row.what == SCORES:
            fields = {"class_scores": row.scores, "concept_scores": None}
        elif row.what == TURN:
            prompt = row.question or questions[row.number - 1]
            fields |= {"prompt": prompt, "image_sha256": hashes[row.case_id]}
        else:
            fields |= {"question": row.question or probes[row.what]}
            fields |= read_answer(row.what, row.text or "", task, options)
        lines.append(Answer(arm, key, fields))
    has_scores = any(row.what == SCORES for row in rows)
    meta = {
        "prompts": questions,
        "probes": list(probes.values()),
        "scores": has_scores,
        "texts": any(row.text for row in rows),
        "closed_set": IMPORTED
        if has_scores
        else LIST
        if LISTED in kinds
        else FREE_TEXT
        if DIAGNOSIS in kinds
        else None,
        "scored_diseases": [texts[0] for texts in options.values()],
    }
    return Imported(lines, meta, 1 + max(row.repeat for row in rows), _notes(rows, cases))


def _check_cases(rows: Sequence[Row], cases: Sequence[Case], cases_name: str) -> None:
    known = {case.id for case in cases}
    unknown = [row for row in rows if row.case_id not in known]
    if not unknown:
        return
    first = unknown[0]
    if len(unknown) == len(rows):
        raise ImportingError(
            f"{first.where}: the case {first.case_id!r} is not in {cases_name}, nor is any other of the {len(rows)} "
            "rows; is it another list of cases?"
        )
    near = nearest(first.case_id, known)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ImportingError(
        f"{first.where}: the case {first.case_id!r} is not in {cases_name} ({len(unknown)} of {len(rows)} rows have "
        f"cases that are not there){hint}"
    )


def _key(row: Row, kinds: Sequence[str]) -> Key:
    if row.what == TURN:
        return Key(row.case_id, row.repeat, None, "turn", row.number)
    if row.what == SCORES:
        return Key(row.case_id, row.repeat, None, "scores")
    return Key(row.case_id, row.repeat, None, "probe", 1 + kinds.index(row.what))


def _name(row: Row) -> str:
    return f"turn {row.number}" if row.what == TURN else row.what


def _prompts(rows: Sequence[Row], task: Task) -> list[str]:
    """The prompts of the conversation: those of the task, or the first that a row names."""
    usual = CLINICAL_PROMPTS if task.prompts is None else task.prompts
    last = max((row.number for row in rows if row.what == TURN), default=0)
    prompts = []
    for number in range(1, last + 1):
        named = next(
            (row.question for row in rows if row.what == TURN and row.number == number and row.question), None
        )
        if named is None and number > len(usual):
            raise ImportingError(
                f"turn {number} is beyond the {len(usual)} prompts of the task; name what was asked in the column "
                "'question'"
            )
        prompts.append(named or usual[number - 1])
    return prompts


def _fields(row: Row) -> dict[str, Any]:
    return {
        "answer": row.text or "",
        "num_tokens": row.num_tokens,
        "seconds_to_first_token": row.seconds_to_first_token,
        "seconds": row.seconds,
        "seed": None,
    }


def _notes(rows: Sequence[Row], cases: Sequence[Case]) -> list[str]:
    """What a person should know of rows that can be imported."""
    notes = []
    counts = Counter(_name(row) for row in rows if row.repeat == 0)
    for name, count in counts.items():
        if count < len(cases):
            notes.append(
                f"{name}: {count} of {len(cases)} cases have it; the others take no part in what needs it"
            )
    empty = sum(row.text is None and row.what != SCORES for row in rows)
    if empty:
        notes.append(f"{empty} of {len(rows)} rows have a time and no text")
    return notes
