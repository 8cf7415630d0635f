"""Starts commands as real processes without the seconds of their imports: forked from one that has them loaded.

`with Launcher() as launcher` starts that process, `launcher.start(...)` a command, which can be killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "train", "skingpt4.training.loop", "skingpt4.cli.training.train_recipe", "skingpt4.cli.training.steps",
    "skingpt4.cli.batch", "skingpt4.chat.batch", "data.prepare", "data.preparing.engine", "eval.run",
    "eval.asking.answering", "eval.add", "eval.arms.asking", "eval.arms.endpoint.command", "eval.review",
    "eval.rating.form", "skingpt4.server.gradio_app", "tests.support.tiny",
)  # fmt: skip


@dataclass
class Job:
    """Processes that were started together; one log for all."""

    launcher: Launcher
    pids: list[int]
    log: Path

    def wait(self, seconds: float = 300) -> list[int]:
        """The exit statuses, negative for a signal; after `seconds` what still runs is killed."""
        end = time.monotonic() + seconds
        return [self.launcher.status_of(pid, max(0.0, end - time.monotonic())) for pid in self.pids]

    def is_running(self, rank: int = 0) -> bool:
        """Whether a process has not ended yet."""
        return self.launcher.ask({"poll": self.pids[rank]}) == "running"

    def kill(self, number: int = signal.SIGKILL, ranks: Sequence[int] | None = None) -> None:
        """Send a signal, by default to all; processes that have ended are passed over."""
        for rank in range(len(self.pids)) if ranks is None else ranks:
            if self.is_running(rank):
                os.kill(self.pids[rank], number)

    def text(self) -> str:
        """What was printed."""
        return self.log.read_text(errors="replace")


class Launcher:
    """The process that everything is forked from, with what it starts imported."""

    def __enter__(self) -> Launcher:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.launcher"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert self.server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()
        self.server.wait(60)

    def ask(self, command: Mapping[str, object]) -> str:
        """One command's answer."""
        self.server.stdin.write(json.dumps(command) + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline().strip()

    def start(self, argv: Sequence[str], log: Path, world: int = 1, **env: str) -> Job:
        """Start `argv[0].main(argv[1:])` in `world` processes, which know each other as torchrun's do."""
        pids = []
        port = free_port()
        for rank in range(world):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world,
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            places = {key: str(value) for key, value in ranks.items()} if world > 1 else {}
            pids.append(int(self.ask({"argv": [*argv], "log": str(log), "env": places | env})))
        return Job(self, pids, log)

    def status_of(self, pid: int, seconds: float) -> int:
        """A process's exit status; after `seconds` it is killed."""
        end = time.monotonic() + seconds
        while (answer := self.ask({"poll": pid})) == "running":
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        return int(answer)


def _fork(argv: list[str], log: str, env: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        os.environ.update(env)
        status = importlib.import_module(argv[0]).main(argv[1:])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    """Fork what standard input asks for until it is closed."""
    import torch

    from skingpt4.server.address import stay_local
    from skingpt4.support.memory import spare_loaded_objects

    os.fsync = lambda descriptor: None  # nobody cuts the power, see tests/conftest.py
    torch.set_num_threads(1)
    stay_local()  # before Gradio is imported
    for name in IMPORTED:
        importlib.import_module(name)
    spare_loaded_objects()  # a collection in a fork would copy the pages of all of them
    statuses: dict[int, str] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "argv" in command:
            print(_fork(**command), flush=True)
            continue
        pid = command["poll"]
        if pid not in statuses:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = str(os.waitstatus_to_exitcode(status))
        print(statuses.get(pid, "running"), flush=True)


if __name__ == "__main__":
    serve()
