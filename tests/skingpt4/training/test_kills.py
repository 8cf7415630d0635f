"""SIGKILL at any moment loses nothing: a run that is resumed equals, bit for bit, the run in one piece."""

import os

import pytest

from tests.support.kill_trials import SETTINGS, kill_trial

NUM_ITERATIONS = 20


def check(trial, num_kills):
    assert trial.statuses == [0] * len(trial.statuses), trial.log
    assert trial.num_kills == num_kills
    assert trial.same_bits
    assert trial.same_metrics
    assert trial.iterations == list(range(1, NUM_ITERATIONS + 1))
    assert trial.leftovers == []
    assert "Traceback" not in trial.log or len(trial.statuses) > 1  # a killed process's peers may say so


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_equals_the_run_in_one_piece(name, launcher, tmp_path):
    check(kill_trial(launcher, tmp_path, name, num_kills=1, num_iterations=NUM_ITERATIONS, seed=7), 1)


@pytest.mark.soak
@pytest.mark.parametrize("name", SETTINGS)
def test_twenty_kills(name, launcher, tmp_path):
    """Four kills for each of five settings; SKINGPT4_SEED draws other moments."""
    seed = int(os.environ.get("SKINGPT4_SEED", "0"))
    print(f"SKINGPT4_SEED={seed}")
    check(kill_trial(launcher, tmp_path, name, num_kills=4, num_iterations=NUM_ITERATIONS, seed=seed), 4)
