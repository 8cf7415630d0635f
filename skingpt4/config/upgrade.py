"""Configurations of older versions, as their checkpoints and run folders keep them, in today's terms."""

from __future__ import annotations

from typing import Any

MOVED = {"skingpt4/assets/": "skingpt4/weights/bundled/"}  # prefixes of paths: 0.1's and today's


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a configuration's values with the paths of files that lie elsewhere in the package today."""
    return {key: _moved(value) for key, value in values.items()}


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return upgraded(value)
    if isinstance(value, str):
        for old, new in MOVED.items():
            if value.startswith(old):
                return new + value.removeprefix(old)
    return value
