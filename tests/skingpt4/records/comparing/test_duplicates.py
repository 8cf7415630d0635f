"""Which records show the same thing: nearly equal hashes, and ties of every kind."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.records.comparing import duplicates
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.manifest import read_manifest


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=40), st.integers(0, 9), st.data())
def test_near_pairs_equals_comparing_all(values, distance, data):
    values = list(values)
    for value in values[:5]:  # random hashes are far apart: put some close ones in
        for _ in range(3):
            bits = data.draw(st.sets(st.integers(0, 63), max_size=10))
            values.append(value ^ sum(1 << bit for bit in bits))
    hashes = np.unique(np.array(values, dtype=np.uint64))
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= distance
    }
    assert {tuple(pair) for pair in duplicates.near_pairs(hashes, distance).tolist()} == expected


def test_large_buckets_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    hashes = np.arange(20, dtype=np.uint64)
    assert len(duplicates.near_pairs(hashes, 5)) == 190


def test_ties_of_every_kind_stand_together(tmp_path):
    near = 0xF0F0F0F0F0F0F0F0
    rows = [
        {"patient_id": "p1"},
        {"patient_id": "p1", "case_id": "c1"},
        {"case_id": "c1", "phash": f"{near:016x}"},
        {"phash": f"{near ^ 0b111111:016x}"},
        {"phash": f"{near ^ 0b1111111111111:016x}"},  # 7 bits from the one before, 13 from the first
        {"patient_id": "p1", "source": "elsewhere"},  # another source's p1
        {"phash": "8000000000000000"},  # two images without structure are not one
        {"phash": "8000000000000001"},
        {"image": "x/../8.jpg"},
        {"image": "./8.jpg"},
    ]
    path = tmp_path / "all.jsonl"
    path.write_text(
        "".join(
            json.dumps({"image": f"{n}.jpg", "source": "made", **row}) + "\n" for n, row in enumerate(rows)
        )
    )
    cluster = duplicates.clusters(duplicates.links(Keys(read_manifest(path))))
    assert len(set(cluster[:4])) == 1
    assert len(set(cluster[3:8])) == 5
    assert cluster[8] == cluster[9] not in cluster[:8]
