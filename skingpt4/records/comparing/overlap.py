"""Whether images, cases or patients of an evaluation are also in a training, compared by complete columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from skingpt4.records.comparing.identity import (
    CONTENT,
    KINDS,
    PICTURE,
    Keys,
    are_compared,
    kinds_not_compared,
    not_compared,
)
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.support.errors import UserError

NOT_HASHED = (
    "not_hashed"  # in a checkpoint's memory: how many records of its training had no hash and no file
)


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


@dataclass(frozen=True)
class Comparison:
    """What a training and an evaluation share, and what could not be compared.

    `shared` are clauses, `uncompared` sentences. With `nothing` no two pictures could be compared, so that an empty
    `shared` says nothing; the sentences then say why.
    """

    shared: list[str]
    uncompared: list[str]
    nothing: bool


def find_overlaps(training: Keys, evaluation: Keys, kinds: Sequence[str] = tuple(KINDS)) -> list[Overlap]:
    """What two manifests share, one entry per kind; empty if nothing.

    That equal pictures also have equal perceptual hashes, or are one file, is not reported again.
    """
    overlaps, seen = [], np.zeros(len(training), dtype=bool)
    for kind in kinds:
        ours, theirs = training.column(kind), evaluation.column(kind)
        evaluated = pc.unique(theirs.drop_null())
        if not len(evaluated):
            continue
        rows = np.flatnonzero(pc.is_in(ours, value_set=evaluated, skip_nulls=True).to_numpy())
        if len(rows) and not (kind in PICTURE and seen[rows].all()):
            other = pc.index(theirs, ours[int(rows[0])]).as_py()
            where = training.records.where(int(rows[0])), evaluation.records.where(other)
            overlaps.append(Overlap(kind, len(rows), *where))
        if kind in CONTENT:
            seen[rows] = True
    return overlaps


def compare(training: Keys, evaluation: Keys, name: str, trained: str = "training") -> Comparison:
    """Compare all records by every kind of key.

    Args:
        training: its records.
        evaluation: its records.
        name: of the evaluation, for the sentences.
        trained: name of the training.
    """
    ours, theirs = training.content, evaluation.content
    return Comparison(
        shared=[str(overlap) for overlap in find_overlaps(training, evaluation)],
        uncompared=[
            *not_compared(ours, theirs, trained),
            *not_compared(theirs, ours, name),
            *kinds_not_compared(ours, theirs),
        ],
        nothing=not are_compared(ours, theirs),
    )


def require_disjoint(training: Manifest, evaluation: Sequence[str], allowed: bool) -> list[str]:
    """Refuse a training whose records are in evaluation manifests, or cannot be compared with them.

    Args:
        training: all records that are trained on or used to choose a checkpoint.
        evaluation: paths of manifests; one that does not exist yet cannot be compared, and a note says so.
        allowed: return a note instead of refusing.

    Returns:
        Sentences for the log: what was not compared, and what is shared but allowed.

    Raises:
        OverlapError: something is shared, or nothing could be compared.
        RecordError: an evaluation manifest cannot be used.
    """
    notes, keys = list[str](), Keys(training)
    for path in evaluation:
        if not Path(path).exists():
            notes.append(f"data.evaluation: {path} does not exist, so overlap with it was not checked")
            continue
        result = compare(keys, Keys(read_manifest(path)), path)
        if result.shared:
            shared = f"training shares records with {path}: {'; '.join(result.shared)}"
            if not allowed:
                raise OverlapError(f"{shared}; take them out of one side, or set data.allow_overlap=true")
            notes.append(f"{shared} (allowed by data.allow_overlap)")
        elif result.nothing and not allowed:
            raise OverlapError(
                f"overlap with {path} cannot be checked: {'; '.join(result.uncompared)}; put the pictures where the "
                "manifest says, or set data.allow_overlap=true"
            )
        notes += [f"data.evaluation: {sentence}" for sentence in result.uncompared]
    return list(dict.fromkeys(notes))


# ---- what a checkpoint remembers


def image_hashes(records: Manifest) -> dict[str, Tensor]:
    """The first 64 bits of the images' `sha256`, and their `phash`: sorted, (n,) int64 each.

    `not_hashed` (1,) counts the records that have neither, if there are any. Names of cases and patients are left
    out: there are so few possible names that their hashes would reveal them.
    """
    keys = Keys(records)
    hashes = {kind: _first_bits(keys.column(kind)) for kind in CONTENT}
    without = int((keys.content == 0).sum())
    return hashes | ({NOT_HASHED: torch.tensor([without])} if without else {})


def _first_bits(column: pa.ChunkedArray) -> Tensor:
    """The first sixteen hex digits of each text as a number; sorted, each once."""
    texts = pc.utf8_slice_codeunits(column.drop_null(), 0, 16)
    numbers = np.frombuffer(bytes.fromhex("".join(texts.to_pylist())), dtype=">i8")
    return torch.from_numpy(np.unique(numbers.astype(np.int64)))


def merge_hashes(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hashes of both: a checkpoint has seen what its parent saw."""
    nothing = torch.zeros(0, dtype=torch.int64)
    both = {
        key: torch.cat([one.get(key, nothing), other.get(key, nothing)]) for key in one.keys() | other.keys()
    }
    return {key: v.sum()[None] if key == NOT_HASHED else torch.unique(v) for key, v in both.items()}


def check_cases(
    cases: Manifest, seen: dict[str, Tensor], manifests: Sequence[str], unknown: Sequence[str] = ()
) -> Comparison:
    """Compare evaluation cases with what a checkpoint was trained on.

    Pictures are compared with the hashes that the checkpoint remembers, cases, patients and paths with the manifests
    of its training where these exist; those of a checkpoint that remembers no hashes serve for pictures too.

    Args:
        cases: the evaluation's records.
        seen: hashes of the images that the checkpoint's training saw, see `image_hashes`.
        manifests: of its training, and of those that it began from.
        unknown: sentences on manifests that cannot be named.
    """
    keys = Keys(cases)
    hashed = {kind: seen[kind] for kind in CONTENT if len(seen.get(kind, ()))}
    missing = [f"{path} does not exist" for path in manifests if not Path(path).is_file()]
    training = Keys(chain(read_manifest(path) for path in manifests if Path(path).is_file()))
    shared, uncompared = list[str](), list[str]()
    for kind, hashes in hashed.items():
        count = int(torch.isin(_first_bits(keys.column(kind)), hashes).sum())
        if count:
            shared.append(f"{count} by {KINDS[kind]}")
    kinds = [kind for kind in KINDS if not hashed or kind not in CONTENT]
    shared += map(str, find_overlaps(training, keys, kinds))
    reasons = "; ".join(dict.fromkeys([*missing, *unknown]))
    if hashed:
        trained = np.array([sum(1 << CONTENT.index(kind) for kind in hashed)])
        if NOT_HASHED in seen:
            uncompared.append(f"{int(seen[NOT_HASHED])} records of its training had no hash and no file")
        if reasons and any(keys.column(kind).null_count < len(keys) for kind in ("case_id", "patient_id")):
            uncompared.append(f"cases and patients were not compared: {reasons}")
    else:
        trained = training.content
        uncompared += not_compared(trained, keys.content, "its training")
        if reasons:
            uncompared.append(f"pictures were not compared: it has no hashes of them, and {reasons}")
    uncompared += not_compared(keys.content, trained, "the cases") + kinds_not_compared(keys.content, trained)
    return Comparison(shared, uncompared, nothing=not are_compared(keys.content, trained))
