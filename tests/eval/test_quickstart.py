"""The stages of the quickstart: run once, continued after Ctrl-C, explained in plain sentences."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from eval import quickstart
from eval.quickstart import INTERRUPTED, Interrupted, Stage, StageError, run_stages
from skingpt4.config.load import load_config

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')"


def writing(path, name="write"):
    return Stage(name, ["-c", WRITES, str(path)], path)


def ending(status, path, name="step1"):
    return Stage(name, ["-c", f"import sys; sys.exit({status})"], path)


def test_a_stage_that_is_done_is_not_run_again(tmp_path, capsys):
    stage = writing(tmp_path / "out")
    for _ in range(2):
        ledger = run_stages([stage], tmp_path / "stages.json")
    assert (tmp_path / "out").read_text() == "x"
    assert ledger == json.loads((tmp_path / "stages.json").read_text())
    assert "reused" in capsys.readouterr().out


def test_a_stage_that_only_looks_keeps_the_time_of_making(tmp_path):
    stage = replace(writing(tmp_path / "out"), cheap=True)
    ledger = run_stages([stage], tmp_path / "stages.json")
    ledger["write"] |= {"seconds": 99.0, "peak_memory_gb": 77.0}
    (tmp_path / "stages.json").write_text(json.dumps(ledger))
    again = run_stages([stage], tmp_path / "stages.json")["write"]
    assert (again["seconds"], again["peak_memory_gb"]) == (99.0, 77.0)
    other = run_stages([replace(stage, command=[*stage.command, "--x"])], tmp_path / "stages.json")["write"]
    assert other["seconds"] < 99.0


def test_ctrl_c_names_the_stage_and_keeps_what_is_done(tmp_path):
    done, stopped = writing(tmp_path / "out"), ending(INTERRUPTED, tmp_path / "never")
    with pytest.raises(Interrupted, match="step1"):
        run_stages([done, stopped], tmp_path / "stages.json")
    assert list(json.loads((tmp_path / "stages.json").read_text())) == ["write"]


def test_a_failure_names_the_stage(tmp_path):
    with pytest.raises(StageError, match="stage 'step1' ended with status 3"):
        run_stages([ending(3, tmp_path / "never")], tmp_path / "stages.json")


def test_the_command_says_how_to_continue(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "run_stages", lambda *_: (_ for _ in ()).throw(Interrupted("step1")))
    assert quickstart.main(["--short"]) == INTERRUPTED
    printed = capsys.readouterr()
    assert "Interrupted during step1. Run the same command to continue." in printed.err
    assert "error" not in printed.err
    assert "not a medical device" in printed.out


@pytest.mark.parametrize(("two_steps", "learned"), [(0.30, True), (0.14, False)])
def test_the_short_run_fails_where_nothing_was_learned(two_steps, learned):
    tops = {"two_step": two_steps, "blank_image": 0.05}
    results = {"arms": {name: {"top1": {"value": value, "n": 60}} for name, value in tops.items()}}
    if learned:
        quickstart.require_learning(results)
    else:
        with pytest.raises(StageError, match=r"14.0% of 60 cases, and of 5.0% .* no longer learns"):
            quickstart.require_learning(results)


def test_the_documents_state_how_much_is_drawn_and_trained():
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (\d[\d, and]*)", Path("data/README.md").read_text("utf-8"), re.M
    )
    stated = {}
    for names, counts in rows:
        stated |= zip(re.findall(r"\w+", names), map(int, re.findall(r"\d+", counts)), strict=False)
    splits = {split: count for split, (count, *_) in quickstart.SPLITS.items()}
    assert {split: stated.get(split) for split in splits} == splits
    readme = Path("README.md").read_text("utf-8")
    for step in ("step1", "step2"):
        optim = load_config(f"configs/tiny/{step}.yaml").optim
        assert f"{step}: {splits[step]} records" in readme
        assert f"{step}/checkpoints/iteration_{optim.max_epoch * optim.iters_per_epoch:07d}" in readme


def require_trained_on_what_is_there(planned):
    """Every training and description reads files that an earlier stage of the plan writes."""
    written = []
    for stage in planned:
        command = stage.command
        read = [word for word in command if word.startswith("data.train=[")]
        read = [word.removeprefix("data.train=[").removesuffix("]") for word in read]
        if "describe" in command:
            read.append(command[command.index("--manifest") + 1])
        assert {*read} <= {str(output) for output in written}, stage.name
        written.append(stage.output)


def test_trainings_read_what_earlier_stages_write_and_both_arms_are_described_by_their_start(tmp_path):
    planned = quickstart.stages(tmp_path, tmp_path / "phantoms", short=False, ablation=True)
    require_trained_on_what_is_there(planned)
    described = {stage.output.name: stage.command for stage in planned if "describe" in stage.command}
    starts = {name: command[command.index("--checkpoint") + 1] for name, command in described.items()}
    assert starts == {
        "step2_described.jsonl": f"{tmp_path}/step1",
        "step2_only_described.jsonl": load_config("configs/tiny/step2_only.yaml").initial_checkpoint,
    }
    prompt = load_config("configs/tiny/step2.yaml").prompt
    for command in described.values():
        assert command[command.index("--sentence") + 1] == prompt.concepts_sentence
        assert [command[command.index("--question") + 1]] == load_config(
            "configs/tiny/step1.yaml"
        ).prompt.questions


@pytest.mark.parametrize("overrides", [(), ("seed=1",)])
def test_what_both_steps_begin_from_is_an_arm_of_the_first_ablation_alone(tmp_path, overrides):
    arms = quickstart.stages(tmp_path, tmp_path, short=True, ablation=True, overrides=overrides)[-1].command
    start = "aligned_start=skingpt4/weights/bundled/aligned_tiny"
    assert (start in arms, "untrained" in arms) == (not overrides, not overrides)
    assert load_config("configs/tiny/step1.yaml").initial_checkpoint.endswith(start.partition("=")[2])


def test_every_arm_that_names_diseases_is_calibrated_on_the_same_pictures(tmp_path):
    planned = quickstart.stages(tmp_path, tmp_path / "phantoms", short=False, ablation=True)
    fits = [stage.command[2:] for stage in planned if "calibrate" in stage.command]
    assert {command[command.index("--checkpoint") + 1] for command in fits} == {
        f"{tmp_path}/step2", f"{tmp_path}/step2_only"}  # fmt: skip
    manifests = [command[command.index("--manifest") :] for command in fits]
    assert manifests[0] == manifests[1]
    names = [stage.name for stage in planned]
    assert names.index("calibrate step2_only") < names.index("answer the cases (ablation)")
