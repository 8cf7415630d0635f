"""Two steps, each step alone, no training and a blank picture, for several seeds: python -m benchmarks headline.

For each seed this is `python -m eval.quickstart --ablation --seed N`: both trainings, step 2 alone, and all arms on
the 150 test phantoms. One that was interrupted continues; a seed whose JSON exists is not trained again. Each JSON
holds one training; the spread between them is what one run cannot show. `--default` writes down the quickstart of the
configurations' own seed, without the ablation: how long its stages took, and its results (`quickstart.json`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.results import RESULTS, about, write
from skingpt4.checkpoints import checkpoint
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import UserError, reported

MEASURES = ("top1", "top3", "concept_micro_f1", "different_answers")
ARMS = {
    "two_step": "two steps",
    "step1_only": "step 1 only",
    "step2_only": "step 2 only (`make ablation`)",
    "untrained": "untrained projection",
    "blank_image": "two steps, blank picture",
    "noise_image": "two steps, noise as a picture",
}


class QuickstartError(UserError):
    """The quickstart did not end well; its own message is printed above."""


def run_quickstart(seed: int | None) -> int:
    """Its exit status; without a seed that of the configurations, without the ablation."""
    command = ["-m", "eval.quickstart", *([] if seed is None else ["--ablation", "--seed", str(seed)])]
    return subprocess.run([sys.executable, *command], check=False).returncode


def measure(seed: int | None, words: Sequence[str], path: Path) -> None:
    """Train and evaluate with one seed, and write what came out; a quickstart that was run before is taken as it is.

    Raises:
        QuickstartError: it failed.
    """
    if run_quickstart(seed):
        of = "" if seed is None else f"seed {seed}: "
        raise QuickstartError(f"{of}the quickstart failed; the same command continues it")
    root = Path("runs/quickstart" if seed is None else f"runs/quickstart-seed={seed}")
    found, ledger = (json.loads((root / name).read_text()) for name in ("results.json", "stages.json"))
    card = checkpoint.load(root / "step2")[1]
    arms = {
        name: {measure: arm[measure] for measure in MEASURES if measure in arm}
        for name, arm in found["arms"].items()
    }
    result = {
        "seed": seed, "num_cases": found["num_cases"], "seconds": found["seconds"],
        "peak_memory_gb": found["peak_memory_gb"], "arms": arms, "comparisons": found["comparisons"],
        "stages": {name: stage["seconds"] for name, stage in ledger.items()},
        "trained_at": card["git_revision"],
    }  # fmt: skip
    write({**about(["headline", *words]), **result}, path)


def trainings() -> list[dict[str, Any]]:
    """The results on file, by seed."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob("headline_*.json")]
    return sorted(found, key=lambda result: result["seed"])


def table() -> str:
    """Class top-1 and concepts' F1 of each arm in percent: mean of the trainings, smallest and largest.

    Of one training its 95 % interval over cases.
    """
    runs = trainings()
    head = f"| arm, {runs[0]['num_cases']} cases | class top-1 | concepts' micro-F1 | trainings |\n|---|---|---|---|"
    rows = []
    for name, words in ARMS.items():
        arms = [run["arms"][name] for run in runs if name in run["arms"]]
        if not arms:
            continue
        cells = [_cell([arm[measure] for arm in arms]) for measure in ("top1", "concept_micro_f1")]
        rows.append(f"| {words} | {' | '.join(cells)} | {len(arms)} |")
    return "\n".join([head, *rows])


def _cell(figures: Sequence[dict[str, float]]) -> str:
    values = [100 * figure["value"] for figure in figures]
    ends = (
        [100 * figures[0][key] for key in ("low", "high")]
        if len(figures) == 1
        else [min(values), max(values)]
    )
    return f"{statistics.fmean(values):.1f} ({ends[0]:.1f} to {ends[1]:.1f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = make_parser(__doc__ or "", prog="python -m benchmarks headline")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[42, 1, 2, 3, 4], help="of the trainings (%(default)s)"
    )
    parser.add_argument("--out-dir", type=Path, default=RESULTS, help="for headline_SEED.json (%(default)s)")
    parser.add_argument(
        "--default", action="store_true", help="only the quickstart as it is, without --seeds"
    )
    args = parser.parse_args(words)
    with reported() as status:
        for seed in [None] if args.default else args.seeds:
            path = args.out_dir / ("quickstart.json" if seed is None else f"headline_{seed}.json")
            if path.is_file():
                print(f"{path}: on file, nothing to do")
            else:
                measure(seed, words, path)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
