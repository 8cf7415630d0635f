"""Train the default's small Q-Former once: skingpt4 pretrain-qformer --config configs/tiny/step1.yaml."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported

OUT = Path("skingpt4/weights/bundled/qformer_tiny.safetensors")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Train a small Q-Former for one vision backbone, on records with known concepts and class."
    )
    add = result.add_argument
    add("--config", default="configs/tiny/step1.yaml", help="its encoder is trained (default: %(default)s)")
    add(
        "--train",
        type=Path,
        default=Path("runs/phantoms/qformer/manifest.jsonl"),
        help="default: %(default)s",
    )
    add(
        "--held-out",
        type=Path,
        default=Path("runs/phantoms/validation/manifest.jsonl"),
        help="default: %(default)s",
    )
    add("--out", type=Path, default=OUT, help="default: %(default)s")
    add("--cache", type=Path, default=Path("runs/qformer_cache"), help="default: %(default)s")
    add("--epochs", type=int, default=12, help="default: %(default)s")
    add("--batch-size", type=int, default=64, help="default: %(default)s")
    add("--rate", type=float, default=1e-3, help="of AdamW (default: %(default)s)")
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write weights and figures; returns the exit status."""
    args = parser().parse_intermixed_args(argv)
    with reported() as status:
        from skingpt4.config.load import load_config
        from skingpt4.records.manifest import read_manifest
        from skingpt4.training.pretrain_qformer import save, train
        from skingpt4.training.processes import require_launched, require_started

        require_started(
            require_launched(num_gpus=0), 1
        )  # several would each train the same and write one file
        config = load_config(args.config, args.overrides)
        qformer, figures = train(
            config, args.train, args.held_out, args.epochs, args.batch_size, args.rate, args.cache
        )
        card = {
            "vision": asdict(config.vision),
            "qformer": asdict(config.qformer),
            "epochs": args.epochs, "batch_size": args.batch_size, "rate": args.rate, "seed": config.seed,
            "records": len(read_manifest(args.train)),
            "held_out_linear_read_outs": figures,
        }  # fmt: skip
        save(args.out, qformer, card)
        print(f"wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")
    return status.code
