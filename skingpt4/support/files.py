"""Files of one JSON object a line that grow while a program runs."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ASSETS = Path(__file__).parent / "assets"


def mend(path: Path) -> None:
    """Take away a last line that a kill has torn, so that the next one begins a line of its own."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def read_asset(name: str) -> Any:
    """A YAML file of skingpt4/assets, by the parser in C where there is one (it is ten times as fast)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((ASSETS / name).read_text(encoding="utf-8"), loader)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def now() -> str:
    """The time, UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
