"""Configurations of older versions, as their checkpoints and run folders store them, in today's terms."""

from __future__ import annotations

from typing import Any

from skingpt4.config.bundled import BUNDLED

MOVED = {"skingpt4/assets/": BUNDLED}  # prefixes of paths: 0.1's and today's
# Keys that 0.2.0 no longer has, and the value it always uses: with that value a configuration means the same.
REMOVED: dict[str, Any] = {
    "language.logits": "supervised",
    "language.loss_chunk_mb": 32,
    "language.cuda_graphs": False,
    "data.group_tokens": 384,
    "data.feature_dtype": "float16",
}
# Keys that main had between releases, and the value that they always have now.
UNRELEASED: dict[str, Any] = {"projection.start": "random", "projection.start_iterations": None}
FIXED = REMOVED | UNRELEASED
# Values that 0.2.0 no longer has, and what computes the same: the loss does not depend on the batching.
REPLACED = {("data.batching", "packed"): "auto"}


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a stored configuration's values, with today's paths and values, and without removed keys at
    their fixed value.

    A removed key with another value stays, so that reading the values refuses it by name.
    """
    return _upgraded(values, "")


def _upgraded(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    upgraded: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            upgraded[key] = _upgraded(value, f"{name}.")
        elif name not in FIXED or FIXED[name] != value:
            upgraded[key] = REPLACED.get((name, value), _moved(value)) if isinstance(value, str) else value
    return upgraded


def _moved(path: str) -> str:
    for old, new in MOVED.items():
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def removal(key: str) -> str | None:
    """The sentence that refuses a removed key; None where 0.1 had no such key."""
    if key not in REMOVED:
        return None
    value = REMOVED[key]
    shown = str(value).lower() if isinstance(value, bool) else value
    return (
        f"'{key}' was removed in 0.2.0, which always uses {shown}; delete the key, "
        "or stay with version 0.1 for another value"
    )
