"""An audit of the figures that the paper prints: python -m eval.published [--ratings RATINGS.csv --arm two_step].

For every printed percentage: which numbers of forms can produce it (the GRIM test, Brown and Heathers 2017,
doi 10.1177/1948550616673876), and the interval that the paper omits. Then the arithmetic of the consistency figure
and of Table 2. With ratings of your own the same figures stand beside the printed ones. Works without a network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported
from skingpt4.support.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = make_parser(__doc__ or "", prog="python -m eval.published")
    parser.add_argument("--ratings", type=Path, help="your own ratings, as eval.review exports them")
    parser.add_argument("--arm", help="the arm of the ratings, where they hold several")
    parser.add_argument(
        "--role", help="of the raters, where several roles rated: dermatologist, physician, lay"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the audit as JSON")
    args = parser.parse_args(argv)
    with reported() as status:
        from eval.rating import audit
        from skingpt4.taxonomy.published import published

        ratings = audit.own_ratings(args.ratings, args.arm, args.role) if args.ratings else []
        result = audit.audit(published(), ratings)
        print(audit.show(result))
        if args.json:
            write_text(args.json, json.dumps(result, indent=1) + "\n")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
