"""Two steps, each step alone, no training and a blank picture, for several seeds: python -m benchmarks headline.

For each seed this is `python -m eval.quickstart --ablation --seed N`: both trainings, step 2 alone, and all arms on
the 150 test phantoms. One that was interrupted continues; a seed whose JSON exists is not trained again. Each JSON
holds one training; the spread between them is what one run cannot show. `--default` writes down the quickstart of the
configurations' own seed, without the ablation: how long its stages took, and its results (`quickstart.json`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.results import RESULTS, about, share, write
from skingpt4.checkpoints import checkpoint
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import UserError, reported

MEASURES = ("top1", "top3", "top1_text", "concept_micro_f1", "different_answers", "on_topic")


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


def table(result: dict[str, Any]) -> str:
    """Markdown: what each arm of a training reached on the cases, with 95 % intervals over cases."""
    lines = [
        "| arm | class top-1 | class in top 3 | class in its own words | concept F1 |",
        "|---|---|---|---|---|",
    ]
    for name, arm in result["arms"].items():
        shares = [share(arm.get(measure)) for measure in ("top1", "top3", "top1_text", "concept_micro_f1")]
        lines.append(f"| {name.replace('_', ' ')} (n = {arm['top1']['n']}) | {' | '.join(shares)} |")
    return "\n".join(lines)


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
