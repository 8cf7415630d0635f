"""A run's folder: which run owns it, its configuration and its metrics."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from skingpt4.checkpoints import checkpoint
from skingpt4.config.upgrade import upgraded
from skingpt4.support.errors import FILE_FAILED, UserError
from skingpt4.support.files import write_text
from skingpt4.support.locks import HELD, acquire
from skingpt4.support.parse import parse_json, read_json_object
from skingpt4.support.regular import read_regular_text
from skingpt4.training.processes import TRY_AGAIN, RunError
from skingpt4.training.resuming import same_run

CONFIG, METRICS, CHECKPOINTS, BOARD = "config.yaml", "metrics.jsonl", "checkpoints", "tensorboard"
LOCK = ".lock"  # there while a run is in progress; a killed run leaves it behind, unlocked

logger = logging.getLogger(__name__)


class RunDirError(RunError):
    """A folder that cannot take this run; the message says what to do."""


class BusyError(RunDirError):
    """A folder in which another run is in progress."""

    status = TRY_AGAIN


class Failed(RunError):
    """A file could not be read or written; once that is fixed, the run can be resumed."""

    status = FILE_FAILED


def check(folder: Path, config_text: str, resume: bool, overwrite: bool, num_processes: int = 1) -> None:
    """Refuse a folder that cannot take this run; nothing is written.

    Args:
        folder: `output_dir`.
        config_text: the resolved configuration as YAML.
        resume: continue the run in the folder, if the same is computed.
        overwrite: the run in the folder may be deleted.
        num_processes: of this run.

    Raises:
        RunDirError: the folder holds something else, another run, or the run has another configuration.
    """
    if folder.exists() and not folder.is_dir():
        raise RunDirError(f"{folder}: is a file; name another output_dir")
    if not folder.is_dir() or all(path.name == LOCK for path in folder.iterdir()):
        return
    saved = _saved_config(folder)
    if saved is None:
        raise RunDirError(f"{folder}: is not empty and holds no run; name another output_dir")
    if overwrite or not _has_begun(folder):
        return
    if not resume:
        raise RunDirError(
            f"{folder}: holds another run already; add --resume to continue it, "
            "--overwrite to delete it, or name another output_dir"
        )
    problem = same_run.configuration_problem(
        saved, yaml.safe_load(config_text), _newest_card(folder), num_processes
    )
    if problem:
        raise RunDirError(f"{folder}: {problem}")


def finished(folder: Path, num_iterations: int) -> dict[str, Any] | None:
    """The card of the last checkpoint of a run that has done all its iterations, if it is intact; else None."""
    try:
        card = checkpoint.load(folder)[1]
    except UserError:
        return None
    return card if card.get("iteration", 0) >= num_iterations else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other run out of the folder, which is created if missing. The lock ends with its process.

    Afterwards a folder that was created here and is still empty is removed.

    Raises:
        BusyError: another run holds the folder.
        RunDirError: it cannot be written.
    """
    is_new = not folder.exists()
    try:
        file = _lock(folder)
    except BlockingIOError:
        raise BusyError(
            f"{folder}: another run is in progress there; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise RunDirError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # while it is locked: `_lock` notices that its file is gone
        os.close(file)
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _lock(folder: Path) -> int:
    """Create and lock the folder's lock file; returns its descriptor.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Not flock: forked loader workers would share it and hold it after the run was killed.
            acquire(file, of_process=True)
        except OSError as error:
            if error.errno in HELD:
                os.close(file)
                raise BlockingIOError(*error.args) from None
            logger.warning("%s: this file system has no locks; start no second run there", folder)
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # the run that held the lock has just ended and removed the file


def claim(folder: Path, config_text: str, resume: bool, overwrite: bool, num_processes: int = 1) -> None:
    """Make the folder this run's own: `check`, delete an old run if allowed, write `config.yaml`.

    Only what a run itself writes is ever deleted.

    Raises:
        RunDirError: as `check`, or the folder cannot be written.
    """
    check(folder, config_text, resume, overwrite, num_processes)
    try:
        if overwrite:
            for name in (METRICS, CONFIG):
                (folder / name).unlink(missing_ok=True)
            for name in (CHECKPOINTS, BOARD):
                shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG, config_text)
    except OSError as error:
        raise RunDirError(f"{folder}: cannot be written ({error.strerror})") from None


def _saved_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder, from its file or else its newest checkpoint; None if there is no run.

    Raises:
        RunDirError: the file is damaged or not a run's, and there is no checkpoint.
    """
    path = folder / CONFIG
    try:
        saved = yaml.safe_load(read_regular_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        saved = None
    if not _is_a_run(saved):
        saved = (_newest_card(folder) or {}).get("config")
    if _is_a_run(saved):
        return upgraded(saved)
    if path.exists():
        raise RunDirError(f"{folder}: holds no run; name another output_dir (its {CONFIG} is not a run's)")
    return None


def _is_a_run(config: Any) -> bool:
    return isinstance(config, dict) and {"step", "output_dir"} <= config.keys()


def _has_begun(folder: Path) -> bool:
    """Whether there is more than the configuration, which a failed start leaves too."""
    return (folder / CHECKPOINTS).exists() or (folder / METRICS).exists()


def _newest_card(folder: Path) -> dict[str, Any] | None:
    """The card of the newest checkpoint whose card can be read; None if there is none."""
    for path in reversed(checkpoint.saved(folder)):
        with suppress(OSError, ValueError):
            return read_json_object(path / checkpoint.CARD)
    return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file that can be read: a kill truncates the last, a power cut may leave zeros."""
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = parse_json(text)
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                yield line


class Metrics:
    """Appends JSON lines to `metrics.jsonl` and, if asked, to TensorBoard.

    A run that continues at iteration `start` drops the lines that were written after it.
    """

    def __init__(self, folder: Path, start: int, tensorboard: bool) -> None:
        path = folder / METRICS
        if path.is_file():
            earlier = [line for line in _lines(path) if line["iteration"] <= start]
            write_text(path, "".join(json.dumps(line) + "\n" for line in earlier))
        self.file = path.open("a", encoding="utf-8")
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.board = SummaryWriter(str(folder / BOARD), purge_step=start)

    def write(self, kind: str, iteration: int, **values: float) -> None:
        """Add one line, e.g. ``write("train", 10, loss=2.3)``; NaN and infinity, which JSON lacks, become null.

        Raises:
            Failed: it cannot be written; the iteration must not be saved, or its line would be missing for good.
        """
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        line = json.dumps({"kind": kind, "iteration": iteration, **finite}, allow_nan=False)
        try:
            self.file.write(line + "\n")
            self.file.flush()
        except OSError as error:
            raise Failed(
                f"{self.file.name}: cannot be written ({error.strerror}), so iteration {iteration} is not saved; "
                "once this is fixed, continue with --resume"
            ) from None
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"{kind}/{key}", value, iteration)

    def sync(self) -> None:
        """Wait until the lines are on the disk, so that no power cut takes lines before a checkpoint.

        Raises:
            OSError: they cannot be written.
        """
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Flush and close everything."""
        with suppress(OSError):  # of a line that could not be written, which is reported already
            self.file.close()
        if self.board:
            self.board.close()
