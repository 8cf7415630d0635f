"""Write a checkpoint as a Hugging Face repository: skingpt4 share --checkpoint runs/... --out DIR.

Nothing is sent anywhere; the command that would is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import NOT_A_DEVICE, make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Write a checkpoint as a Hugging Face repository; nothing is sent.",
        "example: skingpt4 share --checkpoint runs/quickstart/step2 --out runs/shared/phantoms --include qformer",
    )
    result.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    result.add_argument("--out", required=True, type=Path, help="the folder to write; must not exist")
    result.add_argument("--name", help="the model's name on its card; the folder's by default")
    result.add_argument("--licence", default="apache-2.0", help="of what was trained (default %(default)s)")
    result.add_argument(
        "--include",
        nargs="*",
        default=[],
        choices=("vision", "qformer"),
        help="frozen parts to copy along; by default none",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and write the folder; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.checkpoints import repository

        name = args.name or args.out.name
        folder = repository.write_folder(args.checkpoint, args.out, name, args.licence, args.include)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        width = max(len(file.name) for file in files)
        for file in files:
            print(f"  {file.name:{width}}  {file.stat().st_size:>12,} bytes")
        for path in repository.absolute_paths(folder):
            print(f"note: {repository.CONFIG} names {path}, a path of this machine; others need their own")
        print(
            f"{folder}: read {repository.MODEL_CARD} and complete its Data section before you share it, then"
        )
        print(f"  hf upload YOUR_NAME/{name} {folder}\n{NOT_A_DEVICE}")
    return status.code
