"""Locks of files, also where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import logging
import tempfile
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_HELD = (errno.EACCES, errno.EAGAIN)


def lock(file: IO, what: str) -> None:
    """Lock an open file until it is closed; where there are no locks, say so and go on.

    Args:
        file: opened for writing.
        what: the file or folder that the lock guards, for the warning.

    Raises:
        BlockingIOError: another process, or another opening of the file, holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(*error.args) from None
        warn(what)


def has_locks(folder: Path) -> bool:
    """Whether the file system of a folder has record locks, such as SQLite uses."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno in _HELD
    except OSError:  # it cannot be written: whoever wants to, says so
        pass
    return True


def warn(what: str) -> None:
    """Say that nothing keeps two runs apart."""
    logger.warning("%s: this file system has no locks; start no second run there", what)
