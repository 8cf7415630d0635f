"""Pairs: alternation, ratios, peaks of memory; the machine's own rates."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.harness import hardware, results
from benchmarks.harness.pairs import Comparison, Side, compare
from benchmarks.harness.results import about, write
from skingpt4.checkpoints import checkpoint


def test_both_run_in_turns_and_who_is_first_changes():
    order = []
    found = compare(
        lambda: order.append("ours"), lambda: order.append("baseline"), pairs=3, warm_up=1, what="test"
    )
    assert order[:4] == ["ours", "baseline"] * 2  # untimed: the warm-up, and the runs that measure memory
    assert order[4:] == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]
    assert len(found.ratios()) == 3


def test_a_ratio_is_the_baselines_figure_over_ours_pair_by_pair():
    found = Comparison(
        Side({"seconds": [1.0, 2.0, 4.0]}, [10, 30, 20]), Side({"seconds": [3.0, 4.0, 4.0]}, [50, 60, 40])
    )
    assert found.ratios() == [3.0, 2.0, 1.0]
    assert found.ratio() == 2.0
    assert found.peak_ratio == 2.0
    assert found.line() == "seconds: 2 against 4, 2.00x (1.00 to 3.00 in 3 pairs)"
    peaks = Comparison(Side(peak_bytes=[2**20]), Side(peak_bytes=[3 * 2**20, 2**20]))
    assert peaks.peak_line() == "peak memory above the weights: 1 MiB against 3, 3.00x"
    result = found.to_dict()
    assert result["ratios"]["seconds"] == {
        "median": 2.0,
        "minimum": 1.0,
        "maximum": 3.0,
        "each": [3.0, 2.0, 1.0],
    }
    assert result["ours"]["peak_bytes_above_weights"] == [10, 30, 20]


def test_time_memory_and_a_sides_own_figures_are_measured():
    held = []

    def large():
        block = torch.ones(60 * 2**18)  # 60 MiB
        time.sleep(0.02)
        held.append(float(block[0]))
        return {"first": 2.0}

    found = compare(lambda: {"first": 1.0}, large, pairs=2, warm_up=0)
    assert found.baseline.median() >= 0.02
    assert found.ratio("first") == 2.0
    assert 58 * 2**20 <= found.baseline.peak < 75 * 2**20  # pages that were there before may be used again
    assert found.ours.peak < 10 * 2**20


def test_memory_that_earlier_work_freed_does_not_hide_a_peak():
    small = [torch.ones(2**14) for _ in range(1000)]  # 64 KiB each: on the heap, not mapped one by one
    del small
    with hardware.PeakMemory() as memory:
        small = [torch.ones(2**14) for _ in range(1000)]
    assert memory.peak_bytes > 55 * 2**20
    del small


def test_the_ceiling_is_measured_and_the_roofline_is_its_share():
    top = hardware.ceiling("cpu", torch.float32, small=True)
    assert top.matrix_tflops > 1e-3
    assert top.copy_bytes_per_second > 1e8
    line = hardware.roofline(top, 2.0, flops=top.matrix_tflops * 1e12, read_bytes=top.copy_bytes_per_second)
    assert line["matrix_share"] == pytest.approx(0.5)
    assert line["copy_share"] == pytest.approx(0.5)
    assert "50% of the matrix product's" in line["line"]
    assert set(hardware.roofline(top, 1.0, flops=1e9)) == {"tflops", "matrix_share", "line"}


def test_a_result_is_written_with_what_it_depends_on(tmp_path):
    facts = about(["train", "--shape", "tiny"])
    write(facts | {"value": 1.23456789, "rows": [{"a": 2}]}, tmp_path / "new" / "train.json")
    read = json.loads((tmp_path / "new" / "train.json").read_text())
    assert read["command"] == "python -m benchmarks train --shape tiny"
    assert read["value"] == 1.2346
    assert read["rows"] == [{"a": 2}]
    assert {"cpu", "cores", "threads", "memory_gib"} <= read["hardware"].keys()
    assert {"torch", "transformers", "accelerate"} <= read["versions"].keys()


@pytest.mark.parametrize(
    ("commit", "is_clean"), [("0123abc", True), ("0123abc+changes", False), (None, False)]
)
def test_only_a_clean_tree_writes_to_the_committed_results(commit, is_clean, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "git_revision", lambda: commit)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "UNCOMMITTED", tmp_path / "runs")
    written = write({"value": 1}, tmp_path / "results" / "train.json")
    assert written == tmp_path / ("results" if is_clean else "runs") / "train.json"
    assert written.is_file()
    assert (tmp_path / "results").exists() == is_clean
    assert ("uncommitted changes" in capsys.readouterr().err) != is_clean
    elsewhere = tmp_path / "elsewhere.json"
    assert write({"value": 1}, elsewhere) == elsewhere


def test_a_trial_does_not_write_to_the_committed_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "git_revision", lambda: "0123abc")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "UNCOMMITTED", tmp_path / "runs")
    written = write(about(["laptop", "--small"]), tmp_path / "results" / "laptop.json")
    assert written == tmp_path / "runs" / "laptop.json"
    assert "figures of --small mean nothing" in capsys.readouterr().err


def test_results_themselves_are_no_changes(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    code = tmp_path / "skingpt4" / "checkpoints"
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    code.mkdir(parents=True)
    (code / "checkpoint.py").write_text(Path(checkpoint.__file__).read_text())
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")

    def revision():
        words = f"import runpy; print(runpy.run_path({str(code / 'checkpoint.py')!r})['git_revision']())"
        return subprocess.run(
            [sys.executable, "-c", words], check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "benchmarks" / "results" / "train.json").write_text("{}")
    assert "+" not in revision()
    (code / "new.py").write_text("")
    assert revision().strip().endswith("+changes")
