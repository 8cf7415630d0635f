"""The evaluation with seven arms: its stand-ins say exactly what was planted, and its commands are commands."""

import shlex
from pathlib import Path

import pytest

from eval.measures.results import ReportError, write_results
from eval.rating.ratings import read_ratings
from eval.rating.summary import summary
from eval.seven_arms import stand_ins
from eval.seven_arms.__main__ import main
from eval.seven_arms.stages import ARMS, RATED, plan
from tests.eval.test_quickstart import require_trained_on_what_is_there


@pytest.mark.parametrize(
    ("share", "num_cases"), [(0.6, 30), (0.7, 30), (0.1, 14), (0.9, 7), (0.0, 5), (1.0, 5)]
)
def test_a_planted_share_is_exact(share, num_cases):
    for shift in range(5):
        assert sum(stand_ins.planted(share, num_cases, shift)) == round(share * num_cases)


def test_the_plan_makes_every_arm_once(tmp_path):
    stages = plan(tmp_path, None, 8017)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    assert names.index("step1") < names.index("step2") < names.index("ours, untrained and blank")
    require_trained_on_what_is_there(stages)
    commands = [shlex.join(stage.command) for stage in stages]
    for arm in ARMS:
        assert sum(f"--arm {arm}" in command or f"--name {arm} " in command for command in commands) == 1, arm
    with_checkpoint = [stage.name for stage in plan(tmp_path, Path("runs/quickstart/step2"), 8017)]
    assert not {"step1", "step2"} & set(with_checkpoint)


def test_a_dry_run_prints_and_does_nothing(tmp_path, capsys):
    assert main(["--root", str(tmp_path / "root"), "--dry-run"]) == 0
    assert "python -m eval.add probe --run-dir" in capsys.readouterr().out
    assert not (tmp_path / "root").exists()


def test_what_is_planted_is_recovered(tmp_path):
    """Answers and ratings of stand-ins through the commands that people use, into the results."""
    from tests.support.simulated_run import write_run

    run = tmp_path / "run"
    write_run(
        run, [f"images/{n}.jpg" for n in range(10)], dict.fromkeys(("two_step", "untrained", "tiny_vlm"), 0.5)
    )
    stand_ins.write_answers(run, tmp_path)
    stand_ins.write_ratings(run, tmp_path)
    rated = summary(read_ratings(tmp_path / "ratings.csv"), resamples=5)["by_role"]
    for arm, shares in RATED.items():
        for role, share in shares.items():
            item = "helps_patients" if role == "lay" else "diagnosis"
            assert rated[role]["arms"][arm][item]["agree"]["value"] == pytest.approx(share)
    write_results(run)
    with pytest.raises(ReportError, match="the report has no arm endpoint"):
        stand_ins.check(run)


def test_the_tiny_model_can_be_loaded(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    stand_ins.write_vlm(tmp_path / "vlm")
    before = (tmp_path / "vlm" / "config.json").stat().st_mtime_ns
    stand_ins.write_vlm(tmp_path / "vlm")
    assert (tmp_path / "vlm" / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["vlm"]
    AutoProcessor.from_pretrained(tmp_path / "vlm")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    assert sum(weight.numel() for weight in model.parameters()) < 200_000
