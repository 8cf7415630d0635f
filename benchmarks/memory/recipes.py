"""The table of docs/recipes.md: what each recipe's last step takes of a card's memory, estimated from shapes.

python -m benchmarks memory-recipes

Nothing is loaded, downloaded or measured. Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from skingpt4.config.recipe import read_recipe
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.doctor.shapes import LanguageShape, shape_of
from skingpt4.support.errors import UserError, reported

FOLDER = Path("configs/recipes")
DTYPE = "bfloat16"  # as float16 takes


@cache
def _shape(name: str) -> LanguageShape:
    shape = shape_of(name)
    if shape is None:
        raise UserError(f"{name}: its sizes are unknown; bring its config.json")
    return shape


@cache
def _encoder_parameters() -> int:
    """All recipes have the paper's encoder."""
    return memory.encoder_parameters(read_recipe(recipes()[0])[0].config)


def recipes(folder: Path = FOLDER) -> list[Path]:
    """The recipes that name a card, by its size."""
    return sorted(folder.glob("*_*gb.yaml"), key=lambda path: (card_gb(path), path.name))


def card_gb(path: Path) -> int:
    """The size of the card that a recipe names, in GB."""
    found = re.search(r"_(\d+)gb$", path.stem)
    if found is None:
        raise UserError(f"{path}: names no card, such as _24gb")
    return int(found[1])


def estimate(config: Config) -> dict[str, int]:
    """Bytes on the card by part at the peak of a training step, CUDA's own included."""
    config.language.attention = "sdpa"
    parts = memory.training(
        config, _shape(config.language.model), DTYPE, _encoder_parameters(),
        quantization=config.language.quantization,
    )  # fmt: skip
    return parts | {"CUDA itself": memory.CUDA_CONTEXT}


def table() -> str:
    """Markdown: GiB by recipe and part."""
    lines = [
        "| recipe | card, GB | batch x accumulation | language model | trained | activations and logits | encoder | "
        "estimated in all, GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in recipes():
        config = read_recipe(path)[-1].config
        parts = estimate(config)
        names = ("language model", "trained tensors, gradients, AdamW", memory.ACTIVATIONS, "image encoder")
        model, trained, activations, encoder = (parts[name] / memory.GIB for name in names)
        activations += parts["logits"] / memory.GIB
        optim = config.optim
        lines.append(
            f"| `{path.stem}` | {card_gb(path)} | {optim.batch_size} x {optim.accumulation} | {model:.1f} | "
            f"{trained:.1f} | {activations:.1f} | {f'{encoder:.1f}' if encoder else 'cached'} | "
            f"{memory.gib(parts):.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and print; returns the exit status."""
    argparse.ArgumentParser(
        prog="python -m benchmarks memory-recipes",
        description="Estimated memory of the recipes on their cards. Research software, not a medical device.",
    ).parse_args(argv)
    with reported() as status:
        print(table())
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
