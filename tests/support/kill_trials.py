"""A run that is killed again and again, and the same run in one piece."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from skingpt4.checkpoints import checkpoint
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import Config
from tests.support.launcher import Job, Launcher
from tests.support.tiny import tiny_config

# What is trained, by name: changes of the configuration, and the number of processes.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "saved_each_time": ({"log__checkpoint_every": 1, "log__keep_checkpoints": 1}, 1),
    "cached_features": ({"log__checkpoint_every": 7, "data__augment": False, "data__feature_cache": "features"}, 1),
    "loader_workers": ({"log__checkpoint_every": 7, "data__num_workers": 1}, 1),
    "lora": ({"log__checkpoint_every": 5, "lora__rank": 2, "lora__dropout": 0.1}, 1),
    "two_processes": ({"log__checkpoint_every": 5, "data__augment": False, "data__feature_cache": "shared"}, 2),
}  # fmt: skip


@dataclass
class Trial:
    """How a setting's killed run compares with the one in a piece."""

    num_kills: int
    statuses: list[int]  # of the last start
    log: str  # of the last start
    same_bits: bool
    same_metrics: bool
    iterations: list[int]  # of the training lines
    leftovers: list[str]  # hidden files and folders in the run's folder


def metrics_of(config: Config) -> list[dict[str, Any]]:
    """The lines of a run, without their times."""
    path = Path(config.output_dir) / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        with suppress(ValueError):  # it is being written
            lines.append(json.loads(text))
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def trained_bits(config: Config) -> dict[str, bytes]:
    """The files of tensors in a run's last checkpoint."""
    folder = checkpoint.find(config.output_dir)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def kill_trial(
    launcher: Launcher, folder: Path, name: str, num_kills: int, num_iterations: int, seed: int
) -> Trial:
    """Run a setting in one piece, then with kills at moments that `seed` draws, and compare.

    Args:
        launcher: starts the runs.
        folder: for everything.
        name: of SETTINGS.
        num_kills: how often the second run is killed.
        num_iterations: of a run.
        seed: of the moments, and of which process is killed first.
    """
    rng = random.Random(f"{seed} {name}")
    changes, world = SETTINGS[name]
    cache = changes.get("data__feature_cache")
    if cache:
        changes = {**changes, "data__feature_cache": str(folder / cache)}

    def configure(part: str) -> tuple[Config, list[str]]:
        config = tiny_config(
            folder / "model", output_dir=str(folder / f"{name}_{part}"), optim__max_epoch=2,
            optim__iters_per_epoch=num_iterations // 2, optim__accumulation=2, log__validate_every=8,
            data__validation=[str(folder / "model" / "train.jsonl")], language__compile="never", **changes,
        )  # fmt: skip
        path = folder / f"{name}_{part}.yaml"
        path.write_text(to_yaml(config))
        return config, ["train", "--config", str(path)]

    (whole, whole_argv), (cut, cut_argv) = configure("whole"), configure("cut")
    log = folder / f"{name}.log"
    first = launcher.start(whole_argv, log, world)
    assert first.wait() == [0] * world, first.text()
    if cache:  # features are made by the killed run as well
        shutil.rmtree(folder / cache)
    num_killed = 0
    for start in count():
        job = launcher.start([*cut_argv, "--resume"], folder / f"{name}_{start}.log", world)
        if num_killed < num_kills:
            _kill_at_some_moment(job, cut, num_iterations, rng)
        statuses = job.wait()
        if -signal.SIGKILL in statuses:
            num_killed += 1
        elif num_killed < num_kills and not any(statuses):  # it had ended before the kill
            shutil.rmtree(cut.output_dir)
        else:
            break
    return Trial(
        num_killed, statuses, job.text(), trained_bits(whole) == trained_bits(cut),
        metrics_of(whole) == metrics_of(cut),
        [line["iteration"] for line in metrics_of(cut) if line["kind"] == "train"],
        sorted(path.name for path in Path(cut.output_dir).rglob(".*")),
    )  # fmt: skip


def _kill_at_some_moment(job: Job, config: Config, num_iterations: int, rng: random.Random) -> None:
    """Kill a process while it starts, or after an iteration, and in the end the others too."""
    iteration, victim = rng.randrange(-3, num_iterations - 3), rng.randrange(len(job.pids))
    while job.is_running(victim) and max((i["iteration"] for i in metrics_of(config)), default=0) < iteration:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 1.0 if iteration < 1 else 0.05))
    job.kill(signal.SIGKILL, [victim])
    time.sleep(rng.uniform(0.0, 0.3) if len(job.pids) > 1 else 0)
    job.kill(signal.SIGKILL)
