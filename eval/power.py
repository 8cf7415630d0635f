"""How many cases and raters an evaluation needs.

    python -m eval.power width --share 0.8 --points 10
    python -m eval.power paired --better 0.15 --worse 0.05
    python -m eval.power ratings --share 0.8 --case-icc 0.3 --rater-icc 0.1

`width`: cases that make the interval of a share no wider than this. `paired`: cases that show a difference of two
arms on the same cases (McNemar). `ratings`: the width of the interval of a share of ratings, by number of cases and
raters of one role, since roles are reported apart; ratings of one case, and of one rater, are correlated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = make_parser(__doc__ or "", prog="python -m eval.power")
    commands = parser.add_subparsers(dest="command", required=True)
    width = commands.add_parser("width", help="cases for an interval of a share")
    width.add_argument("--share", type=float, required=True, help="expected, 0 to 1")
    width.add_argument("--points", type=float, required=True, help="width of the complete interval in points")
    paired = commands.add_parser("paired", help="cases for a difference of two arms on the same cases")
    paired.add_argument("--better", type=float, required=True, help="share only the first arm has right")
    paired.add_argument("--worse", type=float, required=True, help="share only the second arm has right")
    paired.add_argument("--power", type=float, default=0.8, help="default: %(default)s")
    ratings = commands.add_parser("ratings", help="interval of a share of ratings, by cases and raters")
    ratings.add_argument("--share", type=float, required=True, help="expected, 0 to 1")
    ratings.add_argument("--case-icc", type=float, default=0.3, help="variance between cases (%(default)s)")
    ratings.add_argument("--rater-icc", type=float, default=0.1, help="variance between raters (%(default)s)")
    args = parser.parse_args(argv)
    with reported() as status:
        from eval.measures import power

        if args.command == "width":
            n = power.cases_for_width(args.share, args.points / 100)
            print(
                f"{n:,} cases: a share of {args.share:.0%} then has a 95 % interval of {args.points:g} points"
            )
            print(
                f"with 150 cases, as published, it has {100 * power.wilson_width(args.share, 150):.1f} points"
            )
        elif args.command == "paired":
            n = power.cases_for_difference(args.better, args.worse, args.power)
            print(f"{n:,} cases for a power of {args.power:.0%} (exact McNemar test, level 5 %)")
            print(f"150 cases have a power of {power.mcnemar_power(args.better, args.worse, 150):.0%}")
        else:
            print(
                f"Half the 95 % interval in points, for a share of {args.share:.0%} and raters of one role:"
            )
            print(power.ratings_table(args.share, args.case_icc, args.rater_icc))
            print(
                "With few raters more cases hardly narrow it, since raters differ from one another: add raters."
            )
    return status.code


if __name__ == "__main__":
    sys.exit(main())
