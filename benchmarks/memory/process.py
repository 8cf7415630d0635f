"""What the benchmarks of host memory share: the peaks of a process, fresh processes, and how results are written.

Each measured process reads its own counters: VmHWM is the kernel's peak of resident memory, file-mapped pages
included; RssAnon and RssFile are sampled every 10 ms.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError


class Sampler:
    """Peaks of VmHWM, RssAnon and RssFile (bytes) of this process while it is entered, as `peak` after the exit."""

    def __enter__(self) -> Sampler:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.peak = {"RssAnon": 0, "RssFile": 0}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.peak["VmHWM"] = memory()["VmHWM"]

    def _sample(self) -> None:
        while not self._end.is_set():
            now = memory()
            self.peak = {key: max(value, now[key]) for key, value in self.peak.items()}
            self._end.wait(0.01)


def memory() -> dict[str, int]:
    """VmRSS, VmHWM, RssAnon and RssFile of this process in bytes."""
    text = Path("/proc/self/status").read_text()
    names = ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    return {n: int(re.search(rf"^{n}:\s+(\d+) kB", text, re.M)[1]) * 1024 for n in names}  # type: ignore[index]


def require_linux() -> None:
    """Refuse systems without /proc.

    Raises:
        UserError: this is one.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("the peaks are read from /proc, so this benchmark needs Linux")


def run_fresh(name: str, *options: str) -> str:
    """Run a benchmark's hidden step in a fresh process; returns the last line it printed."""
    command = [sys.executable, "-m", "benchmarks", name, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.splitlines() or [""])[-1]


def save(result: Mapping[str, Any], argv: Sequence[str], out: Path) -> None:
    """Write a result with command, commit, hardware and versions."""
    from benchmarks.harness.results import (  # large imports, which measured processes must not make
        about,
        write,
    )

    write({**about(argv), **result}, out)
