"""The cases of an evaluation: a manifest of records, one or several pictures under each `case_id`.

    python -m eval.cases sample runs/data/dermnet/test.jsonl --train runs/data/dermnet/train.jsonl --out cases.jsonl
    python -m eval.cases sample runs/data/ham10000/test.jsonl --task ham10000_7 --all --out cases.jsonl
    python -m eval.cases check cases.jsonl

`sample` draws the same number of cases from each class, at most one from a cluster of related pictures and none from
a cluster that holds a training picture. The classes are the paper's 15, or those of --task (python -m eval.tasks).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = make_parser(__doc__ or "", prog="python -m eval.cases")
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("sample", help="draw cases of each class from a manifest")
    draw.add_argument("manifest", type=Path)
    draw.add_argument(
        "--train", action="append", type=Path, default=[], metavar="MANIFEST", help="may be repeated"
    )
    draw.add_argument("--out", type=Path, required=True)
    draw.add_argument(
        "--task", help="whose labels are drawn: a name or a YAML file (default: the 15 classes)"
    )
    draw.add_argument(
        "--per-class", type=int, default=10, help="of a task without classes: all (default: %(default)s)"
    )
    draw.add_argument("--all", action="store_true", help="every case with a label, instead of --per-class")
    draw.add_argument("--seed", type=int, default=0)
    draw.add_argument("--classes", help="separated by commas (default: all)")
    check = commands.add_parser("check", help="read a list of cases and count it")
    check.add_argument("cases", type=Path)
    check.add_argument("--task", help="whose labels are needed: a name or a YAML file")
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        if args.command == "check":
            _check(args.cases, args.task)
        else:
            _sample(args)
    return status.code


def _check(path: Path, task_name: str | None) -> None:
    from eval.asking import cases
    from eval.tasks import load_task

    task = load_task(task_name)
    listed = cases.read_cases(path, task)
    cases.check_pictures(listed)
    print(cases.describe(listed))
    if task_name:
        cases.check_labels(listed, path, task)


def _sample(args: argparse.Namespace) -> None:
    from eval.asking import cases, drawing
    from eval.tasks import load_task
    from skingpt4.records.comparing.identity import Keys
    from skingpt4.records.manifest import chain, read_manifest

    task, out = load_task(args.task), args.out
    drawn = task.classes or ("",)
    classes = args.classes.split(",") if args.classes else drawn
    unknown = [name for name in classes if name not in drawn]
    if unknown or args.per_class < 1:
        what = f"{unknown[0]!r} is not a class" if unknown else "--per-class must be 1 or more"
        known = ", ".join(task.classes) or f"none; leave --classes out for the task {task.name}"
        raise cases.CasesError(f"{what}; the classes are {known}")
    if out.exists():
        raise cases.CasesError(f"{out} exists already; the cases of an evaluation are not drawn twice")
    if not args.train:
        logger.warning("without a --train manifest nothing shows that the cases are separate from training")
    training = [read_manifest(path) for path in args.train]
    records = read_manifest(args.manifest)
    keys = Keys(chain([records, *training]))
    sizes = [(str(path), len(each)) for path, each in zip(args.train, training, strict=True)]
    labels = None if task.is_default and not args.all else drawing.labels_of(args.manifest, task)
    if args.all and labels is not None:
        chosen = [label if label in classes else None for label in labels]
        rows = drawing.select_all(keys, chosen, sizes)
    else:
        rows = drawing.sample(keys, args.per_class, args.seed, sizes, classes, labels=labels)
        if not task.is_default:
            rows = drawing.complete_cases(keys, rows, len(records))
    drawing.write_sample(args.manifest, keys, rows, out)
    print(cases.describe(cases.read_cases(out, task)))


if __name__ == "__main__":
    sys.exit(main())
