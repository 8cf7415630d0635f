"""A run for other people's tools: python -m eval.export --run-dir RUN --format lmms-eval --out DIR.

`lmms-eval` writes results and samples as lmms-eval 0.7 does, `vlmevalkit` a TSV of the cases (with their pictures as
base64, or paths with --image-paths) and one of predictions for each arm. docs/evaluation.md describes the columns.
The files hold what the run holds: answers, histories and, as TSV, the photographs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from eval.asking.answers import ArmAnswers, Run, read_run
from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import UserError, reported

FORMATS = ("lmms-eval", "vlmevalkit")


class ExportError(UserError):
    """A run that cannot be exported; the message says why."""


def _arms(run: Run, names: Sequence[str] | None) -> list[ArmAnswers]:
    """The arms with these names, or all of them.

    Raises:
        ExportError: the run has no such arm.
    """
    unknown = [name for name in names or () if name not in run.arms]
    if unknown:
        raise ExportError(f"{run.folder}: has no arm {unknown[0]!r}; there are {', '.join(run.arms)}")
    return [run.arms[name] for name in dict.fromkeys(names or run.arms)]


def main(argv: Sequence[str] | None = None) -> int:
    """Export a run; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.export")
    parser.add_argument("--run-dir", type=Path, required=True, help="a folder that eval.run has filled")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--arm", action="append", help="this arm alone; may be repeated (default: all)")
    parser.add_argument("--images", type=Path, help="vlmevalkit: folder of the list of cases")
    parser.add_argument("--image-paths", action="store_true", help="vlmevalkit: paths instead of base64")
    args = parser.parse_args(argv)
    setup_logging()
    with reported() as status:
        run = read_run(args.run_dir)
        out_dir: Path = args.out
        if out_dir.is_dir() and any(out_dir.iterdir()):
            raise ExportError(f"{out_dir}: is not empty; name a new folder with --out")
        arms = _arms(run, args.arm)
        if args.format == "lmms-eval":
            from eval.export import lmms_eval

            written = lmms_eval.write(run, out_dir, arms)
        elif args.images is None:
            raise ExportError("vlmevalkit needs --images: the folder that the list of cases was in")
        else:
            from eval.export import vlmevalkit

            written = vlmevalkit.write(run, out_dir, arms, args.images, args.image_paths)
        for path in written:
            print(path)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
