"""An evaluation on what a checkpoint was trained on is refused before anything is loaded."""

import json

import pytest
import torch

from eval import run
from eval.asking.arms import check_overlap, parse_arm
from eval.asking.claims import ArmError
from skingpt4.checkpoints import checkpoint
from skingpt4.records.comparing.overlap import image_hashes
from skingpt4.records.manifest import read_manifest


@pytest.fixture
def cases(tmp_path):
    rows = [
        {"image": f"{n}.png", "sha256": f"{n:08x}" * 8, "case_id": f"c{n}", "concepts": ["Plaque"],
         "class": "herpes"} for n in range(4)
    ]  # fmt: skip
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def arm(cases, tmp_path):
    card = {"step": "step2", "config": {"data": {"train": ["gone.jsonl"]}}}
    checkpoint.save(
        tmp_path / "seen", {"weight": torch.zeros(1)}, card, seen=image_hashes(read_manifest(cases))
    )
    return f"two_step={tmp_path / 'seen'}"


def test_refused_with_the_count(cases, arm, tmp_path, capsys):
    arguments = [
        "--config",
        "configs/tiny/step2.yaml",
        "--cases",
        str(cases),
        "--run-dir",
        str(tmp_path / "out"),
    ]
    assert run.main([*arguments, "--arm", arm]) == 1
    said = capsys.readouterr().err
    assert "arm two_step: the training shares records with the cases: 4 by the same picture" in said
    assert "--allow-overlap" in said
    assert not (tmp_path / "out").exists()


def test_allowed_it_is_told(cases, arm, capsys):
    records = read_manifest(cases)
    with pytest.raises(ArmError):
        check_overlap(records, parse_arm(arm), allowed=False)
    assert check_overlap(records, parse_arm(arm), allowed=True) == {
        "overlap_with_training": ["4 by the same picture"],
        "overlap_not_compared": ["cases and patients were not compared: gone.jsonl does not exist"],
    }
    assert "allowed by --allow-overlap" in capsys.readouterr().err
    assert check_overlap(records, parse_arm("untrained"), allowed=False) == {
        "overlap_with_training": [],
        "overlap_not_compared": [],
    }


def test_what_cannot_be_checked_is_refused_unless_allowed(cases, tmp_path, capsys):
    card = {"step": "step2", "config": {"data": {"train": ["gone.jsonl"]}}}
    checkpoint.save(tmp_path / "old", {"weight": torch.zeros(1)}, card)
    records, arm = read_manifest(cases), parse_arm(f"a={tmp_path / 'old'}")
    with pytest.raises(
        ArmError, match=r"cannot be checked: .* gone\.jsonl does not exist; .* --allow-overlap"
    ):
        check_overlap(records, arm, allowed=False)
    assert check_overlap(records, arm, allowed=True)["overlap_with_training"] == []
    assert "gone.jsonl does not exist" in capsys.readouterr().err
