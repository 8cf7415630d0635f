"""Splits without leaks: what belongs together stays together, and the report says what would have leaked."""

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import split
from data.preparing.shards import pack
from skingpt4.records.comparing.hashes import hashes_of
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.names import make_files


def manifest(path, rows):
    lines = []
    for number, row in enumerate(rows):
        filled = {
            "image": f"pictures/{number}.jpg",
            "sha256": hashlib.sha256(f"{path.name} {number}".encode()).hexdigest(),
            "source": "made",
            **row,
        }
        lines.append(json.dumps(filled) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments):
    return split.main([str(argument) for argument in arguments])


def test_pictures_named_in_any_way_are_found_from_every_split(tmp_path):
    names = ["L\udce4sion.jpg", "50% #2 皮疹.jpg", "b/two\nlines.jpg", "../outside.jpg", "link/a.jpg"]
    make_files(tmp_path / "in", [*names, "images/w.jpg"])
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real/deep")  # .. in a name means the real parent
    absolute = f"{tmp_path}/in/{names[0]}"
    listed = [*names, "images\\w.jpg", absolute]
    path = manifest(tmp_path / "in/all.jsonl", [{"image": name, "class": "herpes"} for name in listed])
    assert run(path, "--out-dir", tmp_path / "out", "--shares", "train=0.5,test=0.5") == 0
    rows = [row for name in ("train", "test", "removed") for row in rows_of(tmp_path / f"out/{name}.jsonl")]
    paths = [tmp_path / "out" / row["image"] for row in rows]
    assert {os.path.realpath(path) for path in paths} == {
        os.path.realpath(tmp_path / "in" / name) for name in [*names, "images/w.jpg"]
    }
    assert [row["reason"] for row in rows if row["image"] == absolute or "reason" in row] == ["the same file"]


