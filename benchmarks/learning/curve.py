"""A learning curve on stored vectors: python -m benchmarks learning --train A.npz --test B.npz --out C.json.

The files hold what an encoder saw of pictures, not the pictures: `vectors` (n, q, d), or the array that --vectors
names, and the texts `disease` and `class_name` (n,). The projection is trained on them as `train.py` would, and after
each of --points iterations the test cases are scored: all diseases of the training, summed by class, as they are
(plain) and as `skingpt4 calibrate` reads them. Its reading is fitted on four fifths of the cases for the last fifth.
Beside it stands a probe, a logistic regression on the same vectors: what they hold.

Changes to the configuration follow as key=value, one factor at a time (`projection.inputs=raw seed=1`). For
`projector=mlp` the files must hold the configuration's pooled tokens; every other projector is one layer on any
vectors. The JSON is written after every point; a curve that is complete is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.harness.results import RESULTS, about, write
from benchmarks.learning.stored import Stored, VectorsError, through_qformer
from skingpt4.chat.calibration_readings import PLAIN, held_out_probabilities, read_in_all_ways
from skingpt4.checkpoints.diseases import taught_diseases
from skingpt4.config.load import load_config
from skingpt4.config.schema import Config
from skingpt4.generation.diseases import DiseaseScorer
from skingpt4.generation.probing.probes import accuracy, fit_logistic
from skingpt4.model.build import build
from skingpt4.model.network import SkinGPT4
from skingpt4.model.projection import picture_shape
from skingpt4.records.manifest import Manifest, evenly_spread, read_manifest
from skingpt4.support.cli import require_writable
from skingpt4.support.errors import reported
from skingpt4.taxonomy.closed_set import ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES
from skingpt4.training.batches import batches, make_collate
from skingpt4.training.coordinates.labels import Labels, labels_of
from skingpt4.training.coordinates.regression import discriminants
from skingpt4.training.distributed.team import Team
from skingpt4.training.loop import train_step
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.optim.schedule import learning_rate
from skingpt4.training.prepare import add_lora, initialise_projection
from skingpt4.training.qformer.pretrain import Settings
from skingpt4.training.samples import SampleEncoder, TrainingSamples

READINGS = ("plain", "calibrated")


class Test:
    """The test cases of the 15 classes, scored by the diseases that were taught."""

    def __init__(
        self, stored: Stored, records: Manifest, model: SkinGPT4, config: Config, limit: int
    ) -> None:
        self.rows = known_classes(stored, limit)
        self.vectors, self.classes = stored.vectors[self.rows].float(), stored.classes[self.rows]
        self.closed_set = ClosedSet.of_training(taught_diseases(records, config.prompt))
        self.scorer = DiseaseScorer(model, config.prompt, self.closed_set)

    def score(self) -> dict[str, Any]:
        """Class top-1 and top-3 for each of READINGS."""
        scores = np.concatenate(
            [self.scorer.scores([v[None]]) for v in tqdm(self.vectors, "scoring", leave=False)]
        )
        by_reading = read_in_all_ways(self.closed_set, scores)
        truth = np.array([CLASSES.index(name) for name in self.classes])
        calibrated = np.log(held_out_probabilities(by_reading, truth).clip(min=1e-300))
        result: dict[str, Any] = {}
        for name, of_classes in zip(READINGS, (by_reading[PLAIN], calibrated), strict=True):
            best = np.argsort(-of_classes, axis=1)[:, :3]
            top3 = [true in [CLASSES[c] for c in row] for true, row in zip(self.classes, best, strict=True)]
            result[name] = {
                "top1": accuracy(of_classes, CLASSES, self.classes).to_dict(), "top3": float(np.mean(top3)),
            }  # fmt: skip
        return result


def known_classes(stored: Stored, limit: int) -> np.ndarray:
    """Rows of the 15 classes: about `limit` of them, evenly spread, or all."""
    rows = np.flatnonzero(np.isin(stored.classes, CLASSES))
    return rows[evenly_spread(len(rows), limit)] if limit else rows


def regression(train: Stored, test: Test, labels: Labels) -> dict[str, Any]:
    """Top-1 of the log-odds that `projection.inputs: discriminants` writes large, without the language model."""
    weight, centre = discriminants(lambda row: train.vectors[row], labels)
    odds = ((test.vectors.mean(1).double() - centre) @ weight.T).numpy()
    places = {name.casefold(): place for place, name in enumerate(labels.names)}
    columns = [places.get(disease.name.casefold()) for disease in test.closed_set.diseases]
    none = np.full(len(odds), odds.min())
    scores = np.stack([none if column is None else odds[:, column] for column in columns], 1)
    of_classes = test.closed_set.class_scores(scores, np.zeros(len(columns)), 1.0)
    return accuracy(of_classes, CLASSES, test.classes).to_dict()


def probe(train: Stored, test: Stored, rows: np.ndarray) -> dict[str, Any]:
    """Top-1 of a logistic regression on the mean vector and the first one, beside chance."""

    def features(stored: Stored) -> np.ndarray:
        vectors = stored.vectors.float()
        return torch.cat([vectors[:, 0], vectors.mean(1)], 1).numpy()

    fitted = fit_logistic(features(train), train.classes.tolist(), [str(row) for row in range(len(train))])
    logs = fitted.log_probabilities(features(test)[rows], CLASSES)
    return {**accuracy(logs, CLASSES, test.classes[rows]).to_dict(), "settings": fitted.settings}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The stages of a curve as rows and its seeds as columns, each with its top-1 and interval."""

    def row(what: str, top1: Sequence[dict[str, float]]) -> str:
        cells = [f"{100 * t['value']:.1f} % ({100 * t['low']:.0f} to {100 * t['high']:.0f})" for t in top1]
        return f"| {' | '.join([what, *cells])} |"

    first = results[0]
    seeds = [next(o.partition("=")[2] for o in r["overrides"] if o.startswith("seed=")) for r in results]
    rows = [
        f"| features of public photographs, {first['num_train']:,} to learn from; top-1 of {first['probe']['n']} | "
        + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "|---" * (1 + len(results)) + "|",
    ]  # fmt: skip
    known = "a logistic regression on the vectors names the class"
    probes = {known: "probe", "the log-odds that discriminants write large": "regression"}
    if "qformer" in first:
        probes = {known: "probe_of_vectors", "the same on the queries of a Q-Former trained on them": "probe"}
    rows += [row(what, [r[key] for r in results]) for what, key in probes.items()]
    for place, point in enumerate(first["points"]):
        what = f"the language model, after {point['samples']:,} samples"
        tops = [r["points"][place]["calibrated"]["top1"] for r in results]
        of_probe = " | ".join(
            f"{t['value'] / r['probe']['value']:.2f}" for t, r in zip(tops, results, strict=True)
        )
        rows += [row(what, tops), f"| this divided by the logistic regression's | {of_probe} |"]
    return "\n".join(rows)


