"""The last figures of docs/reliability.md, from benchmarks/results/soak/*.json: python -m tests.support.soak_figures

A cell of the table that ends in `(soak NAME)` says what NAME.json holds, or that nothing was measured yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skingpt4.support.files import write_text

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results" / "soak"
CELL = re.compile(r"\| (?P<text>[^|]*) \(soak (?P<name>\w+)(?:, [0-9a-f]{7})?\) \|$", re.M)


def _hostile(run: dict[str, Any]) -> str:
    health, answered = (
        run["health"],
        f"{run['honest_answered']} of {run['honest_requests']} honest requests answered",
    )
    return (
        f"{run['n']:,} hostile requests; `/health` at most {health['max']:.2f} s (median {health['median']:.3f} s, "
        f"n = {health['n']:,}); {run['mib_above_the_model']:,} MiB above the model; {answered}"
    )


def _fuzz(run: dict[str, Any]) -> str:
    failures = sum(target["failures"] for target in run["targets"].values())
    slowest = max(target["slowest_seconds"] for target in run["targets"].values())
    return f"{run['n']:,} files of {run['formats']} formats, {failures} failed, the slowest {slowest:.2f} s"


SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "kills_of_training": lambda run: f"{run['equal']} of {run['n']} kills, in {len(run['settings'])} settings",
    "kills_of_commands": lambda run: f"{run['n']} kills of {len(run['kills'])} commands, none with a difference",
    "power_loss": lambda run: f"{run['n']:,} cuts, {run['noticed']:,} of {run['damaged']:,} noticed",
    "hostile_100": _hostile,
    "hostile_2000": lambda run: f"{_hostile(run)}; grown by {run['mib_grown']} MiB from the first to the last crowd",
    "browsers": lambda run: f"{run['answers']:,} answers in {run['browsers']} browsers, {run['mixed']} mixed",
    "fuzz": _fuzz,
}  # fmt: skip


def cell(name: str) -> str:
    """The cell of a measurement."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return f"| not measured (soak {name}) |"
    run = json.loads(path.read_text(encoding="utf-8"))
    return f"| {SENTENCES[name](run)} (soak {name}, {run['commit'][:7]}) |"


def with_figures(page: str) -> str:
    """The page with the figures of the files."""
    return CELL.sub(lambda match: cell(match["name"]), page)


if __name__ == "__main__":
    write_text(PAGE, with_figures(PAGE.read_text(encoding="utf-8")))
