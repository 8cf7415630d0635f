"""The memory benchmarks: each runs as a command on small weights and records its peaks."""

import functools
import gc
import json
import time

import pytest
import torch

from benchmarks.memory import delta, encoder
from benchmarks.memory.encoder import main
from benchmarks.memory.process import Sampler, memory, run_fresh


@pytest.fixture
def forked(launcher, tmp_path_factory, monkeypatch):
    """What measures itself begins as a process of its own, without the seconds of its imports."""
    folder = tmp_path_factory.mktemp("forked")

    def run(name, *options):
        job = launcher.start(["benchmarks.__main__", name, *options], folder / "log")
        assert job.wait() == [0], job.text()
        return job.text().splitlines()[-1] if job.text() else ""

    for module in (encoder, delta):
        monkeypatch.setattr(module, "run_fresh", run)


def test_a_fresh_process_s_last_line_is_returned():
    assert run_fresh("--help") == "Research software, not a medical device."


@pytest.mark.usefixtures("forked")
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


@pytest.mark.usefixtures("forked")
def test_a_delta_is_merged_in_the_memory_of_a_shard_not_of_the_model(tmp_path, monkeypatch, capsys):
    blocks = functools.cache(
        lambda seed, count: torch.randn(count, generator=torch.Generator().manual_seed(seed))
    )

    def made_up(number, shape, scale, mean=0.0):
        """The same numbers for each tensor of a seed, drawn once and not 728 times."""
        count = torch.Size(shape).numel()
        block = blocks(number % 8, 1 << 20)[:count] * scale + mean
        return block.half().repeat(count // len(block) + 1)[:count].reshape(shape)

    assert torch.equal(made_up(9, (3, 5), 0.02, 1.0), delta.made_up(9, (3, 5), 0.02, 1.0))
    monkeypatch.setattr(delta, "made_up", made_up)
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
