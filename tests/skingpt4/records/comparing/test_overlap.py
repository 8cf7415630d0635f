"""What training and evaluation share stops the run, with a count and the first pair."""

import json

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.comparing.overlap import (
    Comparison,
    OverlapError,
    check_cases,
    find_overlaps,
    image_hashes,
    merge_hashes,
    require_disjoint,
)
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.records.naming import storable
from tests.support.names import make_files


def sha(n):
    return f"{n:08x}" * 8


def phash(n):
    return f"{0x0F0F0F0F0F0F0000 + n:016x}"


def row(n, **fields):
    return {
        "image": f"{n}.png", "sha256": sha(n), "phash": phash(n), "source": "a", "case_id": f"c{n}",
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


def overlaps(training, evaluation):
    return find_overlaps(Keys(read_manifest(training)), Keys(read_manifest(evaluation)))


def test_nothing_shared(manifest):
    one = manifest("train.jsonl", *map(row, range(5)))
    assert overlaps(one, manifest("cases.jsonl", *map(row, range(5, 9)))) == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sha256", {"sha256": sha(2)}),
        ("phash", {"phash": phash(2)}),
        ("case_id", {"case_id": "c2"}),
        ("patient_id", {"patient_id": "p2"}),
    ],
)
def test_each_kind_is_found_with_both_places(kind, fields, manifest):
    train = manifest("train.jsonl", *map(row, range(5)))
    cases = manifest("cases.jsonl", row(8), row(9, **fields))
    (overlap,) = overlaps(train, cases)
    assert (overlap.kind, overlap.count) == (kind, 1)
    assert (overlap.trained, overlap.evaluated) == (f"{train}, line 3", f"{cases}, line 2")


def test_every_record_of_the_training_counts(manifest):
    train = manifest("train.jsonl", *(row(n, patient_id="p1") for n in range(7)), row(8))
    cases = manifest("cases.jsonl", row(20, patient_id="p1"), row(21, patient_id="p1"))
    (overlap,) = overlaps(train, cases)
    assert overlap.count == 7


def test_ids_of_another_source_are_other_ids(manifest):
    one = manifest("train.jsonl", row(1), row(2, source=None))
    two = manifest("cases.jsonl", row(5, source="b", case_id="c1", patient_id="p1"))
    assert overlaps(one, two) == []
    unnamed = manifest("unnamed.jsonl", row(6, source=None, case_id="c2"))
    assert [o.kind for o in overlaps(one, unnamed)] == ["case_id"]


def test_unknown_is_not_equal_to_unknown(manifest):
    one = manifest("one/train.jsonl", {"image": "a.png"})
    assert overlaps(one, manifest("two/cases.jsonl", {"image": "a.png"})) == []


def test_the_same_file_is_found_whatever_the_hashes_say(manifest):
    one = manifest("one/train.jsonl", row(0), row(1, image="../pictures/a.png"))
    two = manifest("two/cases.jsonl", row(8, image="../pictures/./a.png"))
    (overlap,) = overlaps(one, two)
    assert (overlap.kind, overlap.count, overlap.trained) == ("path", 1, f"{one}, line 2")


def test_the_same_file_is_found_through_a_linked_folder_and_in_an_archive(manifest, tmp_path):
    one = manifest("one/train.jsonl", row(0, image="a.tar/x/a.png"), row(1, image="b.png"))
    (tmp_path / "linked").symlink_to(tmp_path / "one")
    two = manifest("linked/cases.jsonl", row(8, image="a.tar/x/../x/a.png"), row(9, image="b.png"))
    (overlap,) = overlaps(one, two)
    assert (overlap.kind, overlap.count) == ("path", 2)


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


def test_what_cannot_be_compared_is_counted_and_nothing_at_all_is_refused(manifest):
    bare = {"image": "gone.png", "case_id": "c9", "source": "a"}
    records = read_manifest(manifest("train.jsonl", *map(row, range(4)), bare))
    cases = manifest("cases.jsonl", row(8), row(9, image="9.gone", sha256=None, phash=None, case_id="x"))
    assert require_disjoint(records, [cases, cases], allowed=False) == [
        "data.evaluation: 1 of 5 records of training could not be compared: no hash and no file that can be read",
        f"data.evaluation: 1 of 2 records of {cases} could not be compared: no hash and no file that can be read",
    ]
    nothing = manifest("nothing.jsonl", {"image": "other.png"})
    with pytest.raises(
        OverlapError, match=r"cannot be checked: .*; 1 of 1 records of .*nothing\.jsonl could not"
    ):
        require_disjoint(records, [nothing], allowed=False)
    assert len(require_disjoint(records, [nothing], allowed=True)) == 2
    by_phash = read_manifest(manifest("phash.jsonl", row(1, sha256=None)))
    by_bytes = manifest("bytes.jsonl", row(2, phash=None))
    with pytest.raises(OverlapError, match=r"1 of 1 records of .* only a kind of hash that others lack"):
        require_disjoint(by_phash, [by_bytes], allowed=False)


