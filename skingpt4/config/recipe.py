"""A recipe: several steps of training in one file, each from the checkpoint of the one before.

    # Both steps with Qwen3 4B.
    recipe:
      - {step: step1, extends: ../paper/step1.yaml}
      - {step: step2, extends: ../paper/step2.yaml, optim: {max_epoch: 10}}
    extends: [model_qwen3_4b.yaml, qlora.yaml]
    output_dir: runs/recipes/qwen3_4b
    optim: {batch_size: 4}

A step is a configuration's file, or the keys of one. What stands beside `recipe` lies over what each step extends,
and a step's own keys lie over that. Each step has its folder inside `output_dir`, named as the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.config.load import RECIPE, config_of, layers_of, read_values
from skingpt4.config.schema import Config, ConfigError
from skingpt4.support.parse import plain_values

MAX_STEPS = 20


@dataclass(frozen=True)
class Step:
    """One step of a recipe: its name, its configuration, and what the recipe decided in place of a file."""

    name: str
    config: Config
    notes: tuple[str, ...] = ()


def read_recipe(path: str | Path, overrides: Sequence[str] = (), output_dir: str | None = None) -> list[Step]:
    """The steps of a recipe in their order, each with the folder of the one before as its `initial_checkpoint`.

    Args:
        path: of the recipe.
        overrides: `key=value` strings, for all steps.
        output_dir: in place of the recipe's own.

    Raises:
        ConfigError: the file is no recipe, a step's configuration is refused (names the step), or two steps have the
            same folder.
    """
    path = Path(path)
    values = read_values(path)
    if RECIPE not in values:
        raise ConfigError(
            f"{path}: has no key 'recipe'; list the steps, e.g. recipe: [step1.yaml, step2.yaml], or train a single "
            f"step with python train.py --config {path}"
        )
    entries = plain_values(values.pop(RECIPE))
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_STEPS:
        raise ConfigError(f"{path}: 'recipe' must list 1 to {MAX_STEPS} steps, each a file or its keys")
    if taken := [text for text in overrides if text.partition("=")[0] in ("output_dir", "step")]:
        raise ConfigError(
            f"override {taken[0]!r}: would be the same for all steps; name a folder for all with --output-dir"
        )
    folder = output_dir or values.get("output_dir")
    steps: list[Step] = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, step {number}"
        config = _config(entry, values, path, overrides, where, folder if isinstance(folder, str) else None)
        notes: tuple[str, ...] = ()
        if steps:
            parent = steps[-1].config.output_dir
            if config.initial_checkpoint not in (None, parent):
                notes = (f"starts from {parent}, the step before, and not from {config.initial_checkpoint}",)
            config.initial_checkpoint = parent
        if config.output_dir in (step.config.output_dir for step in steps):
            raise ConfigError(
                f"{where}: has the folder of an earlier step, {config.output_dir}; give it an output_dir"
            )
        steps.append(Step(Path(config.output_dir).name, config, notes))
    return steps


def _config(
    entry: Any, shared: dict[str, Any], path: Path, overrides: Sequence[str], where: str, folder: str | None
) -> Config:
    """The configuration of one step."""
    if isinstance(entry, str):
        entry = {"extends": entry}
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: must be a file or the keys of a configuration, found {entry!r}")

    def given() -> Iterator[tuple[Path | str, dict[str, Any]]]:
        own = {key: value for key, value in entry.items() if key != "extends"}
        step = own.get("step")
        for source, layer in layers_of({"extends": entry.get("extends", [])}, path):
            step = own.get("step", layer.get("step", step))
            yield source, layer
        yield from layers_of({key: value for key, value in shared.items() if key != "output_dir"}, path)
        if folder and "output_dir" not in own:
            yield where, {"output_dir": str(Path(folder) / str(step))}
        yield where, own

    return config_of(given(), overrides, where)
