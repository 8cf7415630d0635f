"""Counts per concept, class, source, split and Fitzpatrick type: printed, as CSV and as a picture.

python -m data.stats runs/data/skincon/all.jsonl --against-paper
python -m data.stats --annotations-only annotations_fitzpatrick17k.csv annotations_ddi.csv --against-paper
python -m data.stats --file-list dermnet_files.csv --against-paper
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import write_text

CSV_NAME, PNG_NAME = "counts.csv", "counts.png"


class StatsError(UserError):
    """A request that cannot be counted; the message says what to give."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.stats",
        description="Counts per concept, class, source, split and Fitzpatrick type. Research software, "
        "not a medical device.",
        epilog="With --against-paper, Table 1 stands beside the concepts of Fitzpatrick17k and Table 2 beside "
        "Dermnet's train split and other sources with classes.",
    )
    parser.add_argument("manifest", nargs="*", type=Path, help="JSONL manifests, counted together")
    parser.add_argument(
        "--annotations-only", nargs="+", type=Path, metavar="CSV",
        help="SKINCON's annotation files themselves, either release, without pictures",
    )  # fmt: skip
    parser.add_argument(
        "--file-list", type=Path, metavar="CSV",
        help="a list of Dermnet's files with the columns split,folder,filename, without pictures",
    )  # fmt: skip
    parser.add_argument("--against-paper", action="store_true", help="put Tables 1 and 2 beside the counts")
    parser.add_argument(
        "--out-dir", type=Path, default=Path("runs/stats"),
        help=f"gets {CSV_NAME} and {PNG_NAME} (default: runs/stats)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, and write both files; returns the exit status."""
    args = _parser().parse_args(argv)
    # After parsing, so that --help is instant.
    from data.counting.counts import count_annotations, count_file_list, count_manifests
    from data.counting.report import compare, csv_table, text_report

    with reported() as status:
        if sum(map(bool, (args.manifest, args.annotations_only, args.file_list))) != 1:
            raise StatsError("give one of: manifests, --annotations-only CSV..., --file-list CSV")
        if args.annotations_only:
            counts = count_annotations(args.annotations_only)
        elif args.file_list:
            counts = count_file_list(args.file_list)
        else:
            counts = count_manifests(args.manifest)
        comparisons = compare(counts) if args.against_paper else {}
        print(text_report(counts, comparisons))
        if args.against_paper and not comparisons:
            print("\nNothing here is in Table 1 or 2: no record has concepts or, in step 2 sources, a class.")
        try:
            args.out_dir.mkdir(parents=True, exist_ok=True)
            write_text(args.out_dir / CSV_NAME, csv_table(counts, comparisons))
            from data.counting.figure import draw  # matplotlib takes a second; a refusal need not wait for it

            draw(counts, comparisons, args.out_dir / PNG_NAME)
        except OSError as error:
            raise StatsError(f"{args.out_dir}: cannot be written to ({error.strerror})") from None
        print(f"\n{args.out_dir / CSV_NAME}\n{args.out_dir / PNG_NAME}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