def test_a_manifest_that_is_not_there_yet_is_told(manifest, tmp_path):
    records = read_manifest(manifest("train.jsonl", row(1)))
    (note,) = require_disjoint(records, [str(tmp_path / "later.jsonl")], allowed=False)
    assert "later.jsonl does not exist, so overlap with it was not checked" in note


# ---- a checkpoint's memory


def save(folder, records, train=(), seen=True):
    card = {"config": {"data": {"train": list(train)}}}
    hashes = image_hashes(records) if seen else None
    checkpoint.save(folder, {"weight": torch.zeros(1)}, card, seen=hashes)
    return remembered(folder)


def remembered(folder):
    card = checkpoint.load(folder)[1]
    return checkpoint.load_seen(folder, card), *checkpoint.training_manifests(card)


def test_a_checkpoint_knows_its_pictures_where_the_manifests_are_not(manifest, tmp_path):
    records = read_manifest(manifest("train.jsonl", *map(row, range(5))))
    seen = save(tmp_path / "c", records, ["gone.jsonl"])
    other = row(7, case_id=None, patient_id=None)
    assert check_cases(read_manifest(manifest("other.jsonl", other)), *seen) == Comparison([], [], False)
    cases = read_manifest(manifest("cases.jsonl", row(4), row(7), row(2, phash=None)))
    result = check_cases(cases, *seen)
    assert result.shared == ["2 by the same picture", "1 by the same picture by perceptual hash"]
    assert result.uncompared == ["cases and patients were not compared: gone.jsonl does not exist"]
    assert not result.nothing


def test_cases_and_patients_are_compared_where_the_manifests_are(manifest, tmp_path):
    train = manifest("train.jsonl", *map(row, range(5)))
    seen = save(tmp_path / "c", read_manifest(train), [train])
    cases = read_manifest(manifest("cases.jsonl", row(7, patient_id="p1")))
    result = check_cases(cases, *seen)
    (clause,) = result.shared
    assert clause.startswith("1 by the same patient, first ")
    assert result.uncompared == []


def test_patients_of_the_training_before_it_are_compared_too(manifest, tmp_path):
    step1, step2 = manifest("step1.jsonl", row(1)), manifest("step2.jsonl", row(2))
    save(tmp_path / "step1", read_manifest(step1), [step1])
    parent = {"path": str(tmp_path / "step1"), **checkpoint.load(tmp_path / "step1")[1]}
    parent = {key: parent[key] for key in ("path", "tensors_sha256")} | {"step": "step1", "iteration": 1}
    card = {"config": {"data": {"train": [step2]}}, "parent": parent}
    both = merge_hashes(*(image_hashes(read_manifest(path)) for path in (step1, step2)))
    checkpoint.save(tmp_path / "step2", {"weight": torch.ones(1)}, card, seen=both)
    cases = read_manifest(manifest("cases.jsonl", row(7, patient_id="p1")))
    (clause,) = check_cases(cases, *remembered(tmp_path / "step2")).shared
    assert clause.startswith(f"1 by the same patient, first {step1}, line 1")
    (tmp_path / "step1" / "checkpoint.json").unlink()
    result = check_cases(cases, *remembered(tmp_path / "step2"))
    assert result.shared == []
    assert result.uncompared == [
        "cases and patients were not compared: the checkpoint that it began from does not exist"
    ]


def test_a_checkpoint_that_names_itself_as_its_parent_is_read_once(manifest, tmp_path):
    path = manifest("train.jsonl", row(1))
    save(tmp_path / "c", read_manifest(path), [path])
    card = checkpoint.load(tmp_path / "c")[1]
    card["parent"] = {"path": str(tmp_path / "c"), "tensors_sha256": card["tensors_sha256"]}
    assert checkpoint.training_manifests(card) == ([path], [])


def test_a_bundled_start_saw_drawings_that_are_nobodys():
    start = checkpoint.load("skingpt4/weights/bundled/aligned_tiny")[1]
    parent = {"path": "skingpt4/weights/bundled/aligned_tiny", "tensors_sha256": start["tensors_sha256"]}
    card = {"config": {"data": {"train": ["a.jsonl"]}}, "parent": parent}
    assert checkpoint.training_manifests(card) == (["a.jsonl"], [])
    card["parent"]["tensors_sha256"] = "0" * 64
    assert checkpoint.training_manifests(card)[1] == ["the checkpoint that it began from does not exist"]


