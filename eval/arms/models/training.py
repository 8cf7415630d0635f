"""What a probe is fitted on: records with a task's labels, which must not be among the cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.arms.respondent import RespondentGone
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.comparing.overlap import compare
from skingpt4.records.manifest import Manifest, chain, manifest_lines, read_manifest
from skingpt4.records.record import check_row

if TYPE_CHECKING:
    from eval.tasks import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Records of one or several manifests with their labels under a task (None: none of its labels)."""

    paths: tuple[Path, ...]
    manifest: Manifest
    labels: tuple[str | None, ...]

    def describe(self) -> str:
        """A line on its size."""
        known = sum(label is not None for label in self.labels)
        return f"{known} labelled of {len(self.labels)} records in {', '.join(map(str, self.paths))}"


def read_training(paths: Sequence[Path], task: Task) -> Training:
    """The records of manifests with their labels.

    Raises:
        RespondentGone: no record has one of the task's labels.
        RecordError: a line is not a record.
    """
    labels: list[str | None] = []
    manifest = chain(read_manifest(path) for path in paths)
    for path in paths:
        for number, line, _ in manifest_lines(path):
            row = json.loads(line)
            labels.append(task.label_of(row | check_row(row, f"{path}, line {number}")))
    if task.classes and not any(labels):
        raise RespondentGone(
            f"--train: no record of {', '.join(map(str, paths))} has one of the labels of task {task.name} under "
            f"'{task.label.key}' ({', '.join(task.classes[:3])}, ...)"
        )
    if missing := task.missing_labels(label for label in labels if label):
        logger.warning(
            "note: the training has no example of %s; the probe cannot choose them", ", ".join(missing)
        )
    return Training(tuple(paths), manifest, tuple(labels))


def overlap_facts(training: Manifest, cases: Path, allowed: bool) -> dict[str, list[str]]:
    """Refuse a training that shares something with the cases, or cannot be compared with them.

    Returns:
        What the card says: `overlap_with_training`, where it is allowed, and `overlap_not_compared`.

    Raises:
        RespondentGone: they share something, or nothing could be compared, and that is not allowed.
    """
    result = compare(Keys(training), Keys(read_manifest(cases)), str(cases), "--train")
    if result.shared and not allowed:
        raise RespondentGone(
            f"--train: the training shares records with the cases: {'; '.join(result.shared)}; take them out of one "
            "side, or add --allow-overlap"
        )
    if result.nothing and not allowed:
        raise RespondentGone(
            f"--train: overlap with the cases cannot be checked: {'; '.join(result.uncompared)}; put the pictures "
            "where the manifests say, or add --allow-overlap"
        )
    for sentence in (*result.shared, *result.uncompared):
        logger.warning("note: the training and the cases: %s", sentence)
    return {"overlap_with_training": result.shared, "overlap_not_compared": result.uncompared}
