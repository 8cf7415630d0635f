"""Splits without leaks: what belongs together stays together, and the report says what would have leaked."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from data import split
from skingpt4.taxonomy.taxonomy import CLASSES


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
    leaked = report["would_have_leaked"]["rows dealt out one by one"]
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
    assert run(manifest(tmp_path / "all.jsonl", rows), "--out-dir", tmp_path / "out") == 0
    removed = rows_of(tmp_path / "out" / "removed.jsonl")
    assert removed == [{"image": "../pictures/1.jpg", "reason": "equal bytes"}]
    assert "1 images are under more than one class" in capsys.readouterr().out


def test_what_is_tied_to_an_evaluation_is_left_out(tmp_path):
    train = manifest(tmp_path / "all.jsonl", [{"case_id": "c1"}, {"case_id": "c2"}, {"sha256": "b" * 64}])
    cases = manifest(tmp_path / "cases.jsonl", [{"case_id": "c2"}, {"sha256": "b" * 64}])
    assert run(train, "--exclude", cases, "--out-dir", tmp_path / "out", "--shares", "train=1") == 0
    assert [row["case_id"] for row in rows_of(tmp_path / "out" / "train.jsonl")] == ["c1"]


def test_the_sources_own_split_and_the_bare_names_are_judged(tmp_path):
    rows = [
        {"image": "Acne/a.jpg", "split": "train", "sha256": "a" * 64, "class": "acne_and_rosacea"},
        {"image": "Eczema/a.jpg", "split": "test", "sha256": "a" * 64, "class": "dermatitis"},
        {"image": "Eczema/b.jpg", "split": "test"},
    ]
    assert run(manifest(tmp_path / "all.jsonl", rows), "--out-dir", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "split_report.json").read_text())
    own = report["would_have_leaked"]["the source's own split"]
    assert (own["outside_training"], own["exact"], own["any"]) == (2, 1, 1)
    assert report["bare_file_names"] == {"distinct": 2, "lost": 1, "repeated_under_different_classes": 1}


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    path = manifest(tmp_path / "all.jsonl", [{}] * 4)
    assert run(path, "--out-dir", tmp_path / "out", "--dry-run") == 0
    assert not (tmp_path / "out").exists()
    assert "4 records, 4 kept" in capsys.readouterr().out


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
    assert run(path, "--out-dir", tmp_path / "out", "--dry-run", "--pairs", tmp_path / "pairs.jpg") == 0
    assert Image.open(tmp_path / "pairs.jpg").size[0] > 400
    rows[1]["phash"] = f"{near ^ (2**40 - 1):016x}"
    assert (
        run(
            manifest(path, rows), "--out-dir", tmp_path / "out", "--dry-run", "--pairs", tmp_path / "none.jpg"
        )
        == 0
    )
    assert not (tmp_path / "none.jpg").exists()
    assert "no pair" in capsys.readouterr().out


def test_everything_excluded_is_an_error(tmp_path, capsys):
    path = manifest(tmp_path / "all.jsonl", [{}])
    assert run(path, "--exclude", path, "--out-dir", tmp_path / "out") == 1
    assert "nothing is left to split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