def test_no_tie_crosses_splits_and_classes_keep_their_shares(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"class": CLASSES[int(rng.integers(3))], "patient_id": f"p{rng.integers(400)}"} for _ in range(1000)
    ]
    path = manifest(tmp_path / "in" / "all.jsonl", rows)
    assert run(path, "--out-dir", tmp_path / "out", "--shares", "train=0.7,validation=0.1,test=0.2") == 0
    parts = {name: rows_of(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 1000
    patients = [{row["patient_id"] for row in part} for part in parts.values()]
    assert not any(a & b for i, a in enumerate(patients) for b in patients[:i])
    for share, part in zip((0.7, 0.1, 0.2), parts.values(), strict=True):
        assert len(part) / 1000 == pytest.approx(share, abs=0.02)
    assert parts["test"][0]["image"].startswith("../in/pictures/")
    assert {row["split"] for row in parts["validation"]} == {"validation"}
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    leaked = report["would_have_leaked"]["a random split of rows"]
    assert leaked["patient"] == leaked["any"] > 100


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    path = manifest(tmp_path / "all.jsonl", [{"class": "herpes"}] * 50)
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(path, "--out-dir", tmp_path / name, "--seed", seed) == 0
        texts.append((tmp_path / name / "test.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_equal_bytes_are_kept_once_and_conflicts_counted(tmp_path, capsys):
    same = "a" * 64
    rows = [{"sha256": same, "class": "herpes"}, {"sha256": same, "class": "dermatitis"}, {}]
    path = manifest(tmp_path / "all.jsonl", rows)
    assert run(path, "--out-dir", tmp_path / "out", "--shares", "train=1") == 0
    removed = rows_of(tmp_path / "out" / "removed.jsonl")
    assert removed == [{"image": "../pictures/1.jpg", "reason": "equal bytes"}]
    assert "1 images are under more than one class" in capsys.readouterr().out


def test_what_is_tied_to_an_evaluation_is_left_out(tmp_path):
    train = manifest(tmp_path / "all.jsonl", [{"case_id": "c1"}, {"case_id": "c2"}, {"sha256": "b" * 64}])
    cases = manifest(tmp_path / "cases" / "cases.jsonl", [{"case_id": "c2"}, {"sha256": "b" * 64}])
    assert run(train, "--exclude", cases, "--out-dir", tmp_path / "out", "--shares", "train=1") == 0
    assert [row["case_id"] for row in rows_of(tmp_path / "out" / "train.jsonl")] == ["c1"]


def test_the_sources_own_split_and_the_bare_names_are_judged(tmp_path):
    rows = [
        {"image": "Acne/a.jpg", "split": "train", "sha256": "a" * 64, "class": "acne_and_rosacea"},
        {"image": "Eczema/a.jpg", "split": "test", "sha256": "a" * 64, "class": "dermatitis"},
        {"image": "Eczema/b.jpg", "split": "test"},
    ]
    path = manifest(tmp_path / "all.jsonl", rows)
    assert run(path, "--out-dir", tmp_path / "out", "--shares", "train=1") == 0
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    own = report["would_have_leaked"]["the source's own split"]
    assert (own["outside_training"], own["exact"], own["any"]) == (2, 1, 1)
    assert report["bare_file_names"] == {"distinct": 2, "lost": 1, "repeated_under_different_classes": 1}


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    path = manifest(tmp_path / "all.jsonl", [{}] * 20)
    assert run(path, "--out-dir", tmp_path / "out", "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    assert "20 records, 20 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shares", "train"], "'train' is not NAME=FRACTION; write for example train=0.8"),
        (["--shares", "tr ain=1"], "'tr ain=1' is not NAME=FRACTION"),
        (["--near", "64"], "64 is not a number of bits"),
        (["--shares", "all=1"], "all.jsonl would be overwritten"),
    ],
)
def test_bad_arguments_get_a_sentence_and_write_nothing(tmp_path, capsys, arguments, sentence):
    path = manifest(tmp_path / "all.jsonl", [{}])
    before = sorted(tmp_path.rglob("*"))
    assert run(path, "--out-dir", tmp_path, *arguments) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_pairs_are_drawn(tmp_path, capsys):
    near = 0xF0F0F0F0F0F0F0F0
    rows = [{"phash": f"{near:016x}"}, {"phash": f"{near ^ 7:016x}"}, {}]
    path = manifest(tmp_path / "all.jsonl", rows)
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 48), (200, 150 + number, 120)).save(tmp_path / "pictures" / f"{number}.jpg")
    options = ["--out-dir", tmp_path / "out", "--shares", "train=1", "--dry-run", "--pairs"]
    assert run(path, *options, tmp_path / "pairs.jpg") == 0
    assert Image.open(tmp_path / "pairs.jpg").size[0] > 400
    rows[1]["phash"] = f"{near ^ (2**40 - 1):016x}"
    assert run(manifest(path, rows), *options, tmp_path / "none.jpg") == 0
    assert not (tmp_path / "none.jpg").exists()
    assert "no pair" in capsys.readouterr().out
    gone = [{"image": f"{number}.gone"} for number in range(3)]
    assert run(manifest(path, gone), *options, tmp_path / "none.jpg") == 0
    assert "no record has a perceptual hash" in capsys.readouterr().out


def test_everything_excluded_is_an_error(tmp_path, capsys):
    path = manifest(tmp_path / "all.jsonl", [{}])
    assert run(path, "--exclude", path, "--out-dir", tmp_path / "out") == 1
    assert "nothing is left to split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- keys that the manifest lacks


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """24 pictures, of which 4 are copies and 4 were saved again at another quality, with the hashes of each."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(24):
        source = number if number < 16 else number - 16
        rng = np.random.default_rng(source)
        pixels = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=40 if number >= 20 else 90)
    return folder, [hashes_of(folder / f"{number}.jpg") for number in range(24)]


def without(photographs, path, dropped, rows=range(24)):
    """A manifest of the photographs, some of whose hashes are dropped: 1 is `sha256`, 2 `phash`, 3 both."""
    folder, hashes = photographs
    image = os.path.relpath(folder, path.parent)
    lines = [
        {"image": f"{image}/{n}.jpg", "class": CLASSES[n % 2]}
        | ({} if drop & 1 else {"sha256": hashes[n].sha256})
        | ({} if drop & 2 else {"phash": hashes[n].phash})
        for n, drop in zip(rows, dropped, strict=False)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=24, max_size=24), st.integers(0, 3))
def test_a_manifest_without_hashes_is_split_as_with_them(photographs, tmp_path_factory, dropped, held_out):
    folder = tmp_path_factory.mktemp("split")
    cases = without(photographs, folder / "cases.jsonl", dropped[::-1], range(held_out, 24, 5))
    written = {}
    for name, drops in (("complete", [0] * 24), ("lacking", dropped)):
        path = without(photographs, folder / f"{name}.jsonl", drops)
        options = ["--exclude", cases, "--out-dir", folder / name, "--shares", "train=0.5,test=0.5"]
        assert run(path, *options) == 0
        written[name] = [
            (folder / name / f"{part}.jsonl").read_text() for part in ("train", "test", "removed")
        ]
    rows = [
        [[json.loads(line) for line in text.splitlines()] for text in texts] for texts in written.values()
    ]
    assert rows[0] == rows[1]  # also the hashes: what was computed is written
    assert {len(row["sha256"]) for row in rows[1][0]} == {64}


def test_pictures_in_shards_are_those_of_the_folder(photographs, tmp_path):
    path = without(photographs, tmp_path / "all.jsonl", [3] * 24)
    cases = without(photographs, tmp_path / "cases.jsonl", [3] * 24, range(0, 24, 8))
    packed = pack(cases, tmp_path / "packed", 10**6)
    lines = [json.dumps({"image": row["image"]}) + "\n" for row in rows_of(packed)]
    packed.write_text("".join(lines))
    assert run(path, "--exclude", packed, "--out-dir", tmp_path / "out", "--shares", "train=1") == 0
    removed = rows_of(tmp_path / "out" / "removed.jsonl")
    # Of each of the three, the copy and the one saved again at another quality go too.
    tied = [row["image"] for row in removed if row["reason"] == "tied to a record of --exclude"]
    assert {int(os.path.basename(name)[:-4]) % 16 for name in tied} == {0, 8}


def test_records_without_hash_and_file_are_counted_and_nothing_at_all_is_refused(tmp_path, capsys):
    path = manifest(tmp_path / "all.jsonl", [{"sha256": None}] * 12 + [{}] * 48)
    assert run(path, "--out-dir", tmp_path / "out") == 0
    sentence = "12 of 60 records of the manifests could not be compared: no hash and no file that can be read"
    assert sentence in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "split_report.json").read_text())["not_compared"] == [sentence]
    blind = manifest(tmp_path / "blind.jsonl", [{"sha256": None}] * 12)
    for arguments in ([blind], [path, "--exclude", blind], [path, "--exclude", path, "--exclude", blind]):
        assert run(*arguments, "--out-dir", tmp_path / "none") == 1
        assert "12 of 12 records of " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_is_unknown_is_not_reported_as_no_leak(tmp_path, capsys):
    assert run(manifest(tmp_path / "all.jsonl", [{}] * 60), "--out-dir", tmp_path / "out") == 0
    assert "(0 exact, near unknown, 0 file, case unknown, patient unknown)" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    assert report["would_have_leaked"]["a random split of rows"]["patient"] is None
    assert report["known"] == {"exact": 60, "near": 0, "file": 60, "case": 0, "patient": 0}


# ---- splits that would be empty


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [{"patient_id": "p"}] * 97 + [{}] * 3,
            "one cluster holds 97 of 100 records (97%; tied: 97 by patient)",
        ),
        ([{}] * 4, "test would be empty (10% of 4 records for test): there are too few records"),
    ],
)
def test_a_split_that_would_be_empty_is_refused_with_the_reason(tmp_path, capsys, rows, sentence):
    assert run(manifest(tmp_path / "all.jsonl", rows), "--out-dir", tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_small_classes_leave_no_split_empty(tmp_path):
    rows = [{"class": name} for name in CLASSES for _ in range(4)]
    assert run(manifest(tmp_path / "all.jsonl", rows), "--out-dir", tmp_path / "out") == 0
    assert [len(rows_of(tmp_path / "out" / f"{name}.jsonl")) for name in ("train", "validation", "test")] == [
        48, 6, 6,
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(0, 5))
def test_every_split_has_records_or_nothing_is_written(tmp_path_factory, patients, seed):
    folder = tmp_path_factory.mktemp("empty")
    path = manifest(folder / "all.jsonl", [{"patient_id": f"p{patient}"} for patient in patients])
    status = run(path, "--out-dir", folder / "out", "--seed", seed)
    written = [folder / "out" / f"{name}.jsonl" for name in ("train", "validation", "test")]
    assert [file.is_file() and bool(rows_of(file)) for file in written] == [status == 0] * 3
