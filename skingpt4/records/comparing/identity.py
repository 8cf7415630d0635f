"""What identifies the image of a record: content hash, perceptual hash, resolved path, case and patient.

Every check for leaks, overlap and duplicates compares these keys and takes them from here. A hash that the manifest
lacks is computed from the file. A record without a hash and without a file cannot be compared; the checks count such
records, and a check in which nothing could be compared is refused.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skingpt4.records import naming
from skingpt4.records.comparing.hashes import Hashes, file_hashes
from skingpt4.records.manifest import Manifest
from skingpt4.support.errors import UserError

# What is compared, and its name in messages. Cases and patients count within a source only.
KINDS = {"sha256": "the same picture", "phash": "the same picture by perceptual hash", "path": "the same file",
         "case_id": "the same case", "patient_id": "the same patient"}  # fmt: skip
CONTENT = ("sha256", "phash")
PICTURE = (*CONTENT, "path")
HASH_DIGITS, MIN_BITS = 16, 8  # of a perceptual hash; an image with structure sets about 32 of its 64 bits

# By part of a manifest, so that the manifests that share a part, such as those of `chain`, share its hashes.
_computed: WeakKeyDictionary[Any, dict[int, Hashes]] = WeakKeyDictionary()


class IdentityError(UserError):
    """Records none of which can be compared; the message says of which manifest, and what to do."""


class Keys:
    """The keys of all records of a manifest, as columns of texts with null where a record has none.

    An image without structure has a perceptual hash that says nothing, so it counts as having none. Nothing is read
    before it is asked for: `column("case_id")` opens no file.
    """

    def __init__(self, records: Manifest) -> None:
        self.records = records
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def column(self, kind: str) -> pa.ChunkedArray:
        """The keys (n,) of one of `KINDS`."""
        if kind not in self._columns:
            self._columns[kind] = self._make(kind)
        return self._columns[kind]

    def _make(self, kind: str) -> pa.ChunkedArray:
        if kind == "path":
            return _paths(self.records)
        stored = self.records.column(kind)
        if kind not in CONTENT:
            source = pc.fill_null(self.records.column("source"), "")
            return pc.binary_join_element_wise(source, stored, "\0")
        if stored.null_count:
            computed = [getattr(self.computed.get(row), kind, None) for row in range(len(self))]
            stored = pc.coalesce(stored, pa.array(computed, pa.string()))
        return _of_images_with_structure(stored) if kind == "phash" else stored

    @functools.cached_property
    def computed(self) -> Mapping[int, Hashes]:
        """The hashes of the records that lack one, by row, computed from their files."""
        result: dict[int, Hashes] = {}
        first = 0
        for part in self.records.parts:
            own = Manifest([part])
            if part not in _computed:
                _computed[part] = _compute(own)
            result |= {first + row: hashes for row, hashes in _computed[part].items()}
            first += len(own)
        return result

    def missing_hashes(self, row: int) -> dict[str, str]:
        """The hashes that record `row` lacks, as far as they could be computed, for a manifest made of it."""
        computed = self.computed.get(row, Hashes())._asdict()
        return {
            kind: value
            for kind, value in computed.items()
            if value and not self.records.column(kind)[row].is_valid
        }

    @functools.cached_property
    def content(self) -> np.ndarray:
        """Which hashes each record has: (n,) uint8, 1 for `sha256` plus 2 for `phash`; 0 cannot be compared."""
        known = [pc.is_valid(self.column(kind)).to_numpy().astype(np.uint8) for kind in CONTENT]
        return known[0] + 2 * known[1]


def _of_images_with_structure(hashes: pa.ChunkedArray) -> pa.ChunkedArray:
    """The perceptual hashes with null where one has hardly a bit, as every image of one colour has."""
    zeros = pc.count_substring(hashes, "0")  # at least as many digits as bits; few hashes come so far
    sparse = pc.unique(hashes.filter(pc.greater(zeros, HASH_DIGITS - MIN_BITS))).to_pylist()
    empty = [text for text in sparse if int(text, 16).bit_count() < MIN_BITS]
    return (
        pc.if_else(pc.is_in(hashes, value_set=pa.array(empty, pa.string())), None, hashes)
        if empty
        else hashes
    )


def comparable(content: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each record has a hash, and one of a kind that every other record with hashes has: (n,) bool.

    Args:
        content: (n,) as `Keys.content` gives it.
        others: (m,) of the records to compare with.
    """
    return np.all([content > 0, *(content & kinds > 0 for kinds in np.unique(others) if kinds)], axis=0)


