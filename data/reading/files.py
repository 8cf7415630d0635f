"""The files of a folder of any size, in order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data.reading.rows import SourceError
from data.reading.tables import DiskMap
from skingpt4.records.folders import Files


def find_files(folder: Path, left_out: Counter[str]) -> DiskMap:
    """Every file under a folder as its path relative to it (with /), but those that are never a picture.

    Args:
        folder: links in it are followed, see `skingpt4.records.folders`.
        left_out: counts what was left out, by reason.

    Raises:
        SourceError: a folder cannot be read.
    """
    names, files = DiskMap(), Files(folder)
    for name in files:
        names.add(name)
    if files.unreadable:
        raise SourceError(
            f"{files.unreadable[0]}: this folder cannot be read; make it readable, or move it away"
        )
    left_out.update(files.left_out)
    return names
