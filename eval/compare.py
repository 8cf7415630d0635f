"""A leaderboard over several runs: one self-contained page, a CSV and a JSON file.

    python -m eval.compare runs/study runs/other [--out runs/compare] [--sort top1]

Only arms that answered the same list of cases (by its hash) for the same task stand in one table; others have tables
of their own, with the reason. Nothing is asked again: the answers in the folders are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported

SORTED_BY = ("top1", "top3", "top1_text", "concept_micro_f1")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.compare")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders that eval.run or eval.add have filled")
    add("--out", type=Path, default=Path("runs/compare"), help="folder for the files (default: %(default)s)")
    add("--sort", choices=SORTED_BY, default=SORTED_BY[0], help="measure (default: %(default)s)")
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        from eval.measures.results import ReportError
        from eval.page.compared import compare_runs
        from eval.page.leaderboard import write_leaderboard

        tables = compare_runs(args.runs, args.sort)
        try:
            page = write_leaderboard(tables, args.out, args.sort)
        except OSError as error:
            raise ReportError(f"{args.out}: cannot be written ({error.strerror})") from None
        for table in tables:
            print(
                f"{table.task}, {table.num_cases} cases: {', '.join(entry.name for entry in table.entries)}"
            )
        print(f"leaderboard: {page}, and beside it CSV and JSON")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
