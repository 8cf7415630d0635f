"""Whether a language model's name is a path or the name of a repository of the hub."""

from __future__ import annotations

from pathlib import Path

LOCAL = (".", "/", "weights/", "runs/")  # prefixes that make a name a path


def is_hub_id(name: str) -> bool:
    """Whether a repository of the hub may have this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_local(name: str) -> bool:
    """Whether a language model's name is a path: by its beginning, or since there is such a folder."""
    return name.startswith(LOCAL) or Path(name).is_dir()
