"""The figures of a soak as JSON, with what they depend on: `runs/soak/NAME.json`.

Those of a clean commit are copied to benchmarks/results/soak/, where docs/reliability.md takes them from.
SKINGPT4_SOAK_SCALE=0.1 takes a tenth of the kills, inputs, requests and seconds, to see whether it runs.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import results

FOLDER = Path(__file__).parents[2] / "runs" / "soak"
SCALE = float(os.environ.get("SKINGPT4_SOAK_SCALE", "1"))
SEED = int(
    os.environ.get("SKINGPT4_SOAK_SEED") or secrets.randbits(31)
)  # other moments and inputs in each run


def scaled(number: float, at_least: int = 1) -> int:
    """A number of kills, inputs, requests or seconds in this run."""
    return max(at_least, round(number * SCALE))


def write(name: str, n: int, **figures: Any) -> None:
    """Write what was measured.

    Args:
        name: of the file.
        n: how many kills, inputs or requests the figures are of.
        figures: anything of JSON.
    """
    about = results.about(device="cpu") | {
        "command": " ".join(["python -m pytest", *sys.argv[1:]]),
        "seed": SEED,
        "scale": SCALE,
    }
    results.write(about | {"n": n} | figures, FOLDER / f"{name}.json")
