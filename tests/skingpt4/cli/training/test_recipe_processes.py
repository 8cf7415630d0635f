"""`skingpt4 train-recipe` as processes: killed and given again, it ends in the bits of the run in one piece."""

import random
import signal
import time

import pytest

from tests.support import soak
from tests.support.kill_trials import metrics_of
from tests.support.recipe_trial import NUM_ITERATIONS, bits, config_of, write_recipe

COMMAND = "skingpt4.cli.training.train_recipe"


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory):
    """The recipe's path after a run in one piece, by one process."""
    folder = tmp_path_factory.mktemp("recipe")
    path = write_recipe(folder, folder, "whole")
    job = launcher.start([COMMAND, str(path)], folder / "whole.log")
    assert job.wait() == [0], job.text()
    return path


def kill_at_some_moment(job, path, rng):
    """SIGKILL between the start and the last iteration of the second step."""
    target = rng.randrange(0, 2 * NUM_ITERATIONS - 1)

    def done():
        lines = (metrics_of(config) for step in ("step1", "step2") if (config := config_of(path, step)))
        return sum(len(list(each)) for each in lines)

    while job.is_running() and done() < target:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    job.kill(signal.SIGKILL)


@pytest.mark.parametrize("seed", [1, pytest.param(soak.SEED, marks=pytest.mark.soak)], ids=["fixed", "drawn"])
def test_a_killed_recipe_given_again_equals_the_one_in_a_piece(seed, whole, launcher, tmp_path):
    print(f"SKINGPT4_SOAK_SEED={seed}")
    cut = write_recipe(whole.parent, tmp_path, "cut")
    rng, kills = random.Random(seed), 0
    for start in range(8):
        job = launcher.start([COMMAND, str(cut)], tmp_path / f"cut{start}.log")
        if kills < 2:
            kill_at_some_moment(job, cut, rng)
        status = job.wait()
        if status == [0]:
            break
        kills += status == [-signal.SIGKILL]
    assert status == [0], job.text()
    assert kills
    assert bits(cut) == bits(whole)
    for step in ("step1", "step2"):
        assert metrics_of(config_of(cut, step)) == metrics_of(config_of(whole, step))


def test_two_processes_train_both_steps_and_part_at_the_end(whole, launcher, tmp_path):
    two = write_recipe(whole.parent, tmp_path, "two", optim__batch_size=1)
    job = launcher.start([COMMAND, str(two)], tmp_path / "two.log", 2)
    assert job.wait() == [0, 0], job.text()
    assert [line["iteration"] for line in metrics_of(config_of(two, "step2"))] == list(
        range(1, NUM_ITERATIONS + 1)
    )
    mine, theirs = ([line["loss"] for line in metrics_of(config_of(path, "step2"))] for path in (two, whole))
    assert mine == pytest.approx(theirs, rel=1e-3)
