"""Which records show the same thing: equal bytes, nearly equal images, one file, one case, one patient.

Two images are nearly equal if their 64-bit perceptual hashes (imagehash's pHash) differ in few bits.
benchmarks/records/near_duplicates.py measures which copies a distance finds and which images it confuses.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import pyarrow as pa

    from skingpt4.records.comparing.identity import Keys

HASH_BITS = 64
NEAR = 6  # bits; see benchmarks/records/near_duplicates.py
_BLOCK = 2048  # rows compared at once: 2048 x 2048 differences are 32 MB


def near_pairs(hashes: np.ndarray, distance: int, progress: bool = False) -> np.ndarray:
    """All pairs of hashes that differ in at most `distance` bits.

    Two hashes that differ in at most k bits agree in at least one of k + 1 pieces, so only hashes that share a
    piece are compared (multi-index hashing, Norouzi et al. 2012, arXiv 1307.2982, in its simplest form).

    Args:
        hashes: (n,) uint64, each value once.
        distance: 0 to 63 bits.
        progress: show a bar.

    Returns:
        (pairs, 2) int64, the smaller row first, in no particular order.
    """
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    pieces = list(pairwise(edges))
    for low, high in tqdm(pieces, desc="near duplicates", disable=not progress):
        mask = np.uint64(2**64 - 1) if high - low == HASH_BITS else np.uint64((1 << int(high - low)) - 1)
        piece = (hashes >> np.uint64(low)) & mask
        order = np.argsort(piece, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            pairs += _close(hashes, rows, distance)
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _close(hashes: np.ndarray, rows: np.ndarray, distance: int) -> list[np.ndarray]:
    pairs = []
    for start in range(0, len(rows), _BLOCK):
        left = rows[start : start + _BLOCK]
        for other in range(start, len(rows), _BLOCK):
            right = rows[other : other + _BLOCK]
            near = np.bitwise_count(hashes[left][:, None] ^ hashes[right][None]) <= distance
            a, b = np.nonzero(np.triu(near, 1) if other == start else near)
            if len(a):
                pairs.append(np.stack([left[a], right[b]], axis=1))
    return pairs


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """The cluster number (count,) int64 of each row when the rows of every pair belong together."""
    # Here and in `codes`, so that a --help that reads the constants of this file imports nothing heavy.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number (n,) int64 for each distinct text of a column; -1 for null."""
    numbers = column.combine_chunks().dictionary_encode().indices.fill_null(-1)
    return numbers.to_numpy(zero_copy_only=False).astype(np.int64)


def perceptual_hashes(keys: Keys) -> tuple[np.ndarray, np.ndarray]:
    """(hashes (m,) uint64 each once, row of each record among them (n,) int64 or -1 where it has none)."""
    encoded = keys.column("phash").combine_chunks().dictionary_encode()
    values = np.array([int(text, 16) for text in encoded.dictionary.to_pylist()], dtype=np.uint64)
    places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    unique, inverse = np.unique(values, return_inverse=True)
    return unique, np.where(places < 0, -1, inverse[places]) if len(unique) else places


def links(keys: Keys, distance: int = NEAR, progress: bool = False) -> dict[str, np.ndarray]:
    """For each kind of tie, a cluster number (n,) int64 per record; -1 where it has no tie of that kind to give.

    Kinds: ``exact`` (equal bytes), ``near`` (perceptual hash), ``file`` (one path), ``case``, ``patient`` (of one
    source).
    """
    unique, places = perceptual_hashes(keys)
    near = components(len(unique), near_pairs(unique, distance, progress)) if len(unique) else places
    return {
        "exact": codes(keys.column("sha256")),
        "near": np.where(places < 0, -1, near[places]),
        "file": codes(keys.column("path")),
        "case": codes(keys.column("case_id")),
        "patient": codes(keys.column("patient_id")),
    }


def repeats(numbers: np.ndarray) -> np.ndarray:
    """Whether an earlier record has the same number: (n,) bool; -1 is no number."""
    count = len(numbers)
    first = np.full(numbers.max(initial=-1) + 1, count)
    np.minimum.at(first, numbers[numbers >= 0], np.flatnonzero(numbers >= 0))
    result = numbers >= 0
    result[result] = np.flatnonzero(numbers >= 0) != first[numbers[numbers >= 0]]
    return result


def clusters(ties: dict[str, np.ndarray]) -> np.ndarray:
    """One cluster number (n,) int64 per record: records with a tie of any kind are in one cluster."""
    count = len(next(iter(ties.values())))
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for numbers in ties.values():
        rows = np.flatnonzero(numbers >= 0)
        order = rows[np.argsort(numbers[rows], kind="stable")]
        same = numbers[order][1:] == numbers[order][:-1]
        pairs.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    return components(count, np.concatenate(pairs))
