"""Answer the cases with several arms: python -m eval.run --config ... --cases ... --arm two_step=CHECKPOINT.

An arm is a projection (a checkpoint, or the untouched initial one) and what it is shown: each case's own picture or,
as a control, a blank one, noise, or another case's. Everything else is the same for all arms.

First the likelihood of each class is computed for all cases. Then each case is one conversation through the four
published prompts, followed by two questions without that conversation, from which concepts and a class are read.
Several cases are answered together. Every answer is written at once: to continue a stopped run, repeat the command.
`accelerate launch -m eval.run ...` spreads the cases over processes and machines (on CPUs
`python -m torch.distributed.run --nproc-per-node 2 -m eval.run ...`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.asking.perturbations import CONTROLS, STANDARD
from skingpt4.support.cli import add_answer_length, make_parser, setup_logging
from skingpt4.support.errors import reported

if TYPE_CHECKING:
    from eval.asking.answering import RunSettings

EXAMPLE = """example:
  python -m eval.run --config configs/tiny/step2.yaml --run-dir runs/quickstart \\
    --cases runs/phantoms/cases/manifest.jsonl --arm two_step=runs/quickstart/step2 --arm untrained"""


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "", EXAMPLE, prog="python -m eval.run")
    add = parser.add_argument
    add("--config", required=True, help="its encoder, language model and template are used")
    add("--cases", required=True, type=Path, help="a manifest (JSONL) with classes, see eval.cases")
    add(
        "--task",
        help="labels, questions and measures: a name or YAML file, see eval.tasks (default: the run's)",
    )
    add("--run-dir", required=True, type=Path, help="answers go to its folder answers/")
    add("--arm", action="append", required=True, metavar="NAME=CHECKPOINT",
        help="or 'untrained', or NAME=untrained for the initial projection under another name; arms that are called "
        f"{', '.join(CONTROLS)} are shown such pictures")  # fmt: skip
    add("--batch-size", type=int, default=50, help="cases answered together (default: %(default)s)")
    add_answer_length(parser)
    add(
        "--num-prompts", type=int, default=4, choices=range(5), help="only the first of the published prompts"
    )
    add("--num-conversations", type=int, metavar="N",
        help="only so many cases, evenly spread, go through the prompts; all are scored")  # fmt: skip
    add("--repeats", type=int, default=1, help="of every conversation, for consistency")
    add("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    add("--seed", type=int, default=0, help="of sampling, noise and exchanged pictures")
    add("--perturb", action="append", default=[], metavar="KIND:STRENGTH",
        help=f"also ask about changed pictures; 'all': {', '.join(STANDARD)}")  # fmt: skip
    add("--concept-scores", action="store_true", help="also score each of the 48 concepts")
    add("--with-history", action="store_true",
        help="put a case's history before the first prompt; the model was not trained for it")  # fmt: skip
    add("--allow-overlap", action="store_true",
        help="answer cases that a checkpoint was trained on too, or where that cannot be checked")  # fmt: skip
    add("--replace", action="store_true", help="delete answers that were made with other settings")
    add("--dry-run", action="store_true",
        help="check the settings, show what is left to answer and the memory of each process, and end")  # fmt: skip
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    return parser


def _settings(args: argparse.Namespace) -> RunSettings:
    """The settings that the command line names."""
    from eval.asking import arms
    from eval.asking.answering import RunSettings
    from eval.tasks import task_of_run
    from skingpt4.config.load import load_config

    return RunSettings(
        config=load_config(args.config, args.overrides),
        cases_path=args.cases,
        run_dir=args.run_dir,
        arms=tuple(arms.parse_arm(text) for text in args.arm),
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        num_prompts=args.num_prompts,
        num_conversations=args.num_conversations,
        repeats=args.repeats,
        temperature=args.temperature,
        seed=args.seed,
        perturbations=STANDARD if "all" in args.perturb else tuple(args.perturb),
        concept_scores=args.concept_scores,
        with_history=args.with_history,
        allow_overlap=args.allow_overlap,
        replace_old=args.replace,
        task=task_of_run(args.run_dir, args.task),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and answer all cases with all arms; returns the exit status."""
    args = _parser().parse_intermixed_args(argv)
    setup_logging()
    with reported() as status:
        from eval.asking.answering import answer_cases

        if args.dry_run:
            from eval.asking.plan import plan

            report, stopped = plan(_settings(args))
            if int(os.environ.get("RANK", 0)) == 0:
                print(report)
            status.code = int(stopped)
        else:
            answer_cases(_settings(args))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
