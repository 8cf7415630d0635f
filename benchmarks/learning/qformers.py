"""What Q-Formers keep of what their backbone saw: python -m benchmarks qformers [FILE ...].

A logistic regression is fitted on the backbone's pooled tokens and on the queries of each Q-Former, on pictures that
the bundled one was not trained on, and counted on others: the class of drawings of another renderer seed, and of
which quarter of which photograph a crop was made (photographs that installed packages carry; no skin; the bundled one
was trained on other crops of them). What is read of the queries, divided by what is read of the tokens, says how much
is left. Of drawings it also counts how much of what varies between pictures their labels explain: a projection learns
in a few hundred updates what is written large.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness.results import RESULTS, about, share, write
from data.phantoms.splits import write_split
from skingpt4.config.load import load_config
from skingpt4.config.schema import Config
from skingpt4.generation.probing.probes import accuracy, fit_logistic
from skingpt4.generation.probing.stages import image_batches, pool_tokens
from skingpt4.model.build import build_encoder, build_qformer
from skingpt4.model.network import ImageEncoder
from skingpt4.model.qformer import QFormer
from skingpt4.records.manifest import Manifest, read_manifest
from skingpt4.support.errors import reported
from skingpt4.support.files import file_sha256
from skingpt4.training.qformer.photographs import write_crops
from skingpt4.training.qformer.run import fraction_explained, shown_labels

BUNDLED = [Path("skingpt4/weights/bundled/qformer_captions.safetensors")]
FOLDER = Path("runs/qformers")  # of the pictures
SEEDS = {"train": 12, "test": 13}  # of drawings and crops; the bundled Q-Former was not trained with them
# what a picture shows: (its label, pictures to fit on, to count)
PICTURES = {"drawings": ("class_name", 1350, 450), "photographs": ("case_id", 1200, 480)}
STRENGTHS = (3e-3,)  # of the regression, one for all, as `skingpt4 pretrain-qformer` compares


def pictures(kind: str, part: str, count: int) -> Manifest:
    """Drawings or crops, made now if they are not there."""
    folder, seed = FOLDER / part, SEEDS[part]
    if kind == "drawings":
        return read_manifest(write_split(folder, "validation", count, seed))
    return read_manifest(write_crops(folder / kind, count, seed))


@torch.no_grad()
def features(
    records: Manifest, encoder: ImageEncoder, config: Config, qformers: Sequence[QFormer]
) -> list[Tensor]:
    """Features (n, d) of the encoder's pooled tokens, and then of the queries of each Q-Former."""
    parts: list[list[Tensor]] = [[] for _ in range(1 + len(qformers))]
    with tqdm(total=len(records), desc="encoding pictures", unit="picture") as bar:
        for images in image_batches(encoder, config, records):
            tokens = encoder.vision_encoder(images).float()
            parts[0].append(pool_tokens(tokens, encoder.vision_encoder.num_prefix).flatten(1))
            for part, qformer in zip(parts[1:], qformers, strict=True):
                part.append(qformer(tokens).flatten(1))
            bar.update(len(images))
    return [torch.cat(part) for part in parts]


def measure(files: Sequence[Path], config_path: str, small: bool = False) -> dict[str, Any]:
    """For each kind of picture, what is read of the tokens and of each Q-Former's queries."""
    config = load_config(config_path)
    encoder = build_encoder(config)
    width = encoder.vision_encoder.width
    qformers = [build_qformer(replace(config.qformer, weights=str(file)), width).eval() for file in files]
    rows: dict[str, dict[str, Any]] = {name: {} for name in ("tokens", *(file.stem for file in files))}
    for kind, (label, *counts) in PICTURES.items():
        train, test = (
            pictures(kind, part, 48 if small else count) for part, count in zip(SEEDS, counts, strict=True)
        )
        fitted, counted = (features(records, encoder, config, qformers) for records in (train, test))
        labels, truth = ([str(getattr(record, label)) for record in records] for records in (train, test))
        groups = [str(place) for place in range(len(train))]
        for name, own, other in zip(rows, fitted, counted, strict=True):
            probe = fit_logistic(own.numpy(), labels, groups, 0, STRENGTHS)
            right = accuracy(probe.log_probabilities(other.numpy()), probe.classes, truth)
            rows[name][kind] = right.to_dict() | {"num_train": len(train), "num_labels": len(set(labels))}
            if kind == "drawings":
                rows[name][kind]["explained_by_labels"] = fraction_explained(other, shown_labels(test))
            print(f"{kind}, {name}: {right}", flush=True)
    return {"qformers": {file.stem: file_sha256(file) for file in files}, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """What is read of each, with its ratio to the tokens."""
    rows = result["rows"]
    head = "| read by a logistic regression of | " + " | ".join(
        f"{kind} ({found['num_labels']} answers, n = {found['n']}) | divided by the tokens'"
        for kind, found in rows["tokens"].items()
    )
    lines = [f"{head} | of what varies, labels explain |", "|---" * (2 + 2 * len(rows["tokens"])) + "|"]
    for name, found in rows.items():
        cells = [
            f"{share(right)} | {right['value'] / rows['tokens'][kind]['value']:.2f}"
            for kind, right in found.items()
        ]
        cells.append(f"{100 * found['drawings']['explained_by_labels']:.0f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks qformers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("files", nargs="*", type=Path, default=BUNDLED, metavar="FILE", help="weights (those of the default)")
    add("--config", default="configs/tiny/step1.yaml", help="its vision encoder and sizes (%(default)s)")
    add("--out", type=Path, default=RESULTS / "qformers.json", help="(default: %(default)s)")
    add("--small", action="store_true", help="takes seconds, to try the path; its figures mean nothing")
    args = parser.parse_args(words)
    with reported() as status:
        result = measure(args.files, args.config, args.small)
        print(table(result))
        write({**about(["qformers", *words]), **result}, args.out)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