def are_compared(content: np.ndarray, others: np.ndarray) -> bool:
    """Whether any two records of the two sides could be compared by their hashes."""
    return bool(np.bitwise_or.reduce(content, initial=0) & np.bitwise_or.reduce(others, initial=0))


def not_compared(content: np.ndarray, others: np.ndarray, what: str) -> list[str]:
    """The sentence on records that could not be compared; empty if all could.

    Args:
        content: (n,) as in `comparable`.
        others: (m,)
        what: the records, such as "training".
    """
    count, without = int((~comparable(content, others)).sum()), int((content == 0).sum())
    if not count:
        return []
    reason = "no hash and no file that can be read"
    if count > without:
        reason += f", or ({count - without} of them) only a kind of hash that others lack"
    return [f"{count} of {len(content)} records of {what} could not be compared: {reason}"]


def kinds_not_compared(content: np.ndarray, others: np.ndarray) -> list[str]:
    """Sentences on the kinds of hashes that only one of two sides has, where they have another in common."""
    own, theirs = (int(np.bitwise_or.reduce(side, initial=0)) for side in (content, others))
    if not own & theirs:
        return []
    names = ("bytes", "perceptual hashes")
    return [
        f"{name} were not compared: only one side has any"
        for bit, name in enumerate(names)
        if (own ^ theirs) >> bit & 1
    ]


def require_compared(content: np.ndarray, groups: Sequence[tuple[str, int]]) -> list[str]:
    """Sentences on the records of several manifests that could not be compared; empty if all could.

    Args:
        content: (n,) of all records, see `Keys.content`.
        groups: name and number of records of each manifest. The first is compared with itself and with each other.

    Raises:
        IdentityError: no two records of the first could be compared, or none of them with those of another.
    """
    sentences, blind, start = list[str](), False, 0
    own = content[: groups[0][1]]
    for name, number in groups:
        theirs = content[start : start + number]
        sentences += not_compared(theirs, own, name)
        blind |= not are_compared(own, theirs)
        start += number
    alike = max(np.count_nonzero(own & kind) for kind in (1, 2))
    if blind or alike < min(2, len(own)):
        raise IdentityError(
            f"nothing could be compared: {'; '.join(sentences)}; put the pictures where the manifest says, or give "
            "manifests of data.prepare, which have hashes"
        )
    return sentences


def _compute(records: Manifest) -> dict[int, Hashes]:
    """The hashes of the records of one manifest that lack one or both."""
    lacks = pc.or_(pc.is_null(records.column("sha256")), pc.is_null(records.column("phash")))
    rows = np.flatnonzero(lacks.to_numpy())
    if not len(rows):
        return {}
    images = records.column("image").take(pa.array(rows)).to_pylist()
    paths = [records.image_path(row) for row in rows.tolist()]
    return dict(zip(rows.tolist(), file_hashes(records.parts[0].path, images, paths), strict=True))


def _paths(records: Manifest) -> pa.ChunkedArray:
    """The resolved paths, `storable`. Folders are resolved once each, since a million files are in few of them."""
    chunks = []
    for part in records.parts:
        folder = part.path.parent
        images = _with_slashes(Manifest([part]).column("image"), folder)
        inside = pc.binary_join_element_wise(naming.storable(str(folder)), images, "/")
        pieces = pc.split_pattern(
            pc.if_else(pc.starts_with(images, "/"), images, inside), "/", max_splits=1, reverse=True
        )
        folders = pc.list_element(pieces, 0)
        different = pc.unique(folders)
        real = [os.path.realpath(naming.from_storable(text)) for text in different.to_pylist()]
        places = pc.index_in(folders, value_set=different).combine_chunks()
        parents = pa.array(map(naming.storable, real), pa.string()).take(places)
        chunks.append(pc.binary_join_element_wise(parents, pc.list_element(pieces, 1).combine_chunks(), "/"))
    return pa.chunked_array(chunks, pa.string())


def _with_slashes(images: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    """The names, those with a backslash as the file is called that they lead to."""
    backslash = pc.match_substring(images, "\\")
    if not pc.any(backslash, min_count=0).as_py():
        return images
    names = [
        naming.storable(naming.name_of(naming.image_path(folder, name), folder)) if "\\" in name else name
        for name in images.to_pylist()
    ]
    return pa.chunked_array([pa.array(names, pa.string())])
