"""Whether a language model's name is a path or the name of a repository of the hub."""

from __future__ import annotations

from pathlib import Path

LOCAL = (".", "/", "weights/", "runs/")  # prefixes that make a name a path


def is_local(name: str) -> bool:
    """Whether a language model's name is a path: by its beginning, or since there is such a folder."""
    return name.startswith(LOCAL) or Path(name).is_dir()
