"""A recipe of two short steps, and what a run of it has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from skingpt4.config.load import load_config, to_dict
from skingpt4.config.schema import Config
from tests.support.kill_trials import trained_bits
from tests.support.tiny import tiny_config

NUM_ITERATIONS = 6  # of a step
STEPS = ("step1", "step2")


def write_recipe(models: Path, folder: Path, name: str, **changes: Any) -> Path:
    """Write a recipe of two steps with LoRA on the models of a folder; returns its path."""
    for step in STEPS:
        config = tiny_config(
            models, step=step, lora__rank=2, optim__max_epoch=2, optim__iters_per_epoch=NUM_ITERATIONS // 2,
            log__checkpoint_every=2, language__compile="never", **changes,
        )  # fmt: skip
        values = {key: value for key, value in to_dict(config).items() if key != "output_dir"}
        (folder / f"{name}_{step}.yaml").write_text(yaml.safe_dump(values))
    path = folder / f"{name}.yaml"
    steps = [f"{name}_{step}.yaml" for step in STEPS]
    path.write_text(yaml.safe_dump({"recipe": steps, "output_dir": str(folder / name)}))
    return path


def config_of(path: Path, step: str) -> Config | None:
    """The configuration that a step was started with, None before it was."""
    file = path.with_suffix("") / step / "config.yaml"
    return load_config(file) if file.is_file() else None


def bits(path: Path) -> list[dict[str, bytes]]:
    """The trained tensors of both steps."""
    return [trained_bits(config_of(path, step)) for step in STEPS]
