"""Write a trained projection in the layout that MiniGPT-4's and the published SkinGPT-4's own demo reads.

skingpt4 export --checkpoint runs/paper/vicuna13b/step2 --minigpt4 skingpt4_13b.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from skingpt4.checkpoints import checkpoint, minigpt4
from skingpt4.support.errors import UserError, reported


class ExportError(UserError):
    """A checkpoint that cannot be exported; the message says why."""


def export_minigpt4(checkpoint_path: str | Path, out: str | Path, overwrite: bool = False) -> Path:
    """Write the projection of a checkpoint of ours as a MiniGPT-4 `.pth`.

    Raises:
        CheckpointError, WeightsMismatch: missing or damaged, or `out` cannot be written.
        ExportError: `out` is there already, or the checkpoint has LoRA, which that layout cannot hold.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise ExportError(f"{out}: is there already; name another file or add --overwrite")
    if out.suffix not in minigpt4.SUFFIXES:
        raise ExportError(f"{out}: name a file that ends in .pth, as the original demo expects")
    tensors, card = checkpoint.load(checkpoint_path)
    if card.get("lora"):
        raise ExportError(
            f"{checkpoint_path}: was trained with LoRA, which MiniGPT-4's layout cannot hold; without it the "
            "projection would answer differently"
        )
    # The original reads `model` and, when it resumes, `epoch`.
    return minigpt4.write(out, tensors, {"epoch": 0})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    parser.add_argument("--minigpt4", required=True, metavar="OUT.pth", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    args = parser.parse_args(argv)
    with reported() as status:
        out = export_minigpt4(args.checkpoint, args.minigpt4, args.overwrite)
        width, query_width = minigpt4.shape_of(out)
        print(
            f"{out}: llama_proj [{width}, {query_width}] in fp32; it belongs to the language model, encoder and "
            "template of the checkpoint, which this layout does not record. Research software, not a medical device."
        )
    return status.code
