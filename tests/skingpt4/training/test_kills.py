"""SIGKILL at any moment loses nothing: a run that is resumed equals, bit for bit, the run in one piece."""

import json
import resource
import signal
import time
from pathlib import Path

import pytest

from skingpt4.checkpoints import checkpoint
from skingpt4.config.load import to_yaml
from tests.support import soak
from tests.support.kill_trials import SETTINGS, kill_trial, metrics_of
from tests.support.tiny import tiny_config

NUM_ITERATIONS = 20


def check(trial, num_kills):
    assert trial.statuses == [0] * len(trial.statuses), trial.log
    assert trial.num_kills == num_kills
    assert trial.same_bits
    assert trial.same_metrics
    assert trial.iterations == list(range(1, NUM_ITERATIONS + 1))
    assert trial.leftovers == []
    assert "Traceback" not in trial.log


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_equals_the_run_in_one_piece(name, launcher, tmp_path):
    check(kill_trial(launcher, tmp_path, name, num_kills=1, num_iterations=NUM_ITERATIONS, seed=7), 1)


@pytest.mark.parametrize(("how", "world"), [("SIGTERM to one process", 2), ("the limit of CPU time", 1)])
def test_a_signal_from_outside_saves(how, world, launcher, tmp_path):
    """A run without end, stopped as a scheduler or the kernel does it."""
    config = tiny_config(tmp_path / "model", output_dir=str(tmp_path / "run"), optim__iters_per_epoch=100_000,
                         language__compile="never")  # fmt: skip
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    job = launcher.start(["train", "--config", str(tmp_path / "run.yaml")], tmp_path / "log", world)
    deadline = time.monotonic() + 300
    while len(metrics_of(config)) < 3:
        assert job.is_running(), job.text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if world == 2:
        job.kill(signal.SIGTERM, [1])
    else:  # of one second, which is over or will soon be: SIGXCPU then comes each second
        resource.prlimit(job.pids[0], resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
    assert job.wait() == [75] * world, job.text()
    saved = checkpoint.find(config.output_dir)
    done = json.loads((saved / checkpoint.CARD).read_text())["iteration"]
    assert [line["iteration"] for line in metrics_of(config)] == list(range(1, done + 1))
    assert f"error: stopped after iteration {done} of 200000; saved in" in job.text()
    assert not list(Path(config.output_dir).rglob(".*"))


@pytest.mark.soak
def test_twenty_kills(launcher, tmp_path):
    """Four kills for each of five settings; SKINGPT4_SOAK_SEED=N draws the same moments."""
    print(f"SKINGPT4_SOAK_SEED={soak.SEED}")
    each, trials = soak.scaled(4), {}
    for name in SETTINGS:
        folder = tmp_path / name
        folder.mkdir()
        trial = kill_trial(
            launcher, folder, name, num_kills=each, num_iterations=NUM_ITERATIONS, seed=soak.SEED
        )
        same = {"bits": trial.same_bits, "metrics": trial.same_metrics}
        trials[name] = {"kills": trial.num_kills, "same": same, "leftovers": len(trial.leftovers)}
        soak.write(
            "kills_of_training", sum(one["kills"] for one in trials.values()), settings=trials,
            equal=sum(one["kills"] for one in trials.values() if all(one["same"].values())),
        )  # fmt: skip
        check(trial, each)
