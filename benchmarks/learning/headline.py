"""Two steps, each step alone, a blank picture and noise, for five trainings: python -m benchmarks headline.

A training is `python -m eval.quickstart --ablation`: both steps, step 2 alone, and all arms on the 150 test phantoms.
The first is that of the configurations' own seed (`quickstart.json`, with the times of the main job), the others are
those of `--seeds` (`headline_SEED.json`). One that was interrupted continues; one that has its JSON, and its folder
under `runs/`, is not trained again. `headline.json` then has each arm's mean over trainings, how far they differ, and
the paired differences: one training alone shows neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.results import about, share, write
from eval.asking.answers import read_run
from eval.measures.comparing.trainings import check_groups, measure_groups
from eval.measures.results import run_lines
from skingpt4.checkpoints import checkpoint
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import UserError, reported

OUT = Path("runs/headline")
MEASURES = ("top1", "top3", "top1_text", "concept_micro_f1", "different_answers", "on_topic")


class QuickstartError(UserError):
    """The quickstart did not end well; its own message is printed above."""


def run_quickstart(seed: int | None) -> int:
    """Its exit status; without a seed that of the configurations."""
    command = ["-m", "eval.quickstart", "--ablation", *([] if seed is None else ["--seed", str(seed)])]
    return subprocess.run([sys.executable, *command], check=False).returncode


def root_of(seed: int | None) -> Path:
    """The folder of a quickstart."""
    return Path("runs/quickstart" if seed is None else f"runs/quickstart-seed={seed}")


def measure(seed: int | None, words: Sequence[str], path: Path) -> None:
    """Train and evaluate with one seed, and write what came out; a quickstart that was run before is taken as it is.

    Raises:
        QuickstartError: it failed.
    """
    if run_quickstart(seed):
        of = "" if seed is None else f"seed {seed}: "
        raise QuickstartError(f"{of}the quickstart failed; the same command continues it")
    root = root_of(seed)
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


def over_trainings(roots: Mapping[str, Path]) -> dict[str, Any]:
    """What `measure_groups` says about the arms that all trainings (name: folder) have.

    Raises:
        AnswersError, ReportError: the answers of a training are not there, or not complete.
        GroupError: two of them are the same training.
    """
    runs = {name: read_run(root) for name, root in roots.items()}
    lines = {name: run_lines(run) for name, run in runs.items()}
    common = [arm for arm in next(iter(lines.values())) if all(arm in arms for arms in lines.values())]
    groups = {arm: [f"{arm}_{name}" for name in roots] for arm in common}
    metas = {f"{arm}_{name}": run.arms[arm].meta for name, run in runs.items() for arm in common}
    check_groups(groups, metas)
    return measure_groups(
        groups, {f"{arm}_{name}": arms[arm] for name, arms in lines.items() for arm in common}
    )


def summary(result: dict[str, Any]) -> str:
    """Markdown: what each arm reached over all trainings, with 95 % intervals over cases and trainings."""
    lines = ["| arm | trainings | class top-1 | lowest and highest | class in its own words | concept F1 |"]
    lines.append("|---|---|---|---|---|---|")
    for name, arm in result["groups"].items():
        each = arm["top1"]["each"].values()
        shares = [share(arm.get(measure)) for measure in ("top1", "top1_text", "concept_micro_f1")]
        shares.insert(1, f"{100 * min(each):.1f} and {100 * max(each):.1f} %")
        lines.append(f"| {name.replace('_', ' ')} | {len(each)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = make_parser(__doc__ or "", prog="python -m benchmarks headline")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[1, 2, 3, 4], help="of the other trainings (%(default)s)"
    )
    parser.add_argument("--out-dir", type=Path, default=OUT, help="for the JSON files (%(default)s)")
    args = parser.parse_args(words)
    with reported() as status:
        seeds = [None, *args.seeds]
        for seed in seeds:
            path = args.out_dir / ("quickstart.json" if seed is None else f"headline_{seed}.json")
            if path.is_file() and (root_of(seed) / "results.json").is_file():
                print(f"{path}: on file, nothing to do")
            else:
                measure(seed, words, path)
        if args.seeds:
            found = over_trainings({"default" if s is None else str(s): root_of(s) for s in seeds})
            write({**about(["headline", *words]), **found}, args.out_dir / "headline.json")
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
