"""The cases of an evaluation: a manifest of records, one or several pictures under each `case_id`.

    python -m eval.cases sample runs/data/dermnet/test.jsonl --train runs/data/dermnet/train.jsonl --out cases.jsonl
    python -m eval.cases check cases.jsonl

`sample` draws so many cases of each of the 15 classes by a seed, at most one from a cluster of pictures that belong
together, and none from a cluster that holds a training picture. Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.asking.cases import Case, CasesError, check_pictures, read_cases
from skingpt4.records import duplicates
from skingpt4.records.manifest import Manifest, chain, manifest_lines, read_manifest
from skingpt4.support.errors import reported
from skingpt4.support.files import write_text
from skingpt4.taxonomy.taxonomy import CLASSES


def sample(
    records: Manifest,
    training: Manifest,
    per_class: int,
    seed: int,
    classes: Sequence[str] = CLASSES,
    distance: int = duplicates.NEAR,
) -> list[int]:
    """Rows of `records` that are drawn, in their order.

    Args:
        records: where cases are drawn from.
        training: pictures that none may belong together with.
        per_class: cases of each class.
        seed: of the draw.
        classes: to draw from.
        distance: bits, see `skingpt4.records.duplicates`.

    Raises:
        CasesError: a class has too few clusters left; all such classes are named with their numbers.
    """
    cluster = duplicates.clusters(duplicates.links(records + training, distance))
    own, taken = cluster[: len(records)], set(cluster[len(records) :].tolist())
    names = records.column("class").to_pylist()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records))
    drawn: dict[str, list[int]] = {name: [] for name in classes}
    for row in order:
        name = names[row]
        if name in drawn and len(drawn[name]) < per_class and own[row] not in taken:
            drawn[name].append(int(row))
            taken.add(own[row])
    short = {name: len(rows) for name, rows in drawn.items() if len(rows) < per_class}
    if short:
        counts = ", ".join(f"{name} {count}" for name, count in short.items())
        raise CasesError(
            f"{per_class} cases a class are wanted, but apart from training and each other there are only: {counts}"
        )
    return sorted(row for rows in drawn.values() for row in rows)


def write_sample(manifest: Path, rows: Sequence[int], out: Path) -> None:
    """Write the chosen lines of a manifest as a manifest of cases, its pictures relative to the new place."""
    wanted, lines = set(rows), list[str]()
    folder = os.path.relpath(manifest.parent, out.parent)
    for place, (_, line, _) in enumerate(manifest_lines(manifest)):
        if place in wanted:
            row = json.loads(line)
            row["image"] = os.path.normpath(os.path.join(folder, row["image"]))
            row["case_id"] = row.get("case_id") or f"case-{len(lines) + 1:04d}"
            row["split"] = "cases"
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(lines))


def describe(cases: Sequence[Case]) -> str:
    """Counts of a list of cases, for people."""
    lines = [f"{len(cases)} cases, {sum(len(case.records) for case in cases)} pictures"]
    for title, values in (
        ("class", [case.known.class_name or "unknown" for case in cases]),
        ("skin type", [str(case.known.fitzpatrick or "unknown") for case in cases]),
    ):
        lines += [
            f"{title}:",
            *(f"  {name:28} {count:>5}" for name, count in sorted(Counter(values).items())),
        ]
    lines.append(f"concepts known of {sum(case.known.concepts is not None for case in cases)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m eval.cases", description=__doc__, formatter_class=raw)
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
    with reported() as status:
        if args.command == "check":
            cases = read_cases(args.cases)
            check_pictures(cases)
            print(describe(cases))
            return 0
        classes = args.classes.split(",") if args.classes else list(CLASSES)
        unknown = [name for name in classes if name not in CLASSES]
        if unknown or args.per_class < 1:
            what = f"{unknown[0]!r} is no class" if unknown else "--per-class must be 1 or more"
            raise CasesError(f"{what}; the classes are {', '.join(CLASSES)}")
        if args.out.exists():
            raise CasesError(f"{args.out} is there already; an evaluation's cases are not drawn twice")
        if not args.train:
            print(
                "no --train manifest is named: nothing shows that the cases are apart from training",
                file=sys.stderr,
            )
        training = chain(read_manifest(path) for path in args.train)
        rows = sample(read_manifest(args.manifest), training, args.per_class, args.seed, classes)
        write_sample(args.manifest, rows, args.out)
        print(describe(read_cases(args.out)))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
