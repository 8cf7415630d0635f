"""Which files a configuration names, and how to get those that are missing."""

from __future__ import annotations

from pathlib import Path

from skingpt4.config.schema import LOCAL, Config
from skingpt4.weights.fetch.catalogue import fetch_command


def missing_paths(config: Config, for_training: bool = True) -> list[str]:
    """One line for each file that the configuration names and that is not there (all of them at once)."""
    wanted = [("vision.weights", config.vision.weights), ("qformer.weights", config.qformer.weights)]
    if for_training:
        wanted += [("data.train", path) for path in config.data.train]
        wanted += [("data.validation", path) for path in config.data.validation]
        wanted += [("initial_checkpoint", config.initial_checkpoint)]
    # A language model may be a hub name such as lmsys/vicuna-7b-v1.5; only what looks like a path is checked.
    model = config.language.model
    if model.startswith(LOCAL):
        wanted.append(("language.model", model))
    return [
        f"{key}: {path} is not there{_hint(str(path))}"
        for key, path in wanted
        if path and not Path(path).exists()
    ]


def _hint(path: str) -> str:
    if path.startswith("weights/"):
        known = "skingpt4 weights list shows what can be fetched; see docs/weights.md"
        return f" ({fetch_command(path) or known})"
    if path.startswith("runs/phantoms/"):
        return " (render it with python -m data.phantoms render, or run make quickstart)"
    return ""
