"""The cases of an evaluation: one JSON line each, with the picture and the reference."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skingpt4.records.archives import exists
from skingpt4.records.blanks import text_or_none
from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import Keys, comparable, require_compared
from skingpt4.records.manifest import manifest_lines, read_manifest
from skingpt4.records.naming import Relative, hint, readable
from skingpt4.records.record import Record, check_row
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text
from skingpt4.taxonomy.taxonomy import CLASSES

logger = logging.getLogger(__name__)

# How soon a patient should be seen, from least to most urgent.
URGENCY = ("self-care", "routine", "soon", "today")


class CasesError(UserError):
    """Cases that cannot be used or drawn; the message says which and why."""


@dataclass(frozen=True)
class Case:
    """One case. `records` are its pictures, in the order of the file; the first says what is known of it.

    `rows` are the pictures' places in the manifest, from 0.
    """

    id: str
    records: tuple[Record, ...]
    rows: tuple[int, ...]
    history: str | None = None
    reference: tuple[str, ...] = ()
    urgency: str | None = None

    @property
    def known(self) -> Record:
        """The record that carries class, disease, concepts and skin type."""
        return self.records[0]


def read_cases(path: str | Path) -> list[Case]:
    """The cases of a manifest, in order of their first picture.

    `x_history` (text), `x_reference` (text or list: the reference answer to each prompt) and `x_urgency` (one of
    URGENCY) are read too; a record without `case_id` is a case of its own, named after its picture.

    Raises:
        CasesError: pictures of one case contradict each other, or a case has no class or disease.
        RecordError: a line is not a record.
    """
    path = Path(path)
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
    return [_case(name, records[name], places[name], rows[name], path) for name in rows]


def _case(
    name: str, records: Sequence[Record], places: Sequence[int], rows: Sequence[dict[str, Any]], path: Path
) -> Case:
    for key in ("class", "disease", "fitzpatrick"):
        if len({json.dumps(row.get(key)) for row in rows}) > 1:
            raise CasesError(f"{path}: the pictures of case {name!r} have different values under '{key}'")
    if records[0].class_name is None and records[0].disease is None:
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
    return Case(
        name,
        tuple(records),
        tuple(places),
        text_or_none(history),
        reference if any(reference) else (),
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


def check_pictures(cases: Sequence[Case]) -> None:
    """Refuse a list whose pictures are not all there.

    Raises:
        CasesError: names the first that is missing, and how many are.
    """
    missing = [r.image_path for case in cases for r in case.records if not exists(r.image_path)]
    if missing:
        raise CasesError(f"{missing[0]}: no such picture ({len(missing)} missing){hint(missing[0])}")


def sample(
    keys: Keys,
    per_class: int,
    seed: int,
    training: Sequence[tuple[str, int]] = (),
    classes: Sequence[str] = CLASSES,
    distance: int = duplicates.NEAR,
) -> list[int]:
    """Draw records: at most one from each cluster of related pictures, none related to training.

    A record that cannot be compared (no hash and no file) is not drawn.

    Returns:
        The drawn rows in ascending order.

    Args:
        keys: of the records that cases are drawn from, and after them of those that no case may be related to.
        per_class: cases of each class.
        seed: of the draw.
        training: name and number of records of each manifest of training, the last in `keys`.
        classes: to draw from.
        distance: bits, see `skingpt4.records.comparing.duplicates`.

    Raises:
        CasesError: a class has too few clusters left; all such classes are named with their numbers.
        IdentityError: no two records can be compared, or none with those of a training.
    """
    count = len(keys) - sum(number for _, number in training)
    groups = [("the manifest", count), *((f"--train {name}", number) for name, number in training)]
    for sentence in require_compared(keys.content, groups):
        logger.warning("note: %s", sentence)
    cluster = duplicates.clusters(duplicates.links(keys, distance))
    own, taken = cluster[:count], set(cluster[count:].tolist())
    can = comparable(keys.content[:count], keys.content)
    names = keys.records.column("class").to_pylist()
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    drawn: dict[str, list[int]] = {name: [] for name in classes}
    for row in order:
        name = names[row]
        if can[row] and name in drawn and len(drawn[name]) < per_class and own[row] not in taken:
            drawn[name].append(int(row))
            taken.add(own[row])
    short = {name: len(rows) for name, rows in drawn.items() if len(rows) < per_class}
    if short:
        counts = ", ".join(f"{name} {count}" for name, count in short.items())
        raise CasesError(
            f"{per_class} cases a class were asked for, but separate from training and each other there are only: "
            f"{counts}"
        )
    return sorted(row for rows in drawn.values() for row in rows)


def write_sample(manifest: Path, keys: Keys, rows: Sequence[int], out: Path) -> None:
    """Write the chosen lines of a manifest as a manifest of cases, its pictures relative to the new place.

    Records get the hashes that they lacked.
    """
    chosen, lines = set(rows), list[str]()
    relative = Relative(out.parent)
    for place, (_, line, _) in enumerate(manifest_lines(manifest)):
        if place in chosen:
            row = json.loads(line) | keys.missing_hashes(place)
            row["image"] = relative.renamed(row["image"], manifest.parent)
            row["case_id"] = text_or_none(row.get("case_id")) or f"case-{len(lines) + 1:04d}"
            row["split"] = "cases"
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(lines))


def describe(cases: Sequence[Case]) -> str:
    """A list of cases in numbers, for people."""
    lines = [f"{len(cases)} cases, {sum(len(case.records) for case in cases)} pictures"]
    for title, values in (
        ("class", [case.known.class_name or "unknown" for case in cases]),
        ("skin type", [str(case.known.fitzpatrick or "unknown") for case in cases]),
    ):
        lines += [
            f"{title}:",
            *(f"  {name:28} {count:>5}" for name, count in sorted(Counter(values).items())),
        ]
    lines.append(f"concepts known of {sum(case.known.concepts is not None for case in cases)}")
    return "\n".join(lines)
