"""An evaluation with seven arms and three raters on the bundled default and the phantoms: python -m eval.seven_arms.

The arms: our two-step model, the untrained projection, our model with a blank picture, the same model behind its own
HTTP API, a vision-language model of transformers, a classifier on image features, and imported answers. The
vision-language model is random, and answers and ratings of people are simulated: this shows that everything works
together, and is not a result. Two dermatologists and a lay user rate, with known shares of agreement; at the end the
report must show these shares.

Each stage is a command that you could type yourself; this file prints, times and runs one after the other. To
continue a stopped run, repeat the command: what is done is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run all stages; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.seven_arms")
    add = parser.add_argument
    add(
        "--root",
        type=Path,
        default=Path("runs/seven-arms"),
        help="everything goes here (default: %(default)s)",
    )
    add(
        "--checkpoint",
        type=Path,
        help="a projection of configs/tiny (default: a short training here, minutes)",
    )
    add("--port", type=int, default=8017, help="of this machine, for the HTTP API (default: %(default)s)")
    add("--num-cases", type=int, default=30, help="phantoms that are answered (default: %(default)s)")
    add("--dry-run", action="store_true", help="print the commands and stop")
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        import shlex

        from eval.quickstart import run_stages
        from eval.seven_arms.stages import plan

        planned = plan(args.root, args.checkpoint, args.port, args.num_cases)
        if args.dry_run:
            print("\n".join(shlex.join(["python", *stage.command]) for stage in planned))
            return 0
        args.root.mkdir(parents=True, exist_ok=True)
        run_stages(planned, args.root / "stages.json")
        print(f"\nreport: {args.root / 'report.html'}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
