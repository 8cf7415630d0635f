"""Train all steps of a recipe: skingpt4 train-recipe FILE [key=value ...]."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported

EPILOG = """a recipe lists its steps, and what stands beside them is for all (see docs/recipes.md):
  recipe: [step1.yaml, step2.yaml]
  output_dir: runs/mine

examples:
  skingpt4 train-recipe configs/recipes/qwen3_4b_qlora_16gb.yaml --dry-run
  skingpt4 train-recipe configs/recipes/qwen3_4b_qlora_16gb.yaml optim.max_epoch=2 --output-dir runs/short
  torchrun --nproc-per-node 2 -m skingpt4 train-recipe configs/recipes/vicuna_7b_lora_80gb.yaml

Whatever stopped the command, give it again: finished steps are skipped, an unfinished one is resumed. The exit status
is that of train.py (python train.py --help)."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Train all steps of a recipe, each from the checkpoint of the one before.", EPILOG)
    add = result.add_argument
    add("recipe", metavar="FILE", help="a YAML file with the key recipe")
    add("--output-dir", metavar="DIR", help="of all steps, in place of the recipe's output_dir")
    add(
        "--overwrite",
        action="store_true",
        help="delete the steps' runs first; given again, it deletes them again",
    )
    add(
        "--dry-run",
        action="store_true",
        help="check every step, show memory, work and a sample, train nothing",
    )
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration of all steps")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or check; returns the exit status."""
    args = parser().parse_intermixed_args(argv)
    setup_logging()
    with reported() as status:
        from skingpt4.cli.training import steps
        from skingpt4.config.recipe import read_recipe

        recipe = read_recipe(args.recipe, args.overrides, args.output_dir)
        if args.dry_run:
            report, stopped = steps.dry_run_all(args.recipe, recipe)
            if int(os.environ.get("RANK", 0)) == 0:
                print(report)
            status.code = int(stopped)
        else:
            folder = steps.run_all(recipe, args.overwrite)
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"checkpoint: {os.path.relpath(folder)}")
    return status.code
