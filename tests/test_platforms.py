"""Windows and macOS lack much of what Linux has: every module is imported, trains and answers without it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skingpt4.config.placement import default_device
from skingpt4.support import locks
from skingpt4.support.memory import peak_bytes
from skingpt4.support.threads import num_cores
from tests.support.other_systems import PACKAGES

ROOT = Path(__file__).parents[1]
OPTIONAL = ("eval.export.lmms_eval_model",)  # it is loaded by lmms-eval, which need not be installed


@pytest.mark.acceptance
def test_everything_is_imported_trained_and_answered_without_what_only_unix_has(tmp_path):
    command = [sys.executable, str(ROOT / "tests/support/other_systems.py"), str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    failures = {name: why for name, why in result["failures"].items() if name not in OPTIONAL}
    assert failures == {}
    assert result["answered"]
    assert not result["left"], "the private folder is deleted"


def sources():
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def test_modules_of_unix_alone_are_imported_in_few_places():
    """And there behind `try` or inside a function, so that their absence is not the end."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if re.search(r"^\s*import (fcntl|resource|termios|pwd|grp)\b", path.read_text(), re.MULTILINE)
    }
    assert importing == {
        "skingpt4/support/locks.py",
        "skingpt4/support/memory.py",
        "skingpt4/server/decoding/environment.py",
        "skingpt4/server/decoding/process.py",
        "data/reading/sheet_rows.py",
    }


def test_one_function_chooses_the_device():
    choosing = re.compile(r"[\"']cuda[\"'] if|mps\.is_available|cpu=not torch\.cuda")
    found = [path.relative_to(ROOT).as_posix() for path in sources() if choosing.search(path.read_text())]
    assert found == ["skingpt4/config/placement.py"]


def test_apples_gpu_is_chosen_only_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda"


class Windows:
    """What `msvcrt` has of locks: a byte belongs to one opening of a file."""

    LK_LOCK, LK_NBLCK = 1, 2

    def __init__(self):
        self.held = {}

    def locking(self, descriptor, mode, count):
        key = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR), count
        if self.held.setdefault(key, descriptor) != descriptor:
            raise OSError(13, "Permission denied")


def test_locks_of_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Windows())
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        locks.lock(first, "the run")
        with pytest.raises(BlockingIOError):
            locks.lock(second, "the run")
    assert (tmp_path / "lock").stat().st_size == 0, "the locked byte lies behind the end"


def test_without_any_locks_it_is_said_and_goes_on(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", None)
    with (tmp_path / "lock").open("w") as file:
        locks.lock(file, "the run")
    assert "no locks" in caplog.text
    assert not locks.has_locks(tmp_path)


def test_memory_and_cores_without_linux(monkeypatch):
    import psutil  # noqa: F401  # on Linux it reads `resource` itself

    with_resource = peak_bytes()
    monkeypatch.setitem(sys.modules, "resource", None)
    assert 0 < peak_bytes() <= 2 * with_resource
    assert peak_bytes(of_children=True) == 0
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert num_cores() == (os.cpu_count() or 1)
