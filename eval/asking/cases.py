"""The cases of an evaluation: one JSON line each, with the picture and the reference."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.asking.urgency import URGENCY
from eval.tasks import Task, load_task
from skingpt4.records.archives import exists
from skingpt4.records.blanks import text_or_none
from skingpt4.records.manifest import manifest_lines, read_manifest
from skingpt4.records.naming import hint, readable
from skingpt4.records.record import Record, check_row
from skingpt4.support.errors import UserError

logger = logging.getLogger(__name__)


class CasesError(UserError):
    """Cases that cannot be used or drawn; the message says which and why."""


@dataclass(frozen=True)
class Case:
    """One case. `records` are its pictures, in the order of the file; the first says what is known of it.

    `rows` are the pictures' places in the manifest, from 0. `label` is the task's class; with a task other than the
    default, `facts` holds what else the task measures by: `groups` (column to value), `cluster` (what is drawn
    together), `differential` (label to weight) and `references` (texts).
    """

    id: str
    records: tuple[Record, ...]
    rows: tuple[int, ...]
    history: str | None = None
    reference: tuple[str, ...] = ()
    label: str | None = None
    facts: dict[str, Any] | None = None
    urgency: str | None = None

    @property
    def known(self) -> Record:
        """The record that carries class, disease, concepts and skin type."""
        return self.records[0]

    @property
    def image_sha256(self) -> str | list[str | None] | None:
        """The hash of its picture, or of each of several; None where it is not known."""
        hashes = [record.sha256 for record in self.records]
        return hashes[0] if len(hashes) == 1 else hashes


def read_cases(path: str | Path, task: Task | None = None) -> list[Case]:
    """The cases of a manifest, in order of their first picture.

    `x_history` (text), `x_reference` (text or list: the reference answer to each prompt) and `x_urgency` (one of
    URGENCY) are read too; a record without `case_id` is a case of its own, named after its picture.

    Args:
        path: the manifest.
        task: whose labels are read (default: the paper's 15 classes).

    Raises:
        CasesError: pictures of one case contradict each other, or a case has no class or disease.
        RecordError: a line is not a record.
    """
    path, task = Path(path), task or load_task()
    rows: dict[str, list[dict[str, Any]]] = {}
    records: dict[str, list[Record]] = {}
    places: dict[str, list[int]] = {}
    manifest = read_manifest(path)
    for place, (record, (number, line, _)) in enumerate(zip(manifest, manifest_lines(path), strict=True)):
        row = json.loads(line)
        row |= check_row(row, f"{path}, line {number}")
        name = record.case_id or readable(row["image"])
        rows.setdefault(name, []).append(row)
        records.setdefault(name, []).append(record)
        places.setdefault(name, []).append(place)
    return [_case(name, records[name], places[name], rows[name], path, task) for name in rows]


def _case(
    name: str,
    records: Sequence[Record],
    places: Sequence[int],
    rows: Sequence[dict[str, Any]],
    path: Path,
    task: Task,
) -> Case:
    for key in dict.fromkeys(("class", "disease", "fitzpatrick", task.label.key)):
        if len({json.dumps(row.get(key)) for row in rows}) > 1:
            raise CasesError(f"{path}: the pictures of case {name!r} have different values under '{key}'")
    if task.is_default and records[0].class_name is None and records[0].disease is None:
        raise CasesError(
            f"{path}: case {name!r} has neither 'class' nor 'disease'; no answer could be judged"
        )
    history, reference = rows[0].get("x_history"), rows[0].get("x_reference") or []
    reference = [reference] if isinstance(reference, str) else reference
    if not (history is None or isinstance(history, str)):
        raise CasesError(f"{path}: 'x_history' of case {name!r} must be text, found {history!r}")
    if not (isinstance(reference, list) and all(isinstance(text, str) for text in reference)):
        raise CasesError(
            f"{path}: 'x_reference' of case {name!r} must be text or a list of texts, found {reference!r}"
        )
    reference = tuple(text_or_none(text) or "" for text in reference)  # one for each prompt, in their order
    facts = None if task.is_default else _facts(task, rows[0], f"{path}: case {name!r}")
    return Case(
        name,
        tuple(records),
        tuple(places),
        text_or_none(history),
        reference if any(reference) else (),
        task.label_of(rows[0]),
        facts,
        _urgency(rows[0].get("x_urgency"), name, path),
    )


def _urgency(value: Any, name: str, path: Path) -> str | None:
    """How soon the patient should have been seen, where the list says it."""
    word = text_or_none(str(value if value is not None else ""))
    if word is None or word.casefold() in URGENCY:
        return word and word.casefold()
    raise CasesError(
        f"{path}: 'x_urgency' of case {name!r} must be one of {', '.join(URGENCY)}, found {value!r}"
    )


def _facts(task: Task, row: dict[str, Any], where: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"groups": task.group_of(row)}
    for key, read in (("differential", task.differential_of), ("references", task.references_of)):
        try:
            facts[key] = read(row)
        except ValueError as error:
            raise CasesError(f"{where}: '{getattr(task, key)}' {error}") from None
    cluster = row.get(task.cluster) if task.cluster else None
    facts["cluster"] = None if cluster is None else f"{row.get('source') or ''}/{cluster}"
    return facts


def check_labels(cases: Sequence[Case], path: Path, task: Task) -> None:
    """Refuse cases that the task cannot judge, and say which of its labels no case has.

    Raises:
        CasesError: a case has none of the labels, or lacks what the task measures.
    """
    for case in cases:
        if task.is_default:
            if case.label is None:
                found = case.known.class_name
                raise CasesError(
                    f"{path}: case {case.id!r} needs one of the 15 classes as 'class', found {found!r}"
                )
        elif not _has_answer(case, task):
            unlabelled = sum(not _has_answer(other, task) for other in cases)
            raise CasesError(
                f"{path}: case {case.id!r} has {_lacking(case, task)} ({unlabelled} of {len(cases)} cases); draw the "
                f"others with python -m eval.cases sample --task {task.name}"
            )
    absent = [] if task.is_default else task.missing_labels(case.label or "" for case in cases)
    if absent:
        shown = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
        logger.warning(
            "note: %d of the %d labels of the task %s have no case: %s",
            len(absent), len(task.classes), task.name, shown,
        )  # fmt: skip


def _has_answer(case: Case, task: Task) -> bool:
    facts = case.facts or {}
    if task.classes:
        return case.label is not None
    return bool(facts["references"]) if task.references else case.known.concepts is not None


def _lacking(case: Case, task: Task) -> str:
    """What a case that the task cannot judge lacks."""
    if task.classes:
        return f"none of the labels of the task {task.name} under '{task.label.key}'"
    return f"no text under '{task.references}'" if task.references else "no known 'concepts'"


def check_pictures(cases: Sequence[Case]) -> None:
    """Refuse a list whose pictures are not all there.

    Raises:
        CasesError: names the first that is missing, and how many are.
    """
    missing = [r.image_path for case in cases for r in case.records if not exists(r.image_path)]
    if missing:
        raise CasesError(f"{missing[0]}: no such picture ({len(missing)} missing){hint(missing[0])}")


def describe(cases: Sequence[Case]) -> str:
    """A list of cases in numbers, for people."""
    lines = [f"{len(cases)} cases, {sum(len(case.records) for case in cases)} pictures"]
    for title, values in (
        ("class", [case.label or case.known.class_name or "unknown" for case in cases]),
        ("skin type", [str(case.known.fitzpatrick or "unknown") for case in cases]),
    ):
        lines += [
            f"{title}:",
            *(f"  {name:28} {count:>5}" for name, count in sorted(Counter(values).items())),
        ]
    lines.append(f"concepts known of {sum(case.known.concepts is not None for case in cases)}")
    return "\n".join(lines)
