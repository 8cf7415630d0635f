"""Public downloads and one's own pictures become checked records: python -m data.prepare SOURCE --help."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from data.preparing import fitzpatrick_images
from data.preparing.engine import MANIFEST, REJECTED, Relative, Summary, refusal_line, results, write_manifest
from data.preparing.pictures import Measurer, PictureCache, PreparationError
from data.reading.rows import REASONS, Refusal, Rows
from data.sources import SOURCES
from skingpt4.support.errors import reported

DRY_ROWS = 5  # that --dry-run shows
DESCRIPTION = """Turn a source of pictures into a manifest of checked records, all.jsonl, and list everything that was
refused with file, row and reason in rejected.jsonl. Pictures stay where they are and as they are. A run that was
stopped goes on where it was when the same command is given again."""
NOTICE = "Research software, not a medical device."
EXAMPLES = """from downloads to training:
  python -m data.prepare dermnet downloads/dermnet
  python -m data.split runs/data/dermnet/all.jsonl --out-dir runs/data/dermnet
  python train.py --config configs/paper/step2_llama2_13b.yaml --dry-run"""

PICTURE_REASONS = {
    "missing": "no such picture",
    "unreadable": "the file cannot be read",
    "not_an_image": "no picture that can be read",
    "damaged": "a picture that ends early or is damaged",
    "too_large": "more bytes or pixels than a photograph has",
    "too_small": "too few pixels to show anything",
}


@dataclass(frozen=True)
class Command:
    """A subcommand: `add_arguments` describes it, `run` returns its exit status."""

    help: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the subcommand; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        status.code = COMMANDS[args.command].run(args)
    return status.code


def parser() -> argparse.ArgumentParser:
    """The command line with all subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="python -m data.prepare",
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\n\n{NOTICE}",
        formatter_class=raw,
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="SOURCE")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.help,
            description=f"Prepare {command.help}.",
            epilog=f"{command.epilog}\n\n{NOTICE}",
            formatter_class=raw,
        )
        command.add_arguments(sub)
    return top


def source_command(name: str, source: ModuleType) -> Command:
    """The subcommand of a source of records."""

    def add_arguments(sub: argparse.ArgumentParser) -> None:
        source.add_arguments(sub)
        group = sub.add_argument_group("output and running")
        group.add_argument(
            "--out-dir", type=Path, default=Path("runs/data") / name, metavar="DIR",
            help=f"gets {MANIFEST} and {REJECTED} (default runs/data/{name})",
        )  # fmt: skip
        group.add_argument(
            "--workers", type=_positive, default=num_cores(), metavar="N",
            help="processes that read pictures (default: one a core)",
        )  # fmt: skip
        group.add_argument("--limit", type=_positive, metavar="N", help="only the first N rows")
        group.add_argument("--dry-run", action="store_true", help="show the first rows, write nothing")
        group.add_argument("--fresh", action="store_true", help="measure pictures again that are known")

    return Command(source.HELP, source.EPILOG, add_arguments, partial(run_source, source))


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def run_source(source: ModuleType, args: argparse.Namespace) -> int:
    """Prepare a source, or show its first rows.

    Raises:
        PreparationError: nothing is kept, or the run cannot go on.
        SourceError: the source cannot be read.
    """
    rows: Rows = source.read(args)
    if args.dry_run:
        show_first(rows, args.out_dir, args.limit or DRY_ROWS)
        return 0
    if not rows.total:
        raise PreparationError("nothing to prepare: the source holds no rows")
    try:
        summary = write_manifest(rows, args.out_dir, args.workers, args.limit, args.fresh)
    except KeyboardInterrupt:
        print("what was measured is kept: the same command goes on from here", file=sys.stderr)
        raise
    print(table(summary, args.out_dir))
    if not summary.kept:
        raise PreparationError(
            f"no record was kept; {args.out_dir / REJECTED} says why. {args.out_dir / MANIFEST} "
            + ("is as it was before" if (args.out_dir / MANIFEST).exists() else "was not written")
        )
    if args.limit:
        print(f"only the first {args.limit:,} of {rows.total:,} rows; run again without --limit for all")
    return 0


def show_first(rows: Rows, out_dir: Path, count: int) -> None:
    """Print what the first rows would become."""
    measurer = Measurer(PictureCache(":memory:"), 1)
    for _, result in itertools.islice(results(rows, count, measurer, Relative(out_dir), False), count):
        if isinstance(result, Refusal):
            print("refused", json.dumps(refusal_line(result), ensure_ascii=False))
        else:
            print(
                "kept   ", json.dumps({k: v for k, v in result.items() if v is not None}, ensure_ascii=False)
            )
    print(f"the first {min(count, rows.total):,} of {rows.total:,} rows; nothing was written")


def table(summary: Summary, out_dir: Path) -> str:
    """What became of the rows, for people."""
    lines = [f"kept     {summary.kept:>9,}  {out_dir / MANIFEST}"]
    refused = sum(summary.refused.values())
    lines.append(f"refused  {refused:>9,}  {out_dir / REJECTED}")
    known = REASONS | PICTURE_REASONS
    for reason, number in summary.refused.most_common():
        lines.append(f"         {number:>9,}  {reason}: {known.get(reason, '')}")
    remarks = dict(summary.remarks.most_common())
    if summary.duplicates:
        remarks["with the same bytes as an earlier one; data.split keeps one of them"] = summary.duplicates
    if unclassed := sum(summary.unclassed.values()):
        names = ", ".join(f"{name} {number:,}" for name, number in summary.unclassed.most_common(3))
        more = ", ..." if len(summary.unclassed) > 3 else ""
        remarks[f"with a diagnosis that belongs to no class: {names}{more}"] = unclassed
    if remarks:
        lines.append("of the kept")
    lines += [f"         {number:>9,}  {remark}" for remark, number in remarks.items()]
    known_before = ", the others were known from an earlier run" if summary.kept > summary.measured else ""
    lines.append(f"{summary.measured:,} pictures were read{known_before}")
    return "\n".join(lines)


COMMANDS: dict[str, Command] = {
    **{name: source_command(name, source) for name, source in SOURCES.items()},
    "fitzpatrick17k-images": Command(
        fitzpatrick_images.HELP,
        fitzpatrick_images.EPILOG,
        fitzpatrick_images.add_arguments,
        fitzpatrick_images.run_command,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
