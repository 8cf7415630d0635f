"""`skingpt4 train-recipe`: killed anywhere and given again, it ends in the bits of the run in one piece."""

import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from skingpt4.checkpoints import checkpoint
from skingpt4.cli.training import train_recipe
from skingpt4.config.load import load_config, to_dict
from tests.support.kill_trials import metrics_of, trained_bits
from tests.support.launcher import Launcher
from tests.support.tiny import tiny_config

NUM_ITERATIONS = 6


@pytest.fixture(scope="session")
def launcher():
    with Launcher(("skingpt4.cli.training.train_recipe", "skingpt4.cli.training.steps")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipe")


@pytest.fixture
def write(folder, tmp_path):
    """Write a recipe of two steps with LoRA; returns its path."""

    def make(name, **changes):
        steps = []
        for step in ("step1", "step2"):
            config = tiny_config(
                folder, step=step, lora__rank=2, optim__max_epoch=2, optim__iters_per_epoch=NUM_ITERATIONS // 2,
                log__checkpoint_every=2, language__compile="never", **changes,
            )  # fmt: skip
            values = {k: v for k, v in to_dict(config).items() if k != "output_dir"}
            (tmp_path / f"{name}_{step}.yaml").write_text(yaml.safe_dump(values))
            steps.append(f"{name}_{step}.yaml")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"recipe": steps, "output_dir": str(tmp_path / name)}))
        return path

    return make


def config_of(path, step):
    return load_config(Path(path).with_suffix("") / step / "config.yaml")


def bits(path):
    return [trained_bits(config_of(path, step)) for step in ("step1", "step2")]


def test_step_2_begins_with_what_step_1_has_made_and_given_again_nothing_is_repeated(write, capsys):
    path = write("whole")
    assert train_recipe.main([str(path)]) == 0
    first, second = (config_of(path, step) for step in ("step1", "step2"))
    card = checkpoint.load(second.output_dir)[1]
    assert card["parent"]["tensors_sha256"] == checkpoint.load(first.output_dir)[1]["tensors_sha256"]
    assert [line["iteration"] for line in metrics_of(second)] == list(range(1, NUM_ITERATIONS + 1))
    before, times = (
        bits(path),
        [f.stat().st_mtime_ns for f in sorted(path.with_suffix("").rglob("*.safetensors"))],
    )
    capsys.readouterr()
    assert train_recipe.main([str(path)]) == 0
    assert capsys.readouterr().err.count("complete in ") == 2
    assert bits(path) == before
    assert times == [f.stat().st_mtime_ns for f in sorted(path.with_suffix("").rglob("*.safetensors"))]


def test_a_changed_first_step_is_refused_and_overwrite_trains_again(write, capsys):
    path = write("changed")
    assert train_recipe.main([str(path)]) == 0
    assert train_recipe.main([str(path), "seed=7"]) == 1
    assert "holds a run with another configuration (seed differ)" in capsys.readouterr().err
    first = Path(config_of(path, "step1").output_dir)
    (other,) = [p for p in [write("other")] if train_recipe.main([str(p), "seed=7"]) == 0]
    for kept in first.iterdir():
        kept.rename(first.parent / f"old_{kept.name}")
    for new in (other.with_suffix("") / "step1").iterdir():
        new.rename(first / new.name)
    (first / "config.yaml").write_text((first.parent / "old_config.yaml").read_text())
    assert train_recipe.main([str(path)]) == 1
    assert "was not trained from the step before as it is now" in capsys.readouterr().err
    assert train_recipe.main([str(path), "--overwrite"]) == 0


def kill_at_some_moment(job, path, rng):
    """SIGKILL between the start and the last iteration of the second step."""
    target = rng.randrange(0, 2 * NUM_ITERATIONS - 1)

    def done():
        lines = (metrics_of(config) for step in ("step1", "step2") if (config := there(path, step)))
        return sum(len(list(each)) for each in lines)

    while job.is_running() and done() < target:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    job.kill(signal.SIGKILL)


def there(path, step):
    file = Path(path).with_suffix("") / step / "config.yaml"
    return load_config(file) if file.is_file() else None


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_recipe_given_again_equals_the_one_in_a_piece(seed, write, launcher, tmp_path):
    whole, cut = write("whole"), write("cut")
    job = launcher.start(["skingpt4.cli.training.train_recipe", str(whole)], tmp_path / "whole.log")
    assert job.wait() == [0], job.text()
    rng, kills = random.Random(seed), 0
    for start in range(8):
        job = launcher.start(["skingpt4.cli.training.train_recipe", str(cut)], tmp_path / f"cut{start}.log")
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


def test_two_processes_train_both_steps_and_part_at_the_end(write, launcher, tmp_path):
    one, two = write("one"), write("two", optim__batch_size=1)
    assert launcher.start(["skingpt4.cli.training.train_recipe", str(one)], tmp_path / "one.log").wait() == [
        0
    ]
    job = launcher.start(["skingpt4.cli.training.train_recipe", str(two)], tmp_path / "two.log", 2)
    assert job.wait() == [0, 0], job.text()
    assert [line["iteration"] for line in metrics_of(config_of(two, "step2"))] == list(
        range(1, NUM_ITERATIONS + 1)
    )
    mine, theirs = ([line["loss"] for line in metrics_of(config_of(path, "step2"))] for path in (two, one))
    assert mine == pytest.approx(theirs, rel=1e-3)


def test_a_dry_run_shows_every_step_and_writes_nothing(write, capsys):
    path = write("dry")
    assert train_recipe.main([str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "step 1 of 2: step1" in shown
    assert "step 2 of 2: step2" in shown
    words = " ".join(shown.split())
    assert "which the step before will have trained" in words
    assert words.count("memory, training") == words.count("TFLOP/s") == 2
    assert not path.with_suffix("").exists()
