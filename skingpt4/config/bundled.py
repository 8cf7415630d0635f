"""Weights that are installed with the package: configurations name them relative to the project's root.

From another working folder that path leads nowhere, so a configuration that is read gets the path of the installed
file. What is written (run folders, checkpoint cards, shared folders) names the relative path again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from skingpt4.config.schema import Config

BUNDLED = "skingpt4/weights/bundled/"
_ROOT = Path(__file__).parents[2]


def resolve_bundled(path: str) -> str:
    """The path of the installed file, where `path` is bundled and not found from the working folder."""
    return str(_ROOT / path) if path.startswith(BUNDLED) and not Path(path).exists() else path


def resolved(config: Config) -> Config:
    """A copy of a configuration whose bundled weights are found from any working folder."""
    return _with_weights(config, resolve_bundled)


def portable(config: Config) -> Config:
    """A copy of a configuration that names bundled weights by their relative path: the inverse of `resolved`."""
    root = f"{_ROOT}/"
    return _with_weights(
        config, lambda path: path.removeprefix(root) if path.startswith(root + BUNDLED) else path
    )


def _with_weights(config: Config, change: Callable[[str], str]) -> Config:
    vision, qformer = (
        replace(part, weights=change(part.weights)) if part.weights else part
        for part in (config.vision, config.qformer)
    )
    return replace(config, vision=vision, qformer=qformer)
