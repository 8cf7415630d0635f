"""The memory benchmark: runs as a command on a tiny network and records what it says."""

import json

import pytest
import torch

from benchmarks.load_memory import Sampler, main


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
        assert run["loading_peak_bytes"]["VmHWM"] >= run["baseline_bytes"]["VmRSS"]
    assert {"cpu", "cores", "memory_bytes", "torch", "commit"} <= recorded["machine"].keys()
    assert not list(tmp_path.glob("**/*.pth"))


def test_the_sampler_sees_a_peak_that_is_gone_again():
    with Sampler() as sampler:
        held = torch.ones(50_000_000)
        sampler._end.wait(0.1)
        del held
    assert sampler.peak["RssAnon"] > 200e6
    assert sampler.peak["VmHWM"] > 200e6
    with pytest.raises(ZeroDivisionError), Sampler():
        raise ZeroDivisionError
