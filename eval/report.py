"""Measure a run's answers; write results.json, report.html (one self-contained file) and report.pdf into its folder.

    python -m eval.report --run-dir runs/quickstart [--ratings ratings.csv] [--cases path/to/manifest.jsonl]
        [--show CASE ...] [--group RECIPE=ARM,ARM,...] [--appendix] [--without-pictures]

A table of the main results is printed too. Cases whose concepts are unknown take no part in the measures of concepts.
What an arm was not asked is left out, and never counted as zero.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files and print the headline; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.report")
    add = parser.add_argument
    add("--run-dir", type=Path, required=True, help="folder with answers/<arm>.jsonl")
    add("--ratings", type=Path, help="CSV of eval.review (default: RUN/ratings.csv if it is there)")
    add("--cases", type=Path, help="manifest.jsonl of the cases (default: the one of the run)")
    add("--show", nargs="+", default=(), metavar="CASE",
        help="ids of the cases whose answers are shown side by side (default: 12 by rule)")  # fmt: skip
    add("--group", action="append", default=[], metavar="NAME=ARMS",
        help="trainings of one recipe that count as one arm, e.g. two_step=two_step_s0,two_step_s1 or "
        "two_step='two_step_s*'; may be repeated")  # fmt: skip
    add("--appendix", action="store_true", help="also write appendix.pdf: all cases, all answers, complete")
    add("--without-pictures", action="store_true",
        help="leave the pictures of cases out of all files, for a report that will be shared")  # fmt: skip
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        from eval.measures.results import RESULTS, ReportError, headline, read_json
        from eval.page.report import APPENDIX, write_report

        try:
            path = write_report(
                args.run_dir, args.cases, args.ratings, args.show, args.group, not args.without_pictures,
                args.appendix,
            )  # fmt: skip
        except OSError as error:
            raise ReportError(str(error)) from error
        print(headline(read_json(args.run_dir / RESULTS)))
        print(f"report: {path} and {path.with_suffix('.pdf')}")
        if args.appendix:
            print(f"appendix: {path.with_name(APPENDIX)}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
