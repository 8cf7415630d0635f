"""Fitzpatrick17k's images, downloaded from the urls of its own CSV; a subcommand of `data.prepare`."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.preparing.files import complete_file
from data.preparing.picture_download import STATUSES, ListedImage, Outcome, RequestLimits, run
from data.reading.tables import Table
from skingpt4.support.spreadsheets import csv_line
from skingpt4.weights.fetch.download import DownloadError

MISSING = "missing.csv"
HELP = "Fitzpatrick17k's pictures, downloaded from the urls of fitzpatrick17k.csv"
EPILOG = """example:
  python -m data.prepare fitzpatrick17k-images fitzpatrick17k.csv --out-dir downloads/fitzpatrick17k
The pictures belong to the atlases that show them; read their terms first. A picture is kept only if its MD5 is the
listed one. The same command continues a run that was stopped; missing.csv says what is missing."""


@dataclass(frozen=True)
class Options:
    """What is downloaded, from where, and how fast; see `add_arguments`."""

    csv: Path
    out_dir: Path
    only: Path | None = None
    limit: int | None = None
    rate: float = RequestLimits.rate
    parallel: int = RequestLimits.parallel
    per_host: int = RequestLimits.per_host
    tries: int = RequestLimits.tries
    ask_again: bool = False
    dry_run: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's arguments."""
    parser.add_argument("csv", type=Path, help="fitzpatrick17k.csv, with either header")
    parser.add_argument(
        "--out-dir", type=Path, required=True, metavar="DIR", help="gets MD5.jpg and missing.csv"
    )
    parser.add_argument(
        "--only", type=Path, metavar="CSV", help="only pictures that SKINCON's annotations name"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--rate", type=float, default=RequestLimits.rate, metavar="N",
        help="requests a second to one host (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--parallel", type=int, default=RequestLimits.parallel, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--per-host", type=int, default=RequestLimits.per_host, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--tries", type=int, default=RequestLimits.tries, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--ask-again", action="store_true", help="ask once more for what was gone or changed")
    parser.add_argument("--dry-run", action="store_true", help="count the requests per host, send none")


def download(options: Options) -> None:
    """Download what is not there yet, and print what came of it.

    Raises:
        SourceError: the CSV is missing or has other columns.
        DownloadError: a number makes no sense, the folder cannot be written, or no picture came.
    """
    table = Table(options.csv)
    table.need(["md5hash", "url"])
    if min(options.rate, options.parallel, options.per_host, options.tries) <= 0:
        raise DownloadError("--rate, --parallel, --per-host and --tries must be above 0")
    names = annotated(options.only) if options.only else None
    total = table.count() if names is None else len(names)
    if options.dry_run:
        _print_hosts(listed_images(table, names, options.limit))
        return
    limits = RequestLimits(options.parallel, options.per_host, options.rate, options.tries)
    try:
        options.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{options.out_dir}: cannot be made a folder ({error.strerror})") from None
    with (
        complete_file(options.out_dir / MISSING) as file,
        tqdm(total=min(total, options.limit or total), unit="picture") as bar,
    ):
        file.write(csv_line(["md5hash", "url", "status", "detail"]))

        def seen(outcome: Outcome) -> None:
            bar.update()
            if outcome.status not in ("kept", "present", "repeated"):
                file.write(csv_line([outcome.md5, outcome.url, outcome.status, outcome.detail]))

        counts = run(
            listed_images(table, names, options.limit), options.out_dir, limits, options.ask_again, seen
        )
    for status, meaning in STATUSES.items():
        if counts[status]:
            print(f"{counts[status]:>7}  {status:12} {meaning}")
    if not counts["kept"] + counts["present"]:
        raise DownloadError(f"no picture came; {options.out_dir / MISSING} says why")
    print(f"{options.out_dir / MISSING} names what is not there")


def listed_images(table: Table, names: set[str] | None, limit: int | None) -> Iterator[ListedImage]:
    """The rows' images; rows without a proper MD5 are named and skipped."""
    num_given = 0
    for number, row in table:
        if isinstance(row, str):
            tqdm.write(f"{table.path}, row {number}: {row}")
            continue
        md5, url = row["md5hash"].strip().lower(), row["url"].strip()
        if names is not None and md5 not in names:
            continue
        if limit is not None and num_given >= limit:
            return
        num_given += 1
        if not re.fullmatch(r"[0-9a-f]{32}", md5):
            tqdm.write(f"{table.path}, row {number}: md5hash is {md5!r}, not 32 hex digits")
            continue
        yield ListedImage(md5, url if re.match(r"https?://", url, re.IGNORECASE) else "")


def annotated(path: Path) -> set[str]:
    """The MD5s that SKINCON's annotations of Fitzpatrick17k name (a few thousand)."""
    table = Table(path)
    table.need(["ImageID"])
    return {Path(row["ImageID"].strip()).stem.lower() for _, row in table if isinstance(row, dict)}


def _print_hosts(rows: Iterator[ListedImage]) -> None:
    hosts: dict[str, int] = {}
    for row in rows:
        host = row.url.split("/")[2] if row.url else "no url"
        hosts[host] = hosts.get(host, 0) + 1
    width = shutil.get_terminal_size().columns - 10
    for host, count in sorted(hosts.items(), key=lambda item: -item[1]):
        print(f"{count:>7}  {host[:width]}")
    print("no request was sent")
