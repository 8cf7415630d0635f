"""Files that several processes use at once: locks, on every system and file system, and SQLite files."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # every other system
    msvcrt = None  # type: ignore[assignment]

WAIT_SECONDS = 20.0  # for another writer of an SQLite file; a write takes milliseconds
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # by another process, or another opening of the file
# Windows keeps others from reading what is locked, so it locks a byte far behind the end of any lock file.
_PLACE = 2**30


def acquire(descriptor: int, wait: bool = False, of_process: bool = False) -> None:
    """Lock an open file until it is closed.

    Args:
        descriptor: of a file opened for writing; on Unix also of a folder.
        wait: for whoever holds the lock.
        of_process: a record lock, which processes forked from this one do not share; on Windows all locks are such.

    Raises:
        OSError: `errno` is one of HELD where the lock is held, anything else where there are no locks.
    """
    if fcntl is not None:
        (fcntl.lockf if of_process else fcntl.flock)(
            descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
        )
    elif msvcrt is not None:
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:  # LK_LOCK gives up after ten seconds
                if not wait or error.errno not in HELD:
                    raise
    else:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def lock(file: IO, what: str) -> None:
    """Lock an open file until it is closed; where there are no locks, say so and go on.

    Args:
        file: opened for writing.
        what: the file or folder that the lock guards, for the warning.

    Raises:
        BlockingIOError: another process, or another opening of the file, holds the lock.
    """
    try:
        acquire(file.fileno())
    except OSError as error:
        if error.errno in HELD:
            raise BlockingIOError(*error.args) from None
        warn(what)


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder has record locks, such as SQLite uses."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                acquire(file.fileno(), of_process=True)
            except OSError as error:
                return error.errno in HELD
    except OSError:  # it cannot be written: whoever wants to, says so
        pass
    return True


def warn(what: str) -> None:
    """Say that nothing keeps two runs apart."""
    logger.warning("%s: this file system has no locks; start no second run there", what)


def private_file(path: Path) -> None:
    """Create an empty file that only its owner can read, unless it exists; its `-wal` takes the same mode.

    Raises:
        OSError: it cannot be created.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log. SQLite refuses that without its timeout while another process opens the file."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
