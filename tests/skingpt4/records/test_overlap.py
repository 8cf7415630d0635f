"""What training and evaluation share stops the run, with a count and the first pair."""

import json

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.records.overlap import (
    OverlapError,
    check_cases,
    find_overlaps,
    image_hashes,
    merge_hashes,
    require_disjoint,
)


def sha(n):
    return f"{n:08x}" * 8


def row(n, **fields):
    return {
        "image": f"{n}.png", "sha256": sha(n), "phash": f"{n:016x}", "source": "a", "case_id": f"c{n}",
        "patient_id": f"p{n}", **fields,
    }  # fmt: skip


@pytest.fixture
def manifest(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(path)

    return write


def test_nothing_shared(manifest):
    one = read_manifest(manifest("train.jsonl", *map(row, range(5))))
    two = read_manifest(manifest("cases.jsonl", *map(row, range(5, 9))))
    assert find_overlaps(one, two) == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sha256", {"sha256": sha(2)}),
        ("phash", {"phash": f"{2:016x}"}),
        ("case_id", {"case_id": "c2"}),
        ("patient_id", {"patient_id": "p2"}),
    ],
)
def test_each_kind_is_found_with_both_places(kind, fields, manifest):
    train = manifest("train.jsonl", *map(row, range(5)))
    cases = manifest("cases.jsonl", row(8), row(9, **fields))
    (overlap,) = find_overlaps(read_manifest(train), read_manifest(cases))
    assert (overlap.kind, overlap.count) == (kind, 1)
    assert (overlap.trained, overlap.evaluated) == (f"{train}, line 3", f"{cases}, line 2")


def test_every_record_of_the_training_counts(manifest):
    train = manifest("train.jsonl", *(row(n, patient_id="p1") for n in range(7)), row(8))
    cases = manifest("cases.jsonl", row(20, patient_id="p1"), row(21, patient_id="p1"))
    (overlap,) = find_overlaps(read_manifest(train), read_manifest(cases))
    assert overlap.count == 7


def test_ids_of_another_source_are_other_ids(manifest):
    one = read_manifest(manifest("train.jsonl", row(1), row(2, source=None)))
    two = read_manifest(manifest("cases.jsonl", row(5, source="b", case_id="c1", patient_id="p1")))
    assert find_overlaps(one, two) == []
    unnamed = read_manifest(manifest("unnamed.jsonl", row(6, source=None, case_id="c2")))
    assert [o.kind for o in find_overlaps(one, unnamed)] == ["case_id"]


def test_unknown_is_not_equal_to_unknown(manifest):
    bare = {"image": "a.png"}
    one = read_manifest(manifest("one/train.jsonl", bare))
    assert find_overlaps(one, read_manifest(manifest("two/cases.jsonl", bare))) == []


def test_without_hashes_the_same_file_is_found(manifest):
    one = read_manifest(manifest("one/train.jsonl", {"image": "x.png"}, {"image": "../pictures/a.png"}))
    two = read_manifest(manifest("two/cases.jsonl", row(1, image="../pictures/./a.png")))
    (overlap,) = find_overlaps(one, two)
    assert (overlap.kind, overlap.count) == ("path", 1)


def test_the_run_stops_with_count_and_pair(manifest):
    train = manifest("train.jsonl", *map(row, range(5)))
    cases = manifest("cases.jsonl", *map(row, range(3, 9)))
    records = read_manifest(train)
    with pytest.raises(OverlapError) as caught:
        require_disjoint(records, [cases], allowed=False)
    message = str(caught.value)
    assert f"training shares records with {cases}: 2 by the same picture, first {train}, line 4" in message
    assert message.endswith("data.allow_overlap=true")
    (note,) = require_disjoint(records, [cases], allowed=True)
    assert "allowed by data.allow_overlap" in note


def test_a_manifest_that_is_not_there_yet_is_told(manifest, tmp_path):
    records = read_manifest(manifest("train.jsonl", row(1)))
    (note,) = require_disjoint(records, [str(tmp_path / "later.jsonl")], allowed=False)
    assert "later.jsonl does not exist, so overlap with it was not checked" in note


# ---- a checkpoint's memory


def save(folder, records, train=(), seen=True):
    card = {"config": {"data": {"train": list(train)}}}
    hashes = image_hashes(records) if seen else None
    checkpoint.save(folder, {"weight": torch.zeros(1)}, card, seen=hashes)
    card = checkpoint.load(folder)[1]
    return checkpoint.load_seen(folder, card), card


def test_a_checkpoint_knows_its_pictures_where_the_manifests_are_not(manifest, tmp_path):
    records = read_manifest(manifest("train.jsonl", *map(row, range(5))))
    seen, card = save(tmp_path / "c", records, ["gone.jsonl"])
    assert check_cases(read_manifest(manifest("other.jsonl", row(7))), seen, card) == ([], None)
    cases = read_manifest(manifest("cases.jsonl", row(4), row(7), row(2, phash=None)))
    shared, unchecked = check_cases(cases, seen, card)
    assert shared == ["2 by the same picture", "1 by the same picture by perceptual hash"]
    assert unchecked is None


def test_cases_and_patients_are_compared_where_the_manifests_are(manifest, tmp_path):
    train = manifest("train.jsonl", *map(row, range(5)))
    seen, card = save(tmp_path / "c", read_manifest(train), [train])
    cases = read_manifest(manifest("cases.jsonl", row(7, patient_id="p1")))
    (clause,), unchecked = check_cases(cases, seen, card)
    assert clause.startswith("1 by the same patient, first ")
    assert unchecked is None


def test_what_cannot_be_compared_is_said(manifest, tmp_path):
    cases = read_manifest(manifest("cases.jsonl", row(7)))
    old = save(tmp_path / "old", Manifest(), ["gone.jsonl"], seen=False)
    shared, unchecked = check_cases(cases, *old)
    assert shared == []
    assert "gone.jsonl was not checked" in unchecked
    unhashed = save(
        tmp_path / "bare", read_manifest(manifest("bare.jsonl", {"image": "a.png"})), ["gone.jsonl"]
    )
    assert "has no hashes" in check_cases(cases, *unhashed)[1]


def test_hashes_say_nothing_of_ids_and_join_those_of_the_parent(manifest):
    one = image_hashes(read_manifest(manifest("a.jsonl", *map(row, range(5)))))
    two = image_hashes(read_manifest(manifest("b.jsonl", *map(row, range(3, 8)))))
    assert one.keys() == {"sha256", "phash"}
    assert one["phash"].tolist() == [0, 1, 2, 3, 4]
    odd = read_manifest(manifest("odd.jsonl", row(1, sha256="fedcba9876543210" * 4), row(2, sha256=None)))
    assert [n % 2**64 for n in image_hashes(odd)["sha256"].tolist()] == [0xFEDCBA9876543210]
    both = merge_hashes(one, two)
    all_hashes = image_hashes(chain([read_manifest(manifest("c.jsonl", *map(row, range(8))))]))
    assert {key: value.tolist() for key, value in both.items()} == {
        k: v.tolist() for k, v in all_hashes.items()
    }
    assert merge_hashes({}, one)["phash"].tolist() == one["phash"].tolist()
