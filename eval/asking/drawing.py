"""Drawing the cases of an evaluation from a manifest: none related to training, each class as often."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.asking.cases import CasesError
from eval.tasks import Task
from skingpt4.records.blanks import text_or_none
from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import Keys, comparable, require_compared
from skingpt4.records.manifest import manifest_lines
from skingpt4.records.naming import Relative
from skingpt4.support.files import write_text
from skingpt4.taxonomy.taxonomy import CLASSES

logger = logging.getLogger(__name__)


def sample(
    keys: Keys,
    per_class: int,
    seed: int,
    training: Sequence[tuple[str, int]] = (),
    classes: Sequence[str] = CLASSES,
    distance: int = duplicates.NEAR,
    labels: Sequence[str | None] | None = None,
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
        labels: of each record (default: its 'class').

    Raises:
        CasesError: a class has too few clusters left; all such classes are named with their numbers.
        IdentityError: no two records can be compared, or none with those of a training.
    """
    own, taken, can = _related(keys, training, distance)
    count = len(own)
    names = keys.records.column("class").to_pylist() if labels is None else labels
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


def _related(
    keys: Keys, training: Sequence[tuple[str, int]], distance: int
) -> tuple[np.ndarray, set[int], np.ndarray]:
    """Of the records before those of training: clusters (n,), training's clusters, and which can be compared (n,)."""
    count = len(keys) - sum(number for _, number in training)
    groups = [("the manifest", count), *((f"--train {name}", number) for name, number in training)]
    for sentence in require_compared(keys.content, groups):
        logger.warning("note: %s", sentence)
    cluster = duplicates.clusters(duplicates.links(keys, distance))
    return cluster[:count], set(cluster[count:].tolist()), comparable(keys.content[:count], keys.content)


def select_all(
    keys: Keys,
    labels: Sequence[str | None],
    training: Sequence[tuple[str, int]] = (),
    distance: int = duplicates.NEAR,
) -> list[int]:
    """All records with a label that are not related to training; related ones among them stay.

    Raises:
        CasesError: none is left.
        IdentityError: as `sample`.
    """
    own, taken, can = _related(keys, training, distance)
    rows = [
        row for row, label in enumerate(labels) if label is not None and can[row] and own[row] not in taken
    ]
    if not rows:
        labelled = sum(label is not None for label in labels)
        raise CasesError(
            f"no case is left: {labelled} of {len(labels)} records can be judged, all tied to training"
        )
    return rows


def labels_of(manifest: Path, task: Task) -> list[str | None]:
    """The label of each record of a manifest; for a task without labels '' where it can judge the record.

    Raises:
        CasesError: no record has what the task needs.
    """
    labels: list[str | None] = []
    for number, line, _ in manifest_lines(manifest):
        row = json.loads(line)
        try:
            labels.append((task.label_of(row) or "") if task.has_answer(row) else None)
        except ValueError as error:
            key = task.differential or task.references
            raise CasesError(f"{manifest}, line {number}: '{key}' {error}") from None
    if not any(label is not None for label in labels):
        key = task.label.key if task.classes else task.references or "concepts"
        raise CasesError(
            f"{manifest}: no record has what the task {task.name} needs under '{key}'; python -m eval.tasks show "
            f"{task.name} names the command that prepares its data"
        )
    return labels


def complete_cases(keys: Keys, rows: Sequence[int], count: int) -> list[int]:
    """The rows with all other pictures of their cases.

    Args:
        keys: of all records.
        rows: drawn ones.
        count: records of the manifest, the first in `keys`.
    """
    names = keys.column("case_id").to_pylist()[:count]
    drawn = {names[row] for row in rows if names[row] is not None}
    return sorted({*rows, *(row for row, name in enumerate(names) if name in drawn)})


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
