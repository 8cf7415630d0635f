"""Train a Q-Former: skingpt4 pretrain-qformer --train MANIFEST --held-out MANIFEST --out FILE."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser, require_writable, setup_logging
from skingpt4.support.errors import reported

EPILOG = """objectives and their weights (0 leaves one out):
  reconstruction   queries give back the mean patch of each cell of a grid, and the class token
  decorrelation    no two dimensions of the queries say the same
  contrastive, matching, generation   those of BLIP-2; they need captions, made of concepts, disease, class and note

example:
  skingpt4 pretrain-qformer --config configs/tiny/step1.yaml --train train.jsonl --held-out validation.jsonl \\
    --out runs/qformer.safetensors
A stopped command goes on where it was when it is given again."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Train a Q-Former for the vision encoder of a configuration.", EPILOG)
    add = result.add_argument
    add("--config", default="configs/tiny/step1.yaml", help="names vision encoder, Q-Former's size, tokenizer "
        "(default: %(default)s)")  # fmt: skip
    add("--train", type=Path, nargs="+", required=True, metavar="MANIFEST", help="images to train on")
    add("--held-out", type=Path, required=True, metavar="MANIFEST", help="images with a class, for the probe")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="gets the weights, .safetensors, and FILE.json a card",
    )
    add("--overwrite", action="store_true", help="replace an existing --out")
    add("--package-photographs", type=int, default=0, metavar="N", help="also train on N crops of photographs that "
        "installed packages carry (default: none)")  # fmt: skip
    add(
        "--cache",
        type=Path,
        default=Path("runs/tokens"),
        help="of the backbone's tokens (default: %(default)s)",
    )
    add(
        "--views",
        type=int,
        default=1,
        help="above 1: so many random crops of each image (default: %(default)s)",
    )
    add("--steps", type=int, default=600, help="default: %(default)s")
    add("--batch-size", type=int, default=32, help="default: %(default)s")
    add("--rate", type=float, default=3e-4, help="of AdamW (default: %(default)s)")
    add(
        "--seen-patches",
        type=float,
        default=0.5,
        help="fraction of the patches seen in a step (default: %(default)s)",
    )
    add("--start", choices=("pooling", "random"), default="pooling",
        help="first weights: each query pools a cell of a grid, or random (default: %(default)s)")  # fmt: skip
    weights = {
        "reconstruction": 1.0, "decorrelation": 0.1, "contrastive": 0.5, "matching": 0.0, "generation": 0.0,
    }  # fmt: skip
    for name, weight in weights.items():
        add(f"--{name}", type=float, default=weight, metavar="WEIGHT", help="default: %(default)s")
    add("--dry-run", action="store_true", help="check everything, compute nothing")
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write weights and card; returns the exit status."""
    args = parser().parse_intermixed_args(argv)
    with reported() as status:
        setup_logging()
        from skingpt4.config.load import load_config
        from skingpt4.training.distributed.launchers import require_launched, require_started
        from skingpt4.training.qformer.objectives import Weights
        from skingpt4.training.qformer.photographs import write_crops
        from skingpt4.training.qformer.pretrain import Settings
        from skingpt4.training.qformer.run import Request, pretrain

        # Several processes would each train the same and write one file.
        require_started(require_launched(num_gpus=0), 1)
        config = load_config(args.config, args.overrides)
        weights = Weights(
            args.reconstruction, args.decorrelation, args.contrastive, args.matching, args.generation
        )
        settings = Settings(
            steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=config.seed,
            seen_patches=args.seen_patches, start=args.start, weights=weights,
        )  # fmt: skip
        require_writable(args.out)
        manifests = tuple(args.train)
        if args.package_photographs:
            folder = args.cache / f"photographs-{args.package_photographs}-{config.seed}"
            manifests += (write_crops(folder, args.package_photographs, config.seed),)
        command = shlex.join(["skingpt4", "pretrain-qformer", *(sys.argv[2:] if argv is None else argv)])
        request = Request(
            manifests, args.held_out, args.out, args.cache, args.views, settings, command, args.overwrite,
            args.dry_run,
        )  # fmt: skip
        pretrain(config, request)
        if not args.dry_run:
            print(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB, and its card")
    return status.code
