"""The GPU benchmark on the CPU: every stage with networks of kilobytes, the JSON after each, the time limit."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.speed import gpu


@pytest.fixture
def out(tmp_path):
    return tmp_path / "gpu.json"


@pytest.mark.acceptance
def test_the_complete_path_runs_without_a_gpu(out, capsys):
    assert main(["gpu", "--small", "--device", "cpu", "--models", "vicuna7b", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    stages = found["stages"]
    assert not any({"failed", "left_out"} & stage.keys() for stage in stages.values())
    assert [name.removeprefix("vicuna7b ") for name in stages] == [
        "build", "train 2", "train 4", "decode 1", "decode 2", "train 2 compiled",
    ]  # fmt: skip
    assert stages["vicuna7b train 2 compiled"]["compile_seconds"] > 0
    trained = stages["vicuna7b train 2"]
    assert trained["roofline"]["matrix_share"] > 0
    hours = 20 * 5000 * 2 * (2 / 2) * trained["median_seconds_a_step"] / 3600
    assert trained["hours_of_both_steps_for_as_many_samples"] == pytest.approx(hours, rel=1e-3)
    assert trained["tokens"] <= trained["counted"]["tokens"]
    assert 0 < trained["counted"]["logits"] < trained["counted"]["tokens"]
    one, two = (stages[f"vicuna7b decode {rows}"] for rows in (1, 2))
    assert one["first_tokens"] == two["first_tokens"]
    assert len(one["first_tokens"]) == 4
    assert two["bytes_read_a_step"] > one["bytes_read_a_step"]
    assert all(stage["roofline"]["copy_share"] > 0 for stage in (one, two))


def test_a_stage_that_fails_or_has_no_time_left_is_recorded(out, monkeypatch):
    class Setting:
        small = False
        saved = 0

        def save(self, result):
            self.saved += 1

    stages = gpu.Stages(Setting(), minutes=1)
    stages.run("a", lambda: {"line": "good"}, 1)
    stages.run("b", lambda: 1 / 0, 1)
    stages.run("c", lambda: {"line": "good"}, 100)
    results = stages.result["stages"]
    assert results["a"]["line"] == "good"
    assert results["b"]["failed"] == "ZeroDivisionError: division by zero"
    assert "left_out" in results["c"]
    assert stages.setting.saved == 3


def test_without_a_gpu_it_says_so(capsys, out):
    assert main(["gpu", "--device", "cpu", "--out", str(out)]) == 1
    assert "there is no GPU here" in capsys.readouterr().err
    assert not out.exists()
