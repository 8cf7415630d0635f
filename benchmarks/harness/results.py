"""Results as JSON, with what they depend on: command, commit, date, hardware, versions.

Only a clean tree writes to `benchmarks/results/`, and no trial with `--small`: a figure in the docs can then be
measured again from its commit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import hardware
from skingpt4.checkpoints.checkpoint import git_revision
from skingpt4.support.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
UNCOMMITTED = Path("runs/benchmarks")  # for what a tree with changes measured


def about(argv: Sequence[str] | None = None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The provenance of a result: command, commit, date, hardware, versions."""
    words = sys.argv[1:] if argv is None else argv
    return {
        "command": " ".join(["python -m benchmarks", *words]),
        "commit": git_revision(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware.machine(device),
        "versions": hardware.versions(),
    }


def write(result: Mapping[str, Any], path: Path) -> Path:
    """Write a result as JSON, completely or not at all, and print where.

    Args:
        result: what was measured, with `about`.
        path: e.g. ``RESULTS / "train.json"``; nothing goes into `RESULTS` from a tree with uncommitted changes,
            without a commit or with `--small`, but to the same name in `runs/benchmarks/`.

    Returns:
        The file that was written.
    """
    commit, why = git_revision(), None
    if "--small" in str(result.get("command")).split():
        why = "figures of --small mean nothing"
    elif commit is None or "+" in commit:
        why = "the tree has uncommitted changes"
    if why and path.resolve().is_relative_to(RESULTS):
        refused, path = path, UNCOMMITTED / path.name
        print(f"{why}, so nothing is written to {refused}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(_rounded(result), indent=1) + "\n")
    print(f"written: {path}")
    return path


def share(figure: Mapping[str, Any] | None) -> str:
    """A share with its 95 % interval for a table, e.g. ``50.0 % (42.0 to 58.0)``; empty where there is none."""
    if figure is None:
        return ""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _rounded(value: Any) -> Any:
    """Five significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
