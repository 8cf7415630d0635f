"""The headline: one quickstart a seed, written once, and all of them together."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.learning import headline
from eval.measures.comparing.trainings import GroupError


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 150}


def result(seed, top1):
    return {"seed": seed, "num_cases": 150, "arms": {
        "two_step": {"top1": figure(top1), "concept_micro_f1": figure(0.5)},
        "blank_image": {"top1": figure(0.06), "concept_micro_f1": figure(0.4)},
    }}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_seed_is_measured_once_and_a_failure_is_a_sentence(folder, monkeypatch, capsys):
    asked = []

    def run(seed):
        asked.append(seed)
        root = folder / ("runs/quickstart" if seed is None else f"runs/quickstart-seed={seed}")
        root.mkdir(parents=True, exist_ok=True)
        found = result(seed or 0, 0.7) | {"seconds": 9.0, "peak_memory_gb": 2.0, "comparisons": {}}
        (root / "results.json").write_text(json.dumps(found))
        (root / "stages.json").write_text(json.dumps({"step1": {"seconds": 5.0}}))
        return int(seed == 3)

    monkeypatch.setattr(headline, "run_quickstart", run)
    monkeypatch.setattr(headline.checkpoint, "load", lambda path: ({}, {"git_revision": "abc"}))
    monkeypatch.setattr(headline, "over_trainings", lambda roots: {"groups": [*roots]})
    for _ in range(2):
        assert headline.main(["--seeds", "1", "2", "--out-dir", str(folder / "out")]) == 0
    assert asked == [None, 1, 2]
    assert json.loads((folder / "out/headline.json").read_text())["groups"] == ["default", "1", "2"]
    assert json.loads((folder / "out/quickstart.json").read_text())["seconds"] == 9.0
    written = json.loads((folder / "out/headline_2.json").read_text())
    assert (written["seed"], written["stages"], written["arms"]["two_step"]["top1"]["n"]) == (
        2, {"step1": 5.0}, 150)  # fmt: skip
    assert written["trained_at"] == "abc"
    assert "on file" in capsys.readouterr().out
    assert headline.main(["--seeds", "--out-dir", str(folder / "other")]) == 0
    assert asked[-1] is None
    assert not (folder / "other/headline.json").exists()
    (folder / "runs/quickstart-seed=1/results.json").unlink()  # as in a clone, which has the JSON alone
    assert headline.main(["--seeds", "1", "--out-dir", str(folder / "out")]) == 0
    assert asked[-1] == 1
    assert headline.main(["--seeds", "3", "--out-dir", str(folder / "out")]) == 1
    assert "seed 3: the quickstart failed" in capsys.readouterr().err


def test_trainings_are_compared_by_the_arms_that_all_have(monkeypatch):
    def lines(right):
        return [
            {"case_id": f"c{n}", "class": "x", "class_scores": {"x": float(hit), "y": 0.5}}
            for n, hit in enumerate(right)
        ]  # fmt: skip

    answers = {
        "default": {
            "two_step": lines([1, 1, 1, 0]),
            "untrained": lines([0] * 4),
            "blank_image": lines([0] * 4),
        },
        "1": {"two_step": lines([1, 0, 0, 0]), "blank_image": lines([0, 0, 0, 1])},
    }
    checkpoints = {"default": "one", "1": "another"}

    def run_of(name):
        meta = {"checkpoint_sha256": checkpoints[name]}
        return SimpleNamespace(name=name, arms={arm: SimpleNamespace(meta=meta) for arm in answers[name]})

    monkeypatch.setattr(headline, "read_run", run_of)
    monkeypatch.setattr(headline, "run_lines", lambda run: answers[run.name])
    found = headline.over_trainings({name: name for name in answers})
    assert found["groups"]["two_step"]["top1"]["each"] == {"two_step_default": 0.75, "two_step_1": 0.25}
    assert [*found["groups"]] == ["two_step", "blank_image"]
    assert found["pairs"]["two_step_minus_blank_image"]["top1"]["value"] == pytest.approx(0.375)
    rows = headline.summary(found).splitlines()
    assert rows[2].startswith("| two step | 2 | 50.0 %")
    assert "| 25.0 and 75.0 % |" in rows[2]
    checkpoints["1"] = "one"
    with pytest.raises(GroupError, match="same checkpoint, not two trainings"):
        headline.over_trainings({name: name for name in answers})
