"""SQLite files that only their owner can read, opened by several processes at once."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

WAIT_SECONDS = 20.0  # for another writer; a write takes milliseconds


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
