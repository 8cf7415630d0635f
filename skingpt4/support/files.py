"""Reading and writing files: YAML of the package, whole-or-not-at-all texts, checksums, JSON lines, timestamps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from skingpt4.support.regular import open_regular, read_regular_text


@contextmanager
def private_files() -> Iterator[None]:
    """Files and folders that are made in this block, also by processes started in it, are for this user alone.

    Questions, histories, notes and file names of patients are in nearly all that is written: 0600 under 0700.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def drop_truncated_line(path: Path) -> None:
    """Remove a last line that was not written completely, so that the next one starts a line of its own."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def read_yaml(path: Path) -> Any:
    """A YAML file of the package, by the parser in C where there is one (it is ten times as fast)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(read_regular_text(path), loader)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.part")
    # In JSON the backslashes are those of the same text, so a file name that is not UTF-8 is read back as it was.
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    move_into_place(part, path)


def move_into_place(part: Path, path: Path) -> None:
    """Give a file that is written completely its name, so that it is there whole or not at all after a power cut."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Without it a power cut may keep a later rename and lose the content that was written before. Windows cannot wait
    for a folder, and for a file only where it may be written.
    """
    is_windows = not hasattr(os, "O_DIRECTORY")
    if is_windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes as hex, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
