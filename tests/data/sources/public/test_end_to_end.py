"""Every public set by name: prepared, checked and split, with what belongs together on one side."""

import json

import pytest

from data import prepare, validate
from data.split import main as split
from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import read_manifest
from skingpt4.training.samples import answer_for
from tests.support import public_sets

SETS = {
    "ham10000": public_sets.write_ham10000,
    "isic": public_sets.write_isic,
    "pad_ufes_20": public_sets.write_pad_ufes_20,
    "scin": lambda folder: public_sets.write_scin(folder, public_sets.SCIN_WEIGHTS[:3] * 4),
    "derm7pt": public_sets.write_derm7pt,
    "skincap": lambda folder: public_sets.write_skincap(
        folder, [f"A red plaque, number {n}." for n in range(12)]
    ),
    "derm1m": public_sets.write_derm1m,
    "mm_skin": public_sets.write_mm_skin,
    "dermavqa": lambda folder: public_sets.write_dermavqa(folder, 6),
    "ddi": public_sets.write_ddi,
    "fitzpatrick17k": public_sets.write_fitzpatrick17k,
}
TIES = ("case_id", "patient_id", "x_lesion_id")
STEP_2 = PromptConfig(template="chatml")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_eleven_public_sets_have_a_name():
    assert len(SETS) == 11
    assert SETS.keys() <= prepare.SOURCES.keys()


@pytest.mark.parametrize("name", SETS)
def test_prepared_checked_and_split(tmp_path, capsys, name):
    table, out = SETS[name](tmp_path / "downloads"), tmp_path / "out"
    assert prepare.main([name, str(table), "--out-dir", str(out), "--workers", "1"]) == 0
    records = read(out / "all.jsonl")
    printed = capsys.readouterr().out
    assert len(records) >= 12
    assert {record["source"] for record in records} == {name}
    assert all(record["licence"] and record["licence"] in printed for record in records)
    assert all(answer_for(record, STEP_2) for record in read_manifest(out / "all.jsonl"))
    assert validate.main([str(out / "all.jsonl"), "--check-images", "--workers", "1"]) == 0

    shares = "train=0.5,test=0.5"
    assert split([str(out / "all.jsonl"), "--out-dir", str(tmp_path / "split"), "--shares", shares]) == 0
    parts = [read(tmp_path / f"split/{part}.jsonl") for part in ("train", "test")]
    assert sum(map(len, parts)) == len(records)
    for key in TIES:
        sides = [{record.get(key) for record in part} - {None} for part in parts]
        assert not sides[0] & sides[1], key
    assert all(validate.main([str(tmp_path / f"split/{part}.jsonl")]) == 0 for part in ("train", "test"))


@pytest.mark.parametrize("name", SETS)
def test_another_file_and_a_folder_that_is_not_there_are_one_sentence(tmp_path, capsys, name):
    table, out = SETS[name](tmp_path / "downloads"), tmp_path / "out"
    other = tmp_path / f"other{table.suffix}"
    other.write_text("[1, 2]" if table.suffix == ".json" else "colour,size\nred,3\n")
    wrong = (
        [str(tmp_path / f"gone{table.suffix}")],
        [str(other)],
        [str(table), "--images", str(tmp_path / "gone")],
        [str(table), "--images", str(other)],  # a file, but no archive
    )
    for arguments in wrong:
        assert prepare.main([name, *arguments, "--out-dir", str(out)]) == 1
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        assert not out.exists()
