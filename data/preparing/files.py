"""Files that appear complete or not at all, and JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


def write_line(file: TextIO, row: dict[str, Any]) -> None:
    """One JSON object as a line."""
    file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def complete_file(path: Path) -> Iterator[TextIO]:
    """A text file to write that takes its place only when the block ends without an error."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
