import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from eval import cases as eval_cases
from eval.asking import cases, drawing
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import RecordError
from skingpt4.support.files import file_sha256
from skingpt4.taxonomy.taxonomy import CLASSES


def manifest(path, rows):
    filled = [
        {"image": f"p/{n}.jpg", "sha256": hashlib.sha256(f"{path.name}{n}".encode()).hexdigest(), **row}
        for n, row in enumerate(rows)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in filled))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sample(*arguments):
    return eval_cases.main(["sample", *map(str, arguments)])


def test_several_pictures_make_one_case_with_history_and_reference(tmp_path):
    path = manifest(
        tmp_path / "cases.jsonl",
        [
            {
                "case_id": "a",
                "class": "herpes",
                "x_history": "two weeks",
                "x_reference": ["one", "two"],
                "x_urgency": "Soon",
            },
            {"disease": "psoriasis"},
            {"case_id": "a", "class": "herpes"},
        ],
    )
    found = cases.read_cases(path)
    assert [(case.id, len(case.records)) for case in found] == [("a", 2), ("p/1.jpg", 1)]
    assert (found[0].history, found[0].reference) == ("two weeks", ("one", "two"))
    assert found[0].known.class_name == "herpes"
    assert [case.urgency for case in found] == ["soon", None]


def test_words_for_nothing_make_no_case_and_contradict_nothing(tmp_path):
    path = manifest(
        tmp_path / "cases.jsonl",
        [
            {
                "case_id": "a",
                "class": "herpes",
                "disease": "nan",
                "x_history": "n/a",
                "x_reference": ["nan", "two"],
            },
            {"case_id": "a", "class": "herpes", "disease": None},
            {"case_id": "unknown", "class": "herpes", "x_reference": ["nan", "-"]},
            {"case_id": "unknown", "disease": "psoriasis"},
        ],
    )
    read = cases.read_cases(path)
    assert [case.id for case in read] == ["a", "p/2.jpg", "p/3.jpg"]
    assert (read[0].history, read[0].reference, read[1].reference) == (None, ("", "two"), ())
    drawing.write_sample(path, Keys(read_manifest(path)), [2, 3], tmp_path / "drawn/cases.jsonl")
    assert [row["case_id"] for row in rows_of(tmp_path / "drawn/cases.jsonl")] == ["case-0001", "case-0002"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"case_id": "a"}], "case 'a' has neither 'class' nor 'disease'"),
        (
            [{"case_id": "a", "class": "herpes"}, {"case_id": "a", "class": "dermatitis"}],
            "different values under 'class'",
        ),
    ],
)
def test_cases_that_cannot_be_judged_are_refused(tmp_path, capsys, rows, sentence):
    assert eval_cases.main(["check", str(manifest(tmp_path / "c.jsonl", rows))]) == 1
    assert sentence in capsys.readouterr().err


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"image": "a.jpg", "clas": "herpes"}\n')
    with pytest.raises(RecordError, match="line 1"):
        cases.read_cases(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_history": {"age": 3}}, "'x_history' of case 'a.jpg' must be text, found {'age': 3}"),
        ({"x_urgency": "tomorrow"}, "must be one of self-care, routine, soon, today, found 'tomorrow'"),
        ({"x_reference": 7}, "'x_reference' of case 'a.jpg' must be text or a list of texts, found 7"),
        ({"x_reference": ["fine", None]}, "must be text or a list of texts"),
        ({}, "a.jpg: no such picture (1 missing)"),
    ],
)
def test_what_a_case_cannot_be(tmp_path, capsys, change, message):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"image": "a.jpg", "class": "herpes", **change}) + "\n")
    assert eval_cases.main(["check", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_a_list_whose_pictures_are_there_is_counted(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"is not opened")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"image": "a.jpg", "class": "herpes", "x_reference": "It is."})
    )
    assert eval_cases.main(["check", str(tmp_path / "c.jsonl")]) == 0
    assert "1 cases, 1 pictures" in capsys.readouterr().out


