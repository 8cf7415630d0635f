"""The validator: counts what is good, names every bad row, stops where nothing would be learned."""

import hashlib
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from data.validate import main
from skingpt4.config.load import to_yaml
from skingpt4.records.comparing.hashes import hashes_of
from tests.support.tiny import tiny_config


@pytest.fixture
def folder(tmp_path):
    for n in range(3):
        Image.new("RGB", (20, 10 + n), (n, 90, 90)).save(tmp_path / f"{n}.png")
    return tmp_path


@pytest.fixture
def manifest(folder):
    def write(*rows, name="m.jsonl"):
        path = folder / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return str(path)

    return write


def run(capsys, *arguments):
    status = main([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_good_rows_are_counted(manifest, capsys):
    path = manifest({"image": "0.png", "disease": "acne"}, "", {"image": "1.png", "concepts": []})
    status, result = run(capsys, path)
    assert (status, result["ok"]) == (0, True)
    (one,) = result["manifests"]
    assert (one["good"], one["bad"], one["known"]) == (2, [], {"image": 2, "disease": 1})
    assert main([path]) == 0
    assert "m.jsonl: 2 good, 0 bad" in capsys.readouterr().out


def test_words_for_nothing_are_counted_and_not_known(manifest, capsys):
    turns = [{"question": "Why?", "answer": "nan"}]
    path = manifest(
        {"image": "0.png", "note": "nan", "patient_id": "unknown", "turns": turns},
        {"image": "1.png", "note": "n/a"},
    )
    status, result = run(capsys, path)
    (one,) = result["manifests"]
    assert (status, one["known"], one["blanks"]) == (
        0,
        {"image": 2},
        {"note": 2, "patient_id": 1, "turns": 1},
    )
    assert main([path]) == 0
    assert "read as empty: note 2, patient_id 1, turns 1" in capsys.readouterr().out


def test_every_bad_row_is_named(manifest, capsys):
    path = manifest(
        {"image": "0.png"}, "{", "", {"image": "a", "fitzpatrick": 9}, {"image": "1.png", "diseas": "x"}
    )
    status, result = run(capsys, path, manifest({"image": "2.png"}, name="n.jsonl"))
    assert (status, result["ok"]) == (1, False)
    one, other = result["manifests"]
    assert (one["good"], [bad["line"] for bad in one["bad"]]) == (1, [2, 4, 5])
    assert one["bad"][1]["reason"].startswith("'fitzpatrick' must be")
    assert other["ok"]
    assert main([path]) == 1
    assert "  line 5: 'diseas' is not a key of a record; did you mean 'disease'?" in capsys.readouterr().out


def test_what_repeats_another_record_is_counted_also_without_hashes(folder, manifest, capsys):
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    path = manifest(*({"image": name} for name in ("0.png", "copy.png", "1.png", "./1.png", "gone.png")))
    other = manifest({"image": "2.png"}, {"image": "./0.png"}, {"image": "gone.png"}, name="n.jsonl")
    bad = manifest({"image": ""}, name="bad.jsonl")
    assert run(capsys, path)[0] == 0
    status, result = run(capsys, path, other, bad)
    assert status == 1
    one, two, three = (checked["remarks"] for checked in result["manifests"])
    assert one == [
        "duplicates: 2 by the same picture, 1 by the same file",
        "1 of 5 records of the manifest could not be compared: no hash and no file that can be read",
    ]
    assert two[0] == "duplicates: none"
    assert two[1].startswith(
        f"shared with {path}: 1 by the same picture, first {other}, line 2 and {path}, line 1"
    )
    assert two[2].startswith("1 of 3 records of the manifest could not be compared")
    assert three == ["duplicates: not looked for; correct the bad lines first"]
    assert main([path]) == 0
    assert "\n  duplicates: 2 by the same picture" in capsys.readouterr().out


def test_a_perceptual_hash_of_another_picture_is_bad(folder, manifest, capsys):
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    own, other = (hashes_of(folder / f"{number}.png").phash for number in range(2))
    near = f"{int(own, 16) ^ 5:016x}"  # two bits, as another decoder may give
    path = manifest({"image": "0.png", "phash": near}, {"image": "0.png", "phash": other})
    status, result = run(capsys, path, "--check-images", "--workers", "1")
    assert status == 1
    assert [bad["line"] for bad in result["manifests"][0]["bad"]] == [2]
    assert (
        f"'phash' is {other} in the record, the picture's is {own}"
        in result["manifests"][0]["bad"][0]["reason"]
    )


def test_pictures_are_opened_and_compared(folder, manifest, capsys):
    digest = hashlib.sha256((folder / "0.png").read_bytes()).hexdigest()
    (folder / "bad.png").write_bytes((folder / "1.png").read_bytes()[:40])
    with tarfile.open(folder / "s.tar", "w") as tar:
        tar.add(folder / "2.png", "2.png")
    path = manifest(
        {"image": "0.png", "sha256": digest, "width": 20, "height": 10}, {"image": "s.tar/2.png"},
        {"image": "gone.png"}, {"image": "bad.png"}, {"image": "1.png", "sha256": digest},
        {"image": "1.png", "height": 10},
    )  # fmt: skip
    assert run(capsys, path)[0] == 0
    status, result = run(capsys, path, "--check-images", "--workers", "1")
    assert status == 1
    (one,) = result["manifests"]
    assert one["good"] == 2
    reasons = {bad["line"]: bad["reason"] for bad in one["bad"]}
    assert sorted(reasons) == [3, 4, 5, 6]
    assert "no such picture" in reasons[3]
    assert "'sha256' is" in reasons[5]
    assert reasons[6] == "'height' is 10 in the record, the picture's is 11"


def test_nothing_there(manifest, folder, capsys):
    status, result = run(capsys, manifest("", name="empty.jsonl"), str(folder / "gone.jsonl"))
    assert status == 1
    assert "holds no records" in result["manifests"][0]["stopped_by"]
    assert "no such manifest" in result["manifests"][1]["stopped_by"]


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validate")
    path = folder / "config.yaml"
    path.write_text(to_yaml(tiny_config(folder)))
    return str(path)


def test_what_a_step_would_teach_is_counted(manifest, config_path, capsys):
    path = manifest(
        {"image": "0.png", "disease": "acne"}, {"image": "1.png"}, {"image": "2.png", "note": "Dry."}
    )
    status, result = run(capsys, path, "--config", config_path)
    (one,) = result["manifests"]
    assert (status, one["answers"]) == (0, 2)
    assert one["supervised_tokens"] > 4


def test_nothing_to_teach_stops_and_shows_the_text(manifest, config_path, capsys):
    path = manifest({"image": "0.png", "body_site": "forearm"}, {"image": "1.png"})
    assert main([path, "--config", config_path]) == 1
    output = capsys.readouterr().out
    assert "no record has what this step teaches; the first is line 1" in output
    assert "forearm" in output


def test_an_answer_without_a_supervised_token_is_named_with_its_text(manifest, config_path, capsys):
    path = manifest({"image": "0.png", "note": "Unbelievable"}, {"image": "1.png"})
    assert main([path, "--config", config_path, "--set", "data.max_text_tokens=2"]) == 1
    output = capsys.readouterr().out
    assert "line 1: no token of the answer 'Unbelievable' is supervised" in output


def test_marks_of_the_prompt_are_counted_and_named(manifest, config_path, capsys):
    path = manifest(
        {"image": "0.png", "note": "### Findings: dry.</s>"}, {"image": "1.png", "note": "Dry ### skin."},
        {"image": "2.png", "note": "Dry."},
    )  # fmt: skip
    status, result = run(capsys, path, "--config", config_path, "--set", "prompt.template=vicuna")
    (one,) = result["manifests"]
    assert (status, one["with_marks"], one["marks"]) == (0, 2, ["###", "</s>"])
    assert main([path, "--config", config_path, "--set", "prompt.template=vicuna"]) == 0
    assert "marks of the prompt ('###', '</s>'): 2; taught as text" in capsys.readouterr().out
    status, result = run(capsys, manifest({"image": "2.png", "note": "Dry."}), "--config", config_path)
    assert result["manifests"][0]["with_marks"] == 0


def test_a_configuration_that_is_none(manifest, tmp_path, capsys):
    path = manifest({"image": "0.png"})
    assert main([path, "--config", str(tmp_path / "gone.yaml")]) == 1
    assert "error: " in capsys.readouterr().err
