"""Which files a configuration names, and how to get those that are missing."""

from __future__ import annotations

from pathlib import Path

from skingpt4.config.schema import Config
from skingpt4.config.vision_files import HUB, place
from skingpt4.weights.fetch.catalogue import fetch_command
from skingpt4.weights.names import LOCAL

# Prefix or suffix of a path, and the command or the page that helps to get it; the first match counts.
HINTS = {
    "described.jsonl": "skingpt4 describe writes it, with what the step starts from (docs/training.md)",
    "weights/": "see docs/weights.md for its origin, and `skingpt4 weights list` for what can be fetched",
    "runs/phantoms/": "make quickstart (the complete job), or only draw the phantoms: "
    "python -m data.phantoms render --out-dir runs/phantoms --split NAME --count N",
    "runs/data/dermnet/": "python -m data.prepare dermnet DIR, then python -m data.split (data/README.md)",
    "runs/data/skincon/": "python -m data.prepare skincon ..., then python -m data.split (data/README.md)",
    "runs/data/rated/": "python -m eval.preferences writes the pairs that people rated (docs/recipes.md)",
    "runs/data/": "python -m data.prepare, then python -m data.split (data/README.md)",
    ".jsonl": "see data/README.md for how to write a manifest",
    "runs/": "another training writes it; run that one first",
}


def missing_paths(config: Config, for_training: bool = True) -> list[str]:
    """One line for each file that the configuration names and that is not there (all of them at once)."""
    paths = [("qformer.weights", config.qformer.weights)]
    vision = config.vision
    if not (vision.model.startswith(HUB) and vision.weights == str(place(vision.model))):
        paths.insert(0, ("vision.weights", vision.weights))
    if for_training:
        paths += [("data.train", path) for path in config.data.train]
        paths += [("data.validation", path) for path in config.data.validation]
        paths += [("initial_checkpoint", config.initial_checkpoint)]
    # A language model may be a hub id such as lmsys/vicuna-7b-v1.5; only what looks like a path is checked.
    if config.language.model.startswith(LOCAL):
        paths.append(("language.model", config.language.model))
    missing = [_missing(key, path) for key, path in paths if path and not Path(path).exists()]
    folder = place(vision.model)
    if folder is None or folder.exists() or not vision.model.startswith(HUB):
        return missing
    return [f"vision.model: {folder} is not there (skingpt4 weights fetch {vision.model})", *missing]


def _missing(key: str, path: str) -> str:
    hint = how_to_get(path)
    return f"{key}: {path} is not there" + (f" ({hint})" if hint else "")


def how_to_get(path: str) -> str:
    """The command or the page that helps to get a missing file; empty where none is known."""
    if command := fetch_command(path):
        return command
    return next((hint for mark, hint in HINTS.items() if path.startswith(mark) or path.endswith(mark)), "")