def test_ten_a_class_seeded_and_apart_from_training(tmp_path):
    pool = [
        {"class": name, "patient_id": f"{name}-{n // 2}", "source": "s"}
        for name in CLASSES
        for n in range(30)
    ]
    path = manifest(tmp_path / "in" / "pool.jsonl", pool)
    train = manifest(
        tmp_path / "train.jsonl", [{**row, "image": f"t/{n}.jpg"} for n, row in enumerate(pool) if n % 5 == 0]
    )
    for out in ("a", "b"):
        assert sample(path, "--train", train, "--out", tmp_path / f"{out}.jsonl", "--per-class", 5) == 0
    assert sample(path, "--train", train, "--out", tmp_path / "c.jsonl", "--per-class", 5, "--seed", 1) == 0
    drawn = rows_of(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert (tmp_path / "a.jsonl").read_text() != (tmp_path / "c.jsonl").read_text()
    assert len(drawn) == 75
    assert len({row["patient_id"] for row in drawn}) == 75  # at most one of a cluster
    assert not {row["patient_id"] for row in drawn} & {row["patient_id"] for row in rows_of(train)}
    assert drawn[0]["image"].startswith("in/p/")
    assert len(cases.read_cases(tmp_path / "a.jsonl")) == 75


def test_too_few_is_said_for_every_class_and_nothing_is_written(tmp_path, capsys):
    path = manifest(tmp_path / "pool.jsonl", [{"class": "herpes"}] * 3 + [{"class": "dermatitis"}])
    out = tmp_path / "cases.jsonl"
    assert sample(path, "--out", out, "--per-class", 2, "--classes", "herpes,dermatitis,vascular_tumors") == 1
    assert "dermatitis 1, vascular_tumors 0" in capsys.readouterr().err
    assert not out.exists()


def test_drawn_cases_are_not_drawn_again(tmp_path, capsys):
    path = manifest(tmp_path / "pool.jsonl", [{"class": "herpes"}] * 3)
    for status in (0, 1):
        assert sample(path, "--out", tmp_path / "c.jsonl", "--per-class", 1, "--classes", "herpes") == status
    assert "are not drawn twice" in capsys.readouterr().err
    assert sample(path, "--out", tmp_path / "d.jsonl", "--classes", "herpe") == 1
    assert "'herpe' is not a class" in capsys.readouterr().err


# ---- keys that the manifests lack


@pytest.fixture
def pictures(tmp_path):
    """A manifest of nothing but pictures and a class."""
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    path = tmp_path / "pool.jsonl"
    rows = [{"image": f"{number}.png", "class": "herpes"} for number in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_without_hashes_no_case_is_a_training_picture(pictures, tmp_path, capsys):
    train = tmp_path / "train.jsonl"
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    Image.open(tmp_path / "2.png").save(tmp_path / "again.webp", lossless=True)
    images = ["0.png", "copy.png", "again.webp"]  # the same file, the same bytes, the same pixels
    train.write_text("".join(json.dumps({"image": name}) + "\n" for name in images))
    options = ["--train", train, "--classes", "herpes", "--out", tmp_path / "cases.jsonl", "--per-class"]
    assert sample(pictures, *options, 4) == 1
    assert "there are only: herpes 3" in capsys.readouterr().err
    assert sample(pictures, *options, 3) == 0
    drawn = rows_of(tmp_path / "cases.jsonl")
    assert [row["image"] for row in drawn] == ["3.png", "4.png", "5.png"]
    assert [row["sha256"] for row in drawn] == [file_sha256(tmp_path / row["image"]) for row in drawn]


def test_what_cannot_be_compared_is_not_drawn_and_nothing_at_all_is_refused(pictures, tmp_path, capsys):
    for number in range(4):
        (tmp_path / f"{number}.png").unlink()
    options = ["--classes", "herpes", "--out", tmp_path / "cases.jsonl", "--per-class"]
    blind = tmp_path / "blind.jsonl"
    blind.write_text('{"image": "gone.png"}\n')
    assert sample(pictures, "--train", blind, *options, 1) == 1
    assert f"1 of 1 records of --train {blind} could not be compared" in capsys.readouterr().err
    assert sample(blind, *options, 1) == 1
    assert "1 of 1 records of the manifest could not be compared" in capsys.readouterr().err
    assert sample(pictures, *options, 3) == 1
    assert "there are only: herpes 2" in capsys.readouterr().err
    assert sample(pictures, *options, 2) == 0
    assert (
        "4 of 6 records of the manifest could not be compared: no hash and no file" in capsys.readouterr().err
    )
    assert [row["image"] for row in rows_of(tmp_path / "cases.jsonl")] == ["4.png", "5.png"]
