"""Write a trained projection in the layout that MiniGPT-4's and the published SkinGPT-4's own demo reads.

skingpt4 export --checkpoint runs/paper/vicuna13b/step2 --minigpt4 skingpt4_13b.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from skingpt4.support.errors import reported


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    parser.add_argument("--minigpt4", required=True, metavar="OUT.pth", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args(argv)
    with reported() as status:
        from skingpt4.checkpoints import checkpoint, minigpt4

        tensors, card = checkpoint.load(args.checkpoint)
        out = minigpt4.export(args.minigpt4, tensors, card, args.overwrite)
        width, query_width = minigpt4.shape_of(out)
        print(
            f"{out}: llama_proj [{width}, {query_width}] in fp32; it belongs to the language model, encoder and "
            "template of the checkpoint, which this layout does not record. Research software, not a medical device."
        )
    return status.code
