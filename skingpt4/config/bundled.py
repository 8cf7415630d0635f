"""Weights that are installed with the package: configurations name them relative to the project's root.

From another working folder that path leads nowhere, so a configuration that is read gets the path of the installed
file. What is written (run folders, checkpoint cards, shared folders) names the relative path again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from skingpt4.config.schema import Config, QFormerConfig, VisionConfig

BUNDLED = "skingpt4/weights/bundled/"
_ROOT = Path(__file__).parents[2]
Part = TypeVar("Part", VisionConfig, QFormerConfig)


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
    def changed(part: Part) -> Part:
        return replace(part, weights=change(part.weights)) if part.weights else part

    start = config.initial_checkpoint
    return replace(
        config,
        vision=changed(config.vision),
        qformer=changed(config.qformer),
        initial_checkpoint=change(start) if start else start,
    )
