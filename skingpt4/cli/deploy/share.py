"""A checkpoint for others: skingpt4 share (a Hugging Face folder) and skingpt4 export (MiniGPT-4's layout)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import NOT_A_DEVICE, make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Write a checkpoint as a Hugging Face repository. Nothing is sent; the command that would is printed.",
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
    with reported(for_others=True) as status:
        from skingpt4.checkpoints import repository

        name = args.name or args.out.name
        folder = repository.write_folder(args.checkpoint, args.out, name, args.licence, args.include)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        width = max(len(file.name) for file in files)
        for file in files:
            print(f"  {file.name:{width}}  {file.stat().st_size:>12,} bytes")
        for key, name in repository.renamed_paths(folder, args.checkpoint):
            print(
                f"note: {key} is named {name}, without the folders of this machine; whoever loads it puts it there"
            )
        print(
            f"{folder}: read {repository.MODEL_CARD} and complete its Data section before you share it, then"
        )
        print(f"  hf upload YOUR_NAME/{name} {folder}\n{NOT_A_DEVICE}")
    return status.code


def export(argv: Sequence[str] | None = None) -> int:
    """Write a projection in the layout that the original's own demo reads; returns the exit status."""
    result = make_parser(
        "Write a trained projection in the layout that MiniGPT-4's and the published SkinGPT-4's own demo reads.",
        "example: skingpt4 export --checkpoint runs/paper/vicuna13b/step2 --minigpt4 skingpt4_13b.pth",
    )
    result.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    result.add_argument("--minigpt4", required=True, metavar="OUT.pth", help="the file to write")
    result.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = result.parse_args(argv)
    with reported(for_others=True) as status:
        from skingpt4.checkpoints import checkpoint, minigpt4

        tensors, card = checkpoint.load(args.checkpoint)
        out = minigpt4.export(args.minigpt4, tensors, card, args.overwrite)
        width, query_width = minigpt4.shape_of(out)
        print(
            f"{out}: llama_proj [{width}, {query_width}] in fp32; it belongs to the language model, encoder and "
            f"template of the checkpoint, which this layout does not record. {NOT_A_DEVICE}"
        )
    return status.code
