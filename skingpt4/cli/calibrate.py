"""Fit what turns a model's scores into probabilities, on pictures it was not trained on.

    skingpt4 calibrate --checkpoint runs/quickstart/step2 \\
        --manifest runs/phantoms/validation/manifest.jsonl --manifest runs/phantoms/validation_step2/manifest.jsonl

A temperature for the 15 classes, what each disease scores whatever the picture shows and its weight, one slope and an
intercept each for the concepts, and the lowest confidence whose answers are right as often as required. Written as
calibration.json into the checkpoint. Give held-out validation manifests; those of the evaluation are refused, since
its figures would be too good.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(str(__doc__))
    add = result.add_argument
    add("--checkpoint", required=True, help="a checkpoint or a run's folder")
    add("--config", help="where the checkpoint does not know its own, or files are elsewhere")
    add("--manifest", required=True, action="append", metavar="JSONL", help="held-out; may be repeated")
    add("--target-accuracy", type=float, default=0.8, metavar="FRACTION",
        help="of the answers called confident (default: %(default)s)")  # fmt: skip
    add("--allow-overlap", action="store_true",
        help="go on where pictures are of the training or evaluation, or where that cannot be checked")  # fmt: skip
    add("--dry-run", action="store_true", help="only check that the manifests are held out")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, fit and write; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        import torch

        from skingpt4.chat import calibration
        from skingpt4.chat.calibration_fit import calibrate, report, require_held_out
        from skingpt4.checkpoints import checkpoint
        from skingpt4.checkpoints.diseases import of_card
        from skingpt4.checkpoints.load import load_model, model_source
        from skingpt4.model.build import build_encoder
        from skingpt4.records.manifest import chain, read_manifest
        from skingpt4.support.files import file_sha256
        from skingpt4.training.features import cached_queries

        if not 0 < args.target_accuracy < 1:
            raise calibration.CalibrationError(
                "--target-accuracy: is a fraction between 0 and 1, such as 0.8"
            )
        source = model_source(args.config, args.checkpoint)
        config = source.config
        _, card = checkpoint.load(args.checkpoint)
        manifests = [read_manifest(path) for path in args.manifest]
        notes = [
            f"{path}: {note}"
            for path, manifest in zip(args.manifest, manifests, strict=True)
            for note in require_held_out(manifest, args.checkpoint, card, args.allow_overlap)
        ]
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if args.dry_run:
            result = "see the notes on overlap" if notes else "none of them in training or evaluation"
            print(f"{sum(map(len, manifests))} pictures, {result}; nothing was written")
            return 0

        cache = config.data.feature_cache or "runs/features"
        stores = [
            cached_queries(path, manifest, config, cache, lambda: build_encoder(config))
            for path, manifest in zip(args.manifest, manifests, strict=True)
        ]
        model = load_model(source.loadable, args.checkpoint, with_encoder=False)
        queries = torch.cat([store[range(len(store))] for store in stores])
        fitted = calibrate(model, config, chain(manifests), queries, args.target_accuracy, of_card(card))
        sources = {name for manifest in manifests for name in manifest.column("source").to_pylist() if name}
        data = {
            "manifest": ", ".join(args.manifest), "sha256": [file_sha256(path) for path in args.manifest],
            "sources": sorted(sources),
        }  # fmt: skip
        fitted = replace(fitted, data=data, tensors_sha256=calibration.weights_sha256(args.checkpoint))
        path = calibration.save(fitted, args.checkpoint)
        print(f"{report(fitted)}\nwritten to {path}")
    return status.code