@pytest.mark.parametrize("path", [7, ["x"], None, "", "a\0b", "/dev/zero", ".."])
def test_a_parent_that_is_no_path_does_not_exist(path):
    card = {"config": {"data": {"train": ["a.jsonl"]}}, "parent": {"path": path, "tensors_sha256": "0" * 64}}
    assert checkpoint.training_manifests(card) == (
        ["a.jsonl"],
        ["the checkpoint that it began from does not exist"],
    )


def test_where_nothing_can_be_compared_it_says_so(manifest, tmp_path):
    cases = read_manifest(manifest("cases.jsonl", row(7)))
    old = check_cases(cases, *save(tmp_path / "old", Manifest(), ["gone.jsonl"], seen=False))
    assert (old.shared, old.nothing) == ([], True)
    assert old.uncompared == [
        "pictures were not compared: it has no hashes of them, and gone.jsonl does not exist"
    ]
    foreign = check_cases(cases, {}, *checkpoint.training_manifests({}))
    assert foreign.nothing
    assert foreign.uncompared[0].endswith(
        "it has no hashes of them, and a checkpoint does not name its manifests"
    )
    bare = read_manifest(manifest("bare.jsonl", {"image": "a.png"}))
    unhashed = check_cases(
        cases, *save(tmp_path / "bare", bare, [manifest("bare.jsonl", {"image": "a.png"})])
    )
    assert unhashed.nothing
    assert (
        "1 of 1 records of its training could not be compared: no hash and no file" in unhashed.uncompared[0]
    )


def test_a_kind_of_hash_that_one_side_lacks_is_named(manifest, tmp_path):
    sentence = "perceptual hashes were not compared: only one side has any"
    own = [row(n, phash=None, case_id=None, patient_id=None) for n in range(3)]
    records, cases = read_manifest(manifest("train.jsonl", *own)), manifest("cases.jsonl", row(7))
    assert require_disjoint(records, [cases], allowed=False) == [f"data.evaluation: {sentence}"]
    old = save(tmp_path / "old", records, [str(tmp_path / "train.jsonl")])
    assert check_cases(read_manifest(cases), *old).uncompared == [sentence]


def test_a_checkpoint_remembers_how_many_records_had_no_hash(manifest, tmp_path):
    bare = [{"image": f"{n}.gone"} for n in range(3)]
    own = image_hashes(read_manifest(manifest("train.jsonl", row(1), *bare)))
    both = merge_hashes(own, image_hashes(read_manifest(manifest("parent.jsonl", row(2), *bare[:1]))))
    checkpoint.save(tmp_path / "c", {"weight": torch.zeros(1)}, {}, seen=both)
    cases = read_manifest(manifest("cases.jsonl", row(7, case_id=None, patient_id=None)))
    result = check_cases(cases, *remembered(tmp_path / "c"))
    assert result.uncompared == ["4 records of its training had no hash and no file"]
    assert not result.nothing


def test_hashes_say_nothing_of_ids_and_join_those_of_the_parent(manifest):
    one = image_hashes(read_manifest(manifest("a.jsonl", *map(row, range(5)))))
    two = image_hashes(read_manifest(manifest("b.jsonl", *map(row, range(3, 8)))))
    assert one.keys() == {"sha256", "phash"}
    assert one["phash"].tolist() == [int(phash(n), 16) for n in range(5)]
    odd = read_manifest(manifest("odd.jsonl", row(1, sha256="fedcba9876543210" * 4), row(2, sha256=None)))
    assert [n % 2**64 for n in image_hashes(odd)["sha256"].tolist()] == [0xFEDCBA9876543210]
    both = merge_hashes(one, two)
    all_hashes = image_hashes(chain([read_manifest(manifest("c.jsonl", *map(row, range(8))))]))
    assert {key: value.tolist() for key, value in both.items()} == {
        k: v.tolist() for k, v in all_hashes.items()
    }
    assert merge_hashes({}, one)["phash"].tolist() == one["phash"].tolist()


@pytest.mark.parametrize("name", ["F\udce4lle/L\udce4sion.png", "images\\a.png", "two\nlines/a.png"])
def test_the_same_file_is_seen_under_any_name(manifest, tmp_path, name):
    written = name.replace("\\", "/")
    make_files(tmp_path, [written])
    one = manifest("train.jsonl", row(1, image=name))
    other = manifest("lists/cases.jsonl", row(2, image=f"{tmp_path}/{written}"))
    paths = [Keys(read_manifest(path)).column("path").to_pylist() for path in (one, other)]
    assert paths[0] == paths[1] == [storable(str(tmp_path / written))]
