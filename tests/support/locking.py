"""Another process that holds, or tries to hold, the lock of a run's folder; and file systems without locks."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK_IT = """
import sys
from pathlib import Path
from skingpt4.training.resuming import run_folder

try:
    with run_folder.locked(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
except run_folder.RunDirError as error:
    print(error)
"""


def lock_elsewhere(folder: Path) -> "subprocess.Popen[str]":
    """Lock the folder in a process of its own until its standard input is closed; it prints "locked" or why not."""
    command = [sys.executable, "-c", LOCK_IT, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def without_locks(monkeypatch, number=errno.ENOLCK):
    """As on a file system without locks."""

    def refuse(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
