"""Calibrate a checkpoint's probabilities on held-out records: skingpt4 calibrate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from skingpt4.chat import calibration
from skingpt4.chat.calibration import Calibration, CalibrationError
from skingpt4.chat.calibration_fit import LEAST_CASES, fit, report
from skingpt4.chat.differential import score_pictures
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import config_and_checkpoint, load_model
from skingpt4.config.schema import Config
from skingpt4.generation.scoring import scored_diseases
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.records.overlap import check_cases, find_overlaps
from skingpt4.support.errors import reported
from skingpt4.support.files import file_sha256
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS
from skingpt4.training.features import cached_queries


def require_held_out(records: Manifest, path: str, card: dict[str, Any]) -> str | None:
    """Refuse pictures that a checkpoint was trained on or is evaluated on; returns what could not be checked.

    Raises:
        CalibrationError: something is shared.
    """
    shared, unchecked = check_cases(records, checkpoint.load_seen(path, card), card)
    if shared:
        raise CalibrationError(
            f"the training shares records with the manifest: {'; '.join(shared)}; calibrate on held-out ones"
        )
    for name in card.get("config", {}).get("data", {}).get("evaluation", []):
        try:
            overlaps = find_overlaps(records, read_manifest(name))
        except FileNotFoundError:
            unchecked = f"{unchecked}; " if unchecked else ""
            unchecked += f"overlap with the evaluation's {name} was not checked: it is not there"
            continue
        if overlaps:
            raise CalibrationError(
                f"the manifest shares records with the evaluation's {name}: {overlaps[0]}; its figures would flatter"
            )
    return unchecked


def score_records(
    model: SkinGPT4, config: Config, records: Manifest, queries: Tensor, diseases: dict[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods (n, 15) and (n, 48) of each picture, with a progress bar; zeros where no concepts are known."""
    rows = [
        score_pictures(model, config, shown[None].float(), diseases, record.concepts is not None)
        for record, shown in zip(tqdm(records, desc="scoring pictures", unit="picture"), queries, strict=True)
    ]
    return np.stack([classes for classes, _ in rows]), np.stack([concepts for _, concepts in rows])


def calibrate(
    model: SkinGPT4,
    config: Config,
    records: Manifest,
    queries: Tensor,
    target_accuracy: float = 1 - calibration.TARGET_RISK,
) -> Calibration:
    """Score pictures with a class and fit.

    Args:
        model: the network with the checkpoint's projection.
        config: its configuration.
        records: held-out records; those without a class are left out.
        queries: (n, q, d) of all of them.
        target_accuracy: of the answers that are kept.

    Raises:
        CalibrationError: too few pictures with a class.
    """
    rows = [row for row, record in enumerate(records) if record.class_name in CLASSES]
    if len(rows) < LEAST_CASES:  # before minutes of scoring
        raise CalibrationError(
            f"{len(rows)} pictures with a class are too few to calibrate on; at least {LEAST_CASES}"
        )
    chosen: Any = [records[row] for row in rows]
    diseases = scored_diseases(chosen)
    scores, concept_scores = score_records(model, config, chosen, queries[rows], diseases)
    present = np.array([[c in (record.concepts or ()) for c in CONCEPTS] for record in chosen])
    truth = np.array([CLASSES.index(record.class_name) for record in chosen])
    known = np.array([record.concepts is not None for record in chosen])
    return fit(scores, truth, concept_scores, present, known, diseases, target_accuracy)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, fit and write; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--checkpoint", required=True, help="a checkpoint or a run's folder")
    parser.add_argument("--config", help="where the checkpoint knows none, or files lie elsewhere")
    parser.add_argument(
        "--manifest", required=True, action="append", metavar="JSONL", help="held-out; may be repeated"
    )
    parser.add_argument("--target-accuracy", type=float, default=1 - calibration.TARGET_RISK, metavar="SHARE",
                        help="of the answers called confident (default: %(default)s)")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only check that the manifests are held out")
    args = parser.parse_args(argv)
    with reported() as status:
        if not 0 < args.target_accuracy < 1:
            raise CalibrationError("--target-accuracy: is a share between 0 and 1, such as 0.8")
        config, _ = config_and_checkpoint(args.config, args.checkpoint)
        _, card = checkpoint.load(args.checkpoint)
        parts = [read_manifest(path) for path in args.manifest]
        for path, part in zip(args.manifest, parts, strict=True):
            if unchecked := require_held_out(part, args.checkpoint, card):
                print(f"note: {path}: {unchecked}", file=sys.stderr)
        if args.dry_run:
            print(f"{sum(map(len, parts))} pictures, apart from training and evaluation; nothing was written")
            return 0
        found = _run(config, args, parts)
        path = calibration.save(found, args.checkpoint)
        print(f"{report(found)}\nwritten to {path}")
    return status.code


def _run(config: Config, args: argparse.Namespace, parts: Sequence[Manifest]) -> Calibration:
    cache = config.data.feature_cache or "runs/features"
    get_encoder: Callable[[], Any] = lambda: build_encoder(config)  # noqa: E731
    kept = [
        cached_queries(path, part, config, cache, get_encoder)
        for path, part in zip(args.manifest, parts, strict=True)
    ]
    model = load_model(config, args.checkpoint, with_encoder=False)
    queries = torch.cat([store[range(len(store))] for store in kept])
    found = calibrate(model, config, chain(parts), queries, args.target_accuracy)
    data = {
        "manifest": ", ".join(args.manifest), "sha256": [file_sha256(path) for path in args.manifest],
        "sources": sorted({name for part in parts for name in part.column("source").to_pylist() if name}),
    }  # fmt: skip
    return Calibration(
        **{**vars(found), "data": data, "tensors_sha256": calibration.weights_sha256(args.checkpoint)}
    )
