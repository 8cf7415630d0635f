"""Whether images, cases or patients of an evaluation are also in a training, compared by complete columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.support.errors import UserError

# What is compared, and its name in messages. Cases and patients count within a source only.
KINDS = {"sha256": "the same picture", "phash": "the same picture by perceptual hash", "path": "the same file",
         "case_id": "the same case", "patient_id": "the same patient"}  # fmt: skip


class OverlapError(UserError):
    """Training and evaluation share something; the message says how much, and names the first pair."""


@dataclass(frozen=True)
class Overlap:
    """`count` records of the training share `kind` with the evaluation; the first is `trained` and `evaluated`."""

    kind: str
    count: int
    trained: str
    evaluated: str

    def __str__(self) -> str:
        """One clause for a message."""
        return f"{self.count} by {KINDS[self.kind]}, first {self.trained} and {self.evaluated}"


def find_overlaps(training: Manifest, evaluation: Manifest) -> list[Overlap]:
    """What two manifests share, one entry per kind; empty if nothing."""
    overlaps = []
    unhashed = any(records.column("sha256").null_count for records in (training, evaluation))
    for kind in KINDS:
        if kind == "path" and not unhashed:  # hashes are the better evidence
            continue
        ours, theirs = _keys(training, kind), _keys(evaluation, kind)
        evaluated = pc.unique(theirs.drop_null())
        if not len(evaluated):
            continue
        rows = np.flatnonzero(pc.is_in(ours, value_set=evaluated, skip_nulls=True).to_numpy())
        if len(rows):
            other = pc.index(theirs, ours[int(rows[0])]).as_py()
            overlaps.append(Overlap(kind, len(rows), training.where(int(rows[0])), evaluation.where(other)))
    return overlaps


def _keys(records: Manifest, kind: str) -> pa.ChunkedArray:
    """The values that are compared for a kind; null where a record has none."""
    if kind == "path":
        return pa.chunked_array([_paths(records)])
    if kind in ("case_id", "patient_id"):
        source = pc.fill_null(records.column("source"), "")
        return pc.binary_join_element_wise(source, records.column(kind), "\0")
    return records.column(kind)


def _paths(records: Manifest) -> pa.Array:
    paths: list[str] = []
    for part in records.parts:
        folder = os.path.realpath(part.path.parent)
        for batch in part.batches:
            images = batch.column("image").to_pylist()
            paths += [os.path.normpath(os.path.join(folder, image)) for image in images]
    return pa.array(paths, pa.string())


def require_disjoint(training: Manifest, evaluation: Sequence[str], allowed: bool) -> list[str]:
    """Refuse a training whose records are in evaluation manifests.

    Args:
        training: all records that are trained on or used to choose a checkpoint.
        evaluation: paths of manifests; one that does not exist yet cannot be compared, and a note says so.
        allowed: return a note instead of refusing.

    Returns:
        Sentences for the log: what was not checked, and what is shared but allowed.

    Raises:
        OverlapError: something is shared.
        RecordError: an evaluation manifest cannot be used.
    """
    notes = []
    for path in evaluation:
        if not Path(path).exists():
            notes.append(f"data.evaluation: {path} does not exist, so overlap with it was not checked")
            continue
        overlaps = find_overlaps(training, read_manifest(path))
        if overlaps:
            shared = f"training shares records with {path}: {'; '.join(map(str, overlaps))}"
            if not allowed:
                raise OverlapError(f"{shared}; take them out of one side, or set data.allow_overlap=true")
            notes.append(f"{shared} (allowed by data.allow_overlap)")
    return notes


# ---- what a checkpoint remembers


def image_hashes(records: Manifest) -> dict[str, Tensor]:
    """The first 64 bits of the images' `sha256`, and their `phash`: sorted, (n,) int64 each.

    Names of cases and patients are left out: there are so few possible names that their hashes would reveal them.
    """
    return {key: _first_bits(records.column(key)) for key in ("sha256", "phash")}


def _first_bits(column: pa.ChunkedArray) -> Tensor:
    """The first sixteen hex digits of each text as a number; sorted, each once."""
    texts = pc.utf8_slice_codeunits(column.drop_null(), 0, 16)
    numbers = np.frombuffer(bytes.fromhex("".join(texts.to_pylist())), dtype=">i8")
    return torch.from_numpy(np.unique(numbers.astype(np.int64)))


def merge_hashes(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hashes of both: a checkpoint has seen what its parent saw."""
    keys = one.keys() | other.keys()
    nothing = torch.zeros(0, dtype=torch.int64)
    return {key: torch.unique(torch.cat([one.get(key, nothing), other.get(key, nothing)])) for key in keys}


def check_cases(
    cases: Manifest, seen: dict[str, Tensor], card: dict[str, Any]
) -> tuple[list[str], str | None]:
    """Compare evaluation cases with what a checkpoint was trained on.

    Args:
        cases: the evaluation's records.
        seen: hashes of the images that the checkpoint's training saw, see `image_hashes`.
        card: the checkpoint's.

    Returns:
        What is shared, as clauses (empty: nothing), and a sentence on what could not be compared, if any.
    """
    shared = []
    for key in (kind for kind in KINDS if kind in seen):
        count = int(torch.isin(_first_bits(cases.column(key)), seen[key]).sum())
        if count:
            shared.append(f"{count} by {KINDS[key]}")
    manifests = [Path(name) for name in card.get("config", {}).get("data", {}).get("train", [])]
    existing = [name for name in manifests if name.is_file()]
    if existing:
        overlaps = find_overlaps(chain(read_manifest(name) for name in existing), cases)
        shared += [str(overlap) for overlap in overlaps if overlap.kind not in seen]
    if not seen and len(existing) < len(manifests):
        missing = [str(name) for name in manifests if name not in existing]
        return shared, f"overlap with {', '.join(missing)} was not checked: it does not exist"
    if not any(len(hashes) for hashes in seen.values()) and not existing:
        return shared, "overlap with its training was not checked: the checkpoint has no hashes of pictures"
    return shared, None
