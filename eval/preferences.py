"""Ratings and answers to a manifest of preferences, for training (step: dpo).

    python -m eval.preferences --run-dir runs/study --cases cases.jsonl --ratings ratings.csv --out preferences.jsonl

A line of the manifest is a picture with two conversations of a case: `turns` of the arm that the raters rated better,
and `rejected` of the one they rated worse. Divide it with `python -m data.split`, so that no case is in two parts.
What was trained on it has seen these cases: evaluate it with others.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, require_writable, setup_logging
from skingpt4.support.errors import reported

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = make_parser(__doc__ or "", prog="python -m eval.preferences")
    add = parser.add_argument
    add("--run-dir", type=Path, required=True, help="the run of eval.run whose answers were rated")
    add("--cases", type=Path, required=True, help="the list that it was run on, for the pictures")
    add("--ratings", type=Path, help="CSV of eval.review (default: RUN/ratings.csv)")
    add("--role", help="of the raters, where several roles rated: dermatologist, physician, lay")
    add(
        "--item",
        action="append",
        metavar="ITEM",
        help="an item that counts, may be repeated (default: all seven)",
    )
    add("--min-difference", type=float, default=0.5, metavar="POINTS", help="between the mean ratings of a pair, on "
        "the scale from 1 to 5 (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, required=True, help="the manifest")
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        from eval.asking.answers import read_run
        from eval.asking.cases import read_cases
        from eval.export.preferred import preferences, ratings_of

        require_writable(args.out)
        ratings = ratings_of(args.ratings or args.run_dir / "ratings.csv", args.role, args.item)
        run = read_run(args.run_dir)
        made = preferences(
            run, read_cases(args.cases, run.task), ratings, args.min_difference, args.out.parent
        )
        from skingpt4.support.files import write_text

        write_text(args.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows))
        for reason, count in made.left_out.items():
            if count:
                logger.info("left out, %s: %d", reason, count)
        print(f"{args.out}: {len(made.rows)} pairs of {made.num_cases} cases, from {made.num_raters} raters")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
