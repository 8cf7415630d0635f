"""A process that is gone ends the others within seconds, with a sentence."""

import signal
import time
from pathlib import Path

import pytest

from skingpt4.config.load import to_yaml
from skingpt4.records.feature_store import FeatureStore
from skingpt4.training.distributed.watch import GRACE_SECONDS
from tests.support.kill_trials import metrics_of
from tests.support.sharding_trial import FSDP2
from tests.support.tiny import tiny_config, write_manifest

SENTENCE = "error: process 1 of 2 has ended, and the others cannot continue without it; "
SECONDS = GRACE_SECONDS + 10  # a loaded machine needs some to end a process


def start(launcher, folder, what, world=2):
    return launcher.start(["tests.support.watch_trial", what], folder / what, world)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_that_leave_together_end_well(world, launcher, tmp_path):
    job = start(launcher, tmp_path, "together", world)
    assert job.wait(60) == [0] * world, job.text()
    assert job.text().count("left") == world


def test_processes_that_are_stopped_together_end_with_their_own_status(launcher, tmp_path):
    """A thread that still waited for the other process would abort this one as it ends."""
    job = start(launcher, tmp_path, "stopped", 3)
    assert job.wait(60) == [75] * 3, job.text()
    assert job.text().count("error: saved") == 3
    assert "has ended" not in job.text()


@pytest.mark.parametrize("what", ["collective", "stuck"])
def test_a_killed_process_ends_the_other(what, launcher, tmp_path):
    job = start(launcher, tmp_path, what)
    assert job.wait(60) == [75, -signal.SIGKILL], job.text()
    assert SENTENCE in job.text()
    assert "Traceback" not in job.text()


def test_other_errors_stay_what_they_are(launcher, tmp_path):
    job = start(launcher, tmp_path, "another error")
    assert job.wait(60) == [99, 99], job.text()  # the launcher's for an exception
    assert job.text().count("ValueError: not of a collective") == 2
    assert "has ended" not in job.text()


@pytest.mark.parametrize("environment", [{}, FSDP2], ids=["complete", "in_parts"])
def test_a_run_ends_within_seconds_when_a_process_is_killed(environment, launcher, tmp_path):
    config = tiny_config(
        tmp_path / "model", output_dir=str(tmp_path / "run"), optim__iters_per_epoch=100_000,
        data__augment=False, data__feature_cache=str(tmp_path / "features"), language__compile="never",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    job = launcher.start(
        ["train", "--config", str(tmp_path / "run.yaml")], tmp_path / "log", 2, **environment
    )
    wait_for(lambda: len(metrics_of(config)) >= 3, job)
    job.kill(signal.SIGKILL, [1])
    killed = time.monotonic()
    assert job.wait(60) == [75, -signal.SIGKILL], job.text()
    assert time.monotonic() - killed < SECONDS
    assert SENTENCE in job.text()
    assert "Traceback" not in job.text()


def test_features_are_made_by_all_processes_and_a_killed_one_repeats_nothing(launcher, tmp_path):
    manifest, num_images = write_manifest(tmp_path / "many.jsonl", 40), 40
    cache, log = tmp_path / "features", tmp_path / "rows"
    config = tiny_config(
        tmp_path / "model", output_dir=str(tmp_path / "run"), data__train=[manifest], data__augment=False,
        data__feature_cache=str(cache), language__compile="never",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    argv = ["tests.support.features_trial", str(log), "--config", str(tmp_path / "run.yaml")]

    def rows():
        return (
            [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []
        )

    job = launcher.start([*argv, "--resume"], tmp_path / "first", 2, SLOW="0.1")
    wait_for(lambda: len({rank for rank, _ in rows()}) == 2 and len(rows()) >= 6, job)
    job.kill(signal.SIGKILL, [1])
    assert job.wait(60) == [75, -signal.SIGKILL], job.text()
    assert SENTENCE in job.text()
    first = rows()
    log.unlink()
    job = launcher.start([*argv, "--resume"], tmp_path / "second", 2, SLOW="0")
    assert job.wait(120) == [0, 0], job.text()
    second = rows()
    done, redone = ({row for _, row in part} for part in (first, second))
    assert len(done) < num_images
    assert not done & redone
    assert len(done | redone) >= num_images - 2  # what each had written and not yet logged
    (card,) = Path(cache).glob("*-1x*/*/card.json")
    store = FeatureStore(card.parent)
    assert len(store) == num_images
    assert all(float(store.view(row, 0).float().abs().max()) > 0 for row in range(num_images))


def wait_for(condition, job, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.is_running(), job.text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
