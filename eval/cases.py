"""The cases of an evaluation: a manifest of records, one or several pictures under each `case_id`.

    python -m eval.cases sample runs/data/dermnet/test.jsonl --train runs/data/dermnet/train.jsonl --out cases.jsonl
    python -m eval.cases check cases.jsonl

`sample` draws the same number of cases from each of the 15 classes, at most one from a cluster of related pictures
and none from a cluster that holds a training picture.
"""

from __future__ import annotations

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
    draw.add_argument("--per-class", type=int, default=10, help="default: %(default)s")
    draw.add_argument("--seed", type=int, default=0)
    draw.add_argument("--classes", help="separated by commas (default: all 15)")
    check = commands.add_parser("check", help="read a list of cases and count it")
    check.add_argument("cases", type=Path)
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        if args.command == "check":
            _check(args.cases)
        else:
            classes = args.classes.split(",") if args.classes else None
            _sample(args.manifest, args.train, args.out, args.per_class, args.seed, classes)
    return status.code


def _check(path: Path) -> None:
    from eval.asking import cases

    listed = cases.read_cases(path)
    cases.check_pictures(listed)
    print(cases.describe(listed))


def _sample(
    manifest: Path, train: Sequence[Path], out: Path, per_class: int, seed: int, classes: Sequence[str] | None
) -> None:
    from eval.asking import cases
    from skingpt4.records.comparing.identity import Keys
    from skingpt4.records.manifest import chain, read_manifest
    from skingpt4.taxonomy.taxonomy import CLASSES

    unknown = [name for name in classes or () if name not in CLASSES]
    if unknown or per_class < 1:
        what = f"{unknown[0]!r} is not a class" if unknown else "--per-class must be 1 or more"
        raise cases.CasesError(f"{what}; the classes are {', '.join(CLASSES)}")
    if out.exists():
        raise cases.CasesError(f"{out} exists already; the cases of an evaluation are not drawn twice")
    if not train:
        logger.warning("without a --train manifest nothing shows that the cases are separate from training")
    training = [read_manifest(path) for path in train]
    keys = Keys(chain([read_manifest(manifest), *training]))
    sizes = [(str(path), len(records)) for path, records in zip(train, training, strict=True)]
    rows = cases.sample(keys, per_class, seed, sizes, classes or CLASSES)
    cases.write_sample(manifest, keys, rows, out)
    print(cases.describe(cases.read_cases(out)))


if __name__ == "__main__":
    sys.exit(main())
