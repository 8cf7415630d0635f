"""Public downloads and one's own pictures become checked records: python -m data.prepare SOURCE --help."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from data.preparing import fitzpatrick_images
from data.reading.rows import Refusal, Rows
from data.sources import SOURCES
from data.sources.public.public_tables import PublicTable
from skingpt4.support.errors import reported

DOWNLOAD = "fitzpatrick17k-images"
DRY_ROWS = 5  # that --dry-run shows
DESCRIPTION = """Turn a source of pictures into a manifest of checked records, all.jsonl, and list everything that was
refused with file, row and reason in rejected.jsonl. Pictures stay where they are and as they are. A run that was
stopped continues where it was when the same command is given again."""
NOTICE = "Research software, not a medical device."
EXAMPLES = """from downloads to training:
  python -m data.prepare dermnet downloads/dermnet
  python -m data.split runs/data/dermnet/all.jsonl --out-dir runs/data/dermnet
  python train.py --config configs/paper/step2_llama2_13b.yaml --dry-run"""


@dataclass(frozen=True)
class Running:
    """Where the manifest goes and how it is made."""

    out_dir: Path
    workers: int | None = None
    limit: int | None = None
    dry_run: bool = False
    fresh: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the subcommand; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        if args.command == DOWNLOAD:
            fitzpatrick_images.download(_options(fitzpatrick_images.Options, args))
        else:
            source = SOURCES[args.command]
            run_source(source.read(_options(source.Options, args)), _options(Running, args))
    return status.code


def _options(kind: type, args: argparse.Namespace) -> Any:
    """A dataclass filled from the arguments of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def parser() -> argparse.ArgumentParser:
    """The command line with all subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="python -m data.prepare", description=DESCRIPTION, epilog=f"{EXAMPLES}\n\n{NOTICE}",
        formatter_class=raw,
    )  # fmt: skip
    subparsers = top.add_subparsers(dest="command", required=True, metavar="SOURCE")
    commands: dict[str, ModuleType | PublicTable] = {**SOURCES, DOWNLOAD: fitzpatrick_images}
    for name, module in commands.items():
        sub = subparsers.add_parser(
            name, help=module.HELP, description=f"Prepare {module.HELP}.",
            epilog=f"{module.EPILOG}\n\n{NOTICE}", formatter_class=raw,
        )  # fmt: skip
        module.add_arguments(sub)
        if name in SOURCES:
            _add_running(sub, name)
    return top


def _add_running(sub: argparse.ArgumentParser, name: str) -> None:
    group = sub.add_argument_group("output and running")
    group.add_argument(
        "--out-dir", type=Path, default=Path("runs/data") / name, metavar="DIR",
        help=f"gets all.jsonl and rejected.jsonl (default runs/data/{name})",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=_positive, metavar="N", help="processes that read pictures (default: one per core)"
    )
    group.add_argument("--limit", type=_positive, metavar="N", help="only the first N rows")
    group.add_argument("--dry-run", action="store_true", help="show the first rows, write nothing")
    group.add_argument("--fresh", action="store_true", help="measure pictures again that are known")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def run_source(rows: Rows, running: Running) -> None:
    """Prepare the rows of a source, or show the first of them.

    Raises:
        PreparationError: no row becomes a record, or the run cannot go on.
        SourceError: the source cannot be read to its end.
    """
    # After parsing, so that --help is instant.
    from data.preparing.engine import MANIFEST, REJECTED, write_manifest
    from data.preparing.images import PreparationError
    from data.preparing.summary import table
    from skingpt4.support.threads import num_cores

    out_dir, limit = running.out_dir, running.limit
    if running.dry_run:
        show_first(rows, out_dir, limit or DRY_ROWS)
        return
    if not rows.total:
        raise PreparationError("nothing to prepare: the source holds no rows")
    try:
        summary = write_manifest(rows, out_dir, running.workers or num_cores(), limit, running.fresh)
    except KeyboardInterrupt:
        print("what was measured is saved; the same command continues from here", file=sys.stderr)
        raise
    print(table(summary, rows, out_dir))
    if not summary.records:
        raise PreparationError(
            f"no record was kept; {out_dir / REJECTED} says why. {out_dir / MANIFEST} "
            + ("is as it was before" if (out_dir / MANIFEST).exists() else "was not written")
        )
    lost = [] if limit else [folder for folder in rows.folders if folder not in summary.folders]
    if lost:
        more = f", nor of {len(lost) - 1} more" if len(lost) > 1 else ""
        why = "it is empty, or a link to another one: bring its pictures, or take it away"
        if summary.refused or summary.duplicates:
            why = f"{out_dir / REJECTED} lists those that were refused"
        raise PreparationError(
            f"no picture of the class folder {lost[0]!r} became a record{more}; {why}. {out_dir / MANIFEST} holds "
            "the other folders"
        )
    if limit:
        print(f"only the first {limit:,} of {rows.total:,} rows; run again without --limit for all")


def show_first(rows: Rows, out_dir: Path, count: int) -> None:
    """Print what the first rows would become."""
    from data.preparing.engine import results
    from data.preparing.images import MeasureCache, Measurer
    from skingpt4.records.naming import Relative

    measurer = Measurer(MeasureCache(":memory:"), 1)
    for _, result in itertools.islice(results(rows, count, measurer, Relative(out_dir), False), count):
        if isinstance(result, Refusal):
            print("refused", json.dumps(asdict(result), ensure_ascii=False))
        else:
            known = {key: value for key, value in result.items() if value is not None}
            print("kept   ", json.dumps(known, ensure_ascii=False))
    print(f"the first {min(count, rows.total):,} of {rows.total:,} rows; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