def require_same_shape(config: Config, train: Stored) -> None:
    """Refuse stored vectors that a configuration's projection does not read.

    Raises:
        VectorsError: names both shapes.
    """
    read, (_, *stored) = picture_shape(config), train.vectors.shape
    if stored != [read.num_vectors, read.width]:
        raise VectorsError(
            f"projector: {config.projector} reads {read.num_vectors} vectors of width {read.width} of a picture, and "
            f"the file has {stored[0]} of width {stored[1]}; change pooling.side, or name other --vectors"
        )


def measure(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Measure one curve."""
    require_writable(args.out)
    train, test = (Stored.read(path, args.vectors) for path in (args.train, args.test))
    config = load_config(args.config, args.overrides)
    config.initial_checkpoint, config.vision.crops = None, 1
    if config.projector != "mlp":
        config.projector = "qformer"  # one layer on any vectors
    config.optim.max_epoch, config.optim.iters_per_epoch = 1, max(1, *args.points)
    result: dict[str, Any] = {
        "overrides": args.overrides, "vectors": args.vectors, "num_train": len(train),
        "batch_size": config.optim.batch_size, "points": [], "complete": False,
    }  # fmt: skip
    state = args.out.with_suffix(".qformer.state")
    with tempfile.TemporaryDirectory() as folder:
        config.data.train = [str(train.manifest(Path(folder)))]
        records = read_manifest(config.data.train[0])
        if args.qformer_steps:
            result["probe_of_vectors"] = probe(train, test, known_classes(test, args.limit))
            settings = Settings(steps=args.qformer_steps, seed=config.seed)
            result["qformer"] = asdict(settings)
            train, test = through_qformer(train, test, records, config, settings, state)
        config.qformer.num_query_tokens, config.qformer.width = train.shape.num_queries, train.shape.width
        require_same_shape(config, train)
        accelerator = Accelerator()
        model = build(config, accelerator.device)
        began = time.monotonic()
        known = torch.zeros(1, *train.vectors.shape[1:])
        initialise_projection(model, [train], records, config, known, Team())  # type: ignore[list-item]
        add_lora(config, model)
        scored = Test(test, records, model, config, args.limit)
        result["probe"] = probe(train, test, scored.rows)
        result["regression"] = regression(train, scored, labels_of(records, config.prompt))
        print(
            f"probe: {100 * result['probe']['value']:.1f} %, regression to the diseases "
            f"{100 * result['regression']['value']:.1f} % of {result['probe']['n']}",
            flush=True,
        )
        losses: list[float] = []
        for iteration, loss in enumerate(training(model, train, records, config, accelerator)):
            if loss is not None:
                losses.append(loss)
            if iteration in args.points:
                point = {
                    "iteration": iteration, "samples": iteration * config.optim.batch_size,
                    "loss": float(np.mean(losses)) if losses else None, **scored.score(),
                    "seconds": time.monotonic() - began,
                }  # fmt: skip
                result["points"].append(point)
                losses = []
                result["complete"] = iteration == max(args.points)
                write({**about(["learning", *words], accelerator.device), **result}, args.out)
                tops = [f"{100 * point[name]['top1']['value']:.1f} % ({name})" for name in READINGS]
                print(f"iteration {iteration}: top-1 {', '.join(tops)}", flush=True)
    state.unlink(missing_ok=True)


def training(
    model: SkinGPT4, train: Stored, records: Manifest, config: Config, accelerator: Accelerator
) -> Iterator[float | None]:
    """Train for `config.optim.iters_per_epoch` iterations; yields None first, and the loss after each of them."""
    texts = SampleEncoder.from_config(config, model.tokenizer)
    samples = TrainingSamples(
        records, texts, lambda row, _: {"queries": train.vectors[row].float()}, config.seed,
        sampling=config.data.sampling,
    )  # fmt: skip
    last, optimizer = config.optim.iters_per_epoch, make_optimizer(model, config.optim)
    steps = batches(config, samples, make_collate(config, model.language_model), accelerator, 0, last)
    model.eval()
    yield None
    for iteration in tqdm(range(last), desc="training", unit="it"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, config.optim)
        model.train()
        loss = train_step(model, optimizer, next(steps), accelerator, config.optim.max_grad_norm).loss
        model.eval()
        yield loss


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks learning", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--config",
        default="configs/tiny/step2.yaml",
        help="its prompt, projection and optimiser (%(default)s)",
    )
    add("--train", required=True, type=Path, help="vectors to learn from (.npz)")
    add("--test", required=True, type=Path, help="vectors of other pictures (.npz)")
    add("--vectors", default="vectors", help="the array of the files (%(default)s)")
    add(
        "--qformer-steps", type=int, default=0, metavar="N",
        help="train a Q-Former for N steps first, with class and disease as captions; the vectors are then tokens: "
        "one for the picture, then its patches (none)",
    )  # fmt: skip
    add("--points", type=int, nargs="+", default=[0, 100], help="iterations after which the test is scored")
    add("--limit", type=int, default=0, help="score about so many test cases, evenly spread (all)")
    add("--out", type=Path, default=RESULTS / "learning.json", help="JSON with the curve (%(default)s)")
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    args = parser.parse_intermixed_args(words)
    with reported() as status:
        if args.out.is_file() and json.loads(args.out.read_text()).get("complete"):
            print(f"{args.out}: complete, nothing to do")
        else:
            measure(args, words)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
