"""The memory benchmarks: each runs as a command on small weights and records its peaks."""

import gc
import json
import time

import pytest
import torch

from benchmarks.memory import delta
from benchmarks.memory.encoder import main
from benchmarks.memory.process import Sampler, memory


def test_a_small_run_records_peaks_hardware_and_versions(tmp_path, capsys):
    out = tmp_path / "results" / "load_memory.json"
    assert main(["--small", "--out", str(out)]) == 0
    recorded = json.loads(out.read_text())
    runs = recorded["runs"]
    assert (
        runs["first_load_with_conversion"]["weights_bytes"]
        == runs["later_loads"]["weights_bytes"]
        > 4 * 67_000
    )
    for run in runs.values():
        assert run["queries"] == [1, 4, 32]
        assert run["all_finite"]
        assert run["dtypes"] == ["float32"]
        assert run["loading_peak_bytes"]["VmHWM"] > run["weights_bytes"]
    assert {"command", "commit", "hardware", "versions"} <= recorded.keys()
    assert not list(tmp_path.glob("**/*.pth"))


def test_the_sampler_sees_a_peak_that_has_passed():
    gc.collect()  # memory of earlier tests must not be freed meanwhile
    before, deadline = memory()["RssAnon"], time.monotonic() + 60
    with Sampler() as sampler:
        held = torch.ones(50_000_000)
        # until its thread has run
        while sampler.peak["RssAnon"] < before + 100e6 and time.monotonic() < deadline:
            time.sleep(0.01)
        del held
    assert sampler.peak["RssAnon"] > before + 100e6
    assert sampler.peak["VmHWM"] >= sampler.peak["RssAnon"]
    with pytest.raises(ZeroDivisionError), Sampler():
        raise ZeroDivisionError


def test_a_delta_is_merged_in_the_memory_of_a_shard_not_of_the_model(tmp_path, capsys):
    out = tmp_path / "delta.json"
    assert delta.main(["--small", "--out", str(out), "--folder", str(tmp_path)]) == 0
    assert "GB merged in" in capsys.readouterr().out
    recorded = json.loads(out.read_text())
    run = recorded["run"]
    assert recorded["checked_tensors_equal_the_sum"]
    assert run["files"] > 10
    assert run["result_bytes"] > 90e6
    # A shard, one tensor of each side, and what the allocator keeps.
    assert run["peak_bytes"]["RssAnon"] - run["baseline_bytes"]["RssAnon"] < 0.4 * run["result_bytes"]
    assert [p.name for p in tmp_path.iterdir()] == ["delta.json"]
