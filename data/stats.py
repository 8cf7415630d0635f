"""Counts per concept, class, source, split and Fitzpatrick type: printed, as CSV and as a picture.

python -m data.stats runs/data/skincon/all.jsonl --against-paper
python -m data.stats --annotations-only annotations_fitzpatrick17k.csv annotations_ddi.csv --against-paper
python -m data.stats --file-list dermnet_files.csv --against-paper
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.counting.against_paper import Comparison, compare_classes, compare_concepts
from data.counting.counts import DIMENSIONS, Counts, count_annotations, count_file_list, count_manifests
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import write_text

CSV_NAME, PNG_NAME = "counts.csv", "counts.png"
HEADINGS = {"concept": "Concepts", "class": "Classes", "source": "Sources", "split": "Splits",
            "fitzpatrick": "Fitzpatrick types (12, 34, 56: DDI's pairs)"}  # fmt: skip


class StatsError(UserError):
    """A request that cannot be counted; the message says what to give."""


def compare(counts: Counts) -> dict[str, Comparison]:
    """The tables of the paper that the counts can stand beside, by dimension."""
    found = {"concept": compare_concepts(counts), "class": compare_classes(counts)}
    return {name: comparison for name, comparison in found.items() if comparison is not None}


def text_report(counts: Counts, comparisons: dict[str, Comparison]) -> str:
    """All counts for the terminal."""
    lines = [f"{sum(counts.records.values()):,} records"]
    known = sum(counts.with_concepts.values())
    if known:
        lines[0] += f", {known:,} with known concepts"
    for name in DIMENSIONS:
        if name in comparisons:
            lines += ["", *_compared(comparisons[name])]
        elif rows := counts.total(name):
            lines += [
                "",
                HEADINGS[name],
                *_columns([[f"  {key}", f"{count:,}"] for key, count in rows.items()]),
            ]
    if counts.facts:
        facts = [[f"  {source}: {name}", f"{value:,}"] for (source, name), value in counts.facts.items()]
        lines += ["", "Of the tables", *_columns(facts)]
    return "\n".join(lines)


def _compared(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.title}: {comparison.basis}"
    rows = [["  ", "here", "paper", "difference", ""]]
    for row in comparison.rows:
        difference = "" if row.difference is None else f"{row.difference:+,}" if row.difference else "0"
        paper = "" if row.paper is None else f"{row.paper:,}"
        rows.append([f"  {row.name}", f"{row.ours:,}", paper, difference, row.why])
    yield from _columns(rows)
    for remark in comparison.remarks:
        yield f"  - {remark}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned text: the first and fifth column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if column in (0, 4) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def csv_table(counts: Counts, comparisons: dict[str, Comparison]) -> str:
    """All counts as CSV; `paper`, `difference` and `why` are empty where the paper prints nothing."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["dimension", "source", "name", "count", "paper", "difference", "why"])
    for name, comparison in comparisons.items():
        for row in comparison.rows:
            paper, difference = ("" if x is None else x for x in (row.paper, row.difference))
            table.writerow([f"{name} against paper", "", row.name, row.ours, paper, difference, row.why])
    for name in DIMENSIONS:
        for value, count in counts.total(name).items():
            table.writerow([name, "", value, count, "", "", ""])
        if name != "source" and len(counts.records) > 1:
            for (source, value), count in sorted(counts.of[name].items()):
                table.writerow([name, source, value, count, "", "", ""])
    for (source, fact), count in counts.facts.items():
        table.writerow(["fact", source, fact, count, "", "", ""])
    return text.getvalue()


def _count(args: argparse.Namespace) -> Counts:
    given = [bool(args.manifest), bool(args.annotations_only), bool(args.file_list)]
    if sum(given) != 1:
        raise StatsError("give one of: manifests, --annotations-only CSV..., --file-list CSV")
    if args.annotations_only:
        return count_annotations(args.annotations_only)
    return count_file_list(args.file_list) if args.file_list else count_manifests(args.manifest)


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, and write both files; returns the exit status."""
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
    args = parser.parse_args(argv)
    with reported() as status:
        counts = _count(args)
        comparisons = compare(counts) if args.against_paper else {}
        print(text_report(counts, comparisons))
        if args.against_paper and not comparisons:
            print(
                "\nNothing here stands in Table 1 or 2: no record has concepts or, in step 2 sources, a class."
            )
        try:
            args.out_dir.mkdir(parents=True, exist_ok=True)
            write_text(args.out_dir / CSV_NAME, csv_table(counts, comparisons))
            from data.counting.figure import (
                draw,  # matplotlib takes a second, which refusals need not wait for
            )

            draw(counts, comparisons, args.out_dir / PNG_NAME)
        except OSError as error:
            raise StatsError(f"{args.out_dir}: cannot be written to ({error.strerror})") from None
        print(f"\n{args.out_dir / CSV_NAME}\n{args.out_dir / PNG_NAME}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
