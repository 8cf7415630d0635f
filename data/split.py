"""Split manifests into train, validation and test so that nothing is in two of them.

    python -m data.split runs/data/dermnet/all.jsonl --out-dir runs/data/dermnet

Clusters of images that belong together are assigned at random, class by class, so that every split has the classes in
nearly the same fractions. A hash that a record lacks is computed from its picture. The report says what could not be
compared, and what would have leaked if rows had been assigned one by one, and under the source's own split.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.records.comparing.duplicates import HASH_BITS, NEAR
from skingpt4.support.errors import reported


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.split", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--out-dir", type=Path, required=True, help="gets NAME.jsonl for each split")
    parser.add_argument("--shares", default="train=0.8,validation=0.1,test=0.1", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--near", type=int, default=NEAR, metavar="BITS",
        help="perceptual hashes that differ in at most BITS mean one picture (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", action="append", type=Path, default=[], metavar="MANIFEST",
        help="an evaluation: whatever is tied to one of its records is left out",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=Path, metavar="PICTURE",
        help="draw the nearly equal pairs that differ most, to judge --near by eye",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the report, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    # After parsing, so that --help is instant.
    from data.splitting.pairs import draw_pairs
    from data.splitting.plan import (
        REPORT,
        SplitError,
        bare_names,
        describe,
        parse_fractions,
        plan,
        write_splits,
    )  # fmt: skip
    from skingpt4.records.comparing.identity import Keys
    from skingpt4.records.manifest import chain, read_manifest

    with reported() as status:
        fractions = parse_fractions(args.shares)
        if not 0 <= args.near < HASH_BITS:
            raise SplitError(f"--near: {args.near} is not a number of bits from 0 to {HASH_BITS - 1}")
        targets = {(args.out_dir / f"{name}.jsonl").resolve() for name in fractions}
        overwritten = [p for p in (*args.manifests, *args.exclude) if p.resolve() in targets]
        if overwritten:
            raise SplitError(f"{overwritten[0]} would be overwritten; choose another --out-dir or --shares")
        records = chain(read_manifest(path) for path in args.manifests)
        excluded = [read_manifest(path) for path in args.exclude]
        if args.pairs:
            print(draw_pairs(Keys(records), args.near, args.pairs))
        keys = Keys(chain([records, *excluded]))
        sizes = [(str(path), len(manifest)) for path, manifest in zip(args.exclude, excluded, strict=True)]
        result = plan(keys, fractions, args.seed, args.near, sizes, progress=True)
        result.report["bare_file_names"] = bare_names(records)
        result.report["manifests"] = [str(path) for path in args.manifests]
        print(describe(result.report))
        if not result.report["kept"]:
            raise SplitError("nothing is left to split; see the reasons above")
        if result.report["empty"]:
            raise SplitError(result.report["empty"])
        if not args.dry_run:
            write_splits(args.manifests, keys, result, args.out_dir, progress=True)
            print(f"written to {args.out_dir}; the full report is {args.out_dir / REPORT}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
