"""A folder for uploads that is this server's alone, in memory where there is room, and gone when the server is.

The kernel frees the lock on a folder when its server ends, however that happens. So a folder without a lock was left
behind by a server that was killed, and the next one deletes it. Windows cannot lock a folder: there a file beside it
is locked. Where there are no locks at all, nothing that was left behind is deleted.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skingpt4.support.errors import UserError
from skingpt4.support.locks import HELD, acquire

MEMORY = Path("/dev/shm")  # a file system in memory, on machines that have one
PREFIX = "skingpt4-uploads-"


@contextmanager
def private_folder(num_bytes: int) -> Iterator[Path]:
    """Make a folder for this user alone and delete it at the end; first, delete what killed servers left behind.

    Args:
        num_bytes: that must be free in memory; elsewhere the folder is on disk.
    """
    disk = Path(tempfile.gettempdir())
    for place in (MEMORY, disk):
        sweep(place)
    memory = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= num_bytes
    folder, lock = _make_locked(MEMORY if memory else disk)
    try:
        yield folder
    finally:
        _delete(folder, lock)


def _delete(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    _beside(folder).unlink(missing_ok=True)


def _beside(folder: Path) -> Path:
    """The file that is locked where folders cannot be."""
    return folder.with_name(f".{folder.name}.lock")


def sweep(place: Path) -> list[Path]:
    """Delete the folders that killed servers of this user left in a place.

    Returns:
        The deleted ones.
    """
    swept = []
    for folder in sorted(place.glob(f"{PREFIX}*")):
        lock = _lock(folder)
        if lock is not None:
            _delete(folder, lock)
            swept.append(folder)
    return swept


def _make_locked(place: Path) -> tuple[Path, int]:
    for _ in range(10):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        lock = _lock(folder)
        if lock is not None:
            return folder, lock
        shutil.rmtree(
            folder, ignore_errors=True
        )  # another server that starts now took it for one left behind
    raise UserError(f"{place}: a folder cannot be locked there; set TMPDIR to a folder on a local disk")


def _lock(folder: Path) -> int | None:
    """The descriptor of a folder that is locked now; None if somebody else holds it, or it is not ours to touch."""
    if not hasattr(os, "O_DIRECTORY"):
        return _lock_beside(folder)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        acquire(descriptor)
        held, there = os.fstat(descriptor), os.lstat(folder)
        private = held.st_uid == os.getuid() and not stat.S_IMODE(held.st_mode) & 0o077
        if private and os.path.samestat(held, there):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _lock_beside(folder: Path) -> int | None:
    """As `_lock`, on Windows, where the place is the user's own."""
    is_new = not _beside(folder).exists()
    try:
        descriptor = os.open(_beside(folder), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        acquire(descriptor)
    except OSError as error:
        if error.errno in HELD or not is_new:
            os.close(descriptor)
            return None
    return descriptor
