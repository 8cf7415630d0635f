"""Fit a simple classifier on an encoder's features and score the cases with it: the floor for every language model.

The features are those of our encoder (--encoder CONFIG: the mean of its tokens, or of the Q-Former's queries) or of
the image tower of a CLIP, SigLIP or open_clip model (--model). On them a multinomial logistic regression or the
k nearest neighbours are fitted to the labels of the training manifests; C and k are chosen by cross-validation that
divides no patient or case. A training that shares pictures, cases or patients with the cases is refused. With
--concept-scores each concept gets a regression of its own, fitted on the records whose concepts are known.

Examples:
  python -m eval.add probe --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl --name linear \\
    --train runs/phantoms/step2/manifest.jsonl --encoder configs/tiny/step2.yaml
  python -m eval.add probe ... --name nearest --train TRAIN.jsonl --model models/DermLIP_ViT-B-16 \\
    --classifier neighbours
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from PIL import Image
from scipy.special import logsumexp
from tqdm import tqdm

from eval.arms.models.features import (
    QUERIES,
    TOKENS,
    EncoderFeatures,
    FeatureSource,
    TowerFeatures,
    cached_features,
    stored_precision,
)
from eval.arms.models.loading import (
    Placement,
    add_loading_arguments,
    answering,
    find_model,
    placement,
)
from eval.arms.models.training import Training, overlap_facts, read_training
from eval.arms.respondent import PROBE, Reply, RespondentError, RespondentGone
from eval.asking.arms import peak_memory
from eval.measures.probing import FLOOR, Probe, ProbingError, fit_logistic, fit_neighbours, group_of
from skingpt4.config.load import load_config
from skingpt4.generation.questions import CONCEPTS_QUESTION
from skingpt4.records.feature_store import FeatureError
from skingpt4.records.images import ImageError
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import Record
from skingpt4.support.files import file_sha256

if TYPE_CHECKING:
    from eval.tasks import Task

logger = logging.getLogger(__name__)

CLASSIFIERS = {"logistic": fit_logistic, "neighbours": fit_neighbours}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this kind."""
    add = parser.add_argument_group("the probe").add_argument
    add("--train", required=True, nargs="+", metavar="MANIFEST", help="manifests with labels to fit on")
    add("--encoder", metavar="CONFIG", help="a configuration whose encoder gives the features")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="changes to that configuration")
    add("--features", choices=(TOKENS, QUERIES), default=TOKENS,
        help="of our encoder: the mean of the vision encoder's tokens, or of the Q-Former's queries "
        "(default: %(default)s)")  # fmt: skip
    add("--classifier", choices=CLASSIFIERS, default="logistic", help="(default: %(default)s)")
    add("--feature-cache", default="runs/features", help="folder of cached features (default: %(default)s)")
    add("--allow-overlap", action="store_true", help="score cases that the training has too, or where that cannot "
        "be checked")  # fmt: skip
    add_loading_arguments(parser, required=False)


def build(args: argparse.Namespace, task: Task) -> ProbeModel:
    """The probe that the command line names; it is fitted with the first case.

    Raises:
        RespondentGone, ConfigError, DeviceError: it cannot be used, and why.
    """
    if bool(args.encoder) == bool(args.model):
        raise RespondentGone(
            "name either --encoder CONFIG (our encoder) or --model (a CLIP, SigLIP or open_clip model)"
        )
    place = placement(args)
    source: FeatureSource
    card: dict[str, Any] = {"closed_set": PROBE, "precision": place.facts()["precision"], "model": None}
    if args.encoder:
        config = load_config(args.encoder, args.set)
        source = EncoderFeatures(config, args.features, place.device)
        card |= {"model": f"{args.features} of {args.encoder}", "precision": config.encoder.dtype}
    else:
        files = find_model(args.model, args.allow_download, args.revision)
        source = TowerFeatures(files, place)
        card |= files.facts()
    training = read_training([Path(path) for path in args.train], task)
    card |= overlap_facts(training.manifest, args.cases, args.allow_overlap)
    model = ProbeModel(
        source,
        training,
        place,
        args.classifier,
        args.seed,
        Path(args.feature_cache),
        tuple(task.classes),
        card,
    )
    if args.dry_run:
        logger.info("would fit %s on %s, features %s", args.classifier, training.describe(), card["model"])
    return model


class ProbeModel:
    """A `Respondent` that scores and writes nothing.

    Args:
        source: of the features.
        training: what is fitted on.
        place: for messages and memory.
        classifier: one of CLASSIFIERS.
        seed: of the folds.
        cache_dir: of the training's features.
        classes: the task's.
        card: what is known of the encoder and of the overlap.
    """

    turns, scores = False, True

    def __init__(
        self,
        source: FeatureSource,
        training: Training,
        place: Placement,
        classifier: str,
        seed: int,
        cache_dir: Path,
        classes: tuple[str, ...],
        card: Mapping[str, Any],
    ) -> None:
        self.source, self.training, self.place = source, training, place
        self.classifier, self.seed, self.cache_dir, self.classes = classifier, seed, cache_dir, classes
        self.card: dict[str, Any] = {
            "kind": "probe",
            **card,
            "features": source.identity,
            "classifier": classifier,
            "train": [str(path) for path in training.paths],
            "train_sha256": [file_sha256(path) for path in training.paths],
            "fold_seed": seed,
            "several_images": "mean of the probabilities",
            **{key: place.facts()[key] for key in ("device", "hardware")},
            "capabilities": {"turns": False, "scores": True, "images": "several"},
            "scikit_learn": sklearn.__version__,
        }
        self._features: np.ndarray | None = None
        self._probe: Probe | None = None
        self._concepts: dict[str, Probe | float] | None = None  # a number: the log of its frequency
        self._lock = threading.Lock()

    def reply(
        self,
        images: Sequence[Image.Image],
        conversation: Sequence[tuple[str, str]],
        question: str,
        seed: int,
    ) -> Reply:
        """Never: there is no text."""
        raise RespondentError("a probe scores classes and writes no texts")

    def score(
        self, images: Sequence[Image.Image], question: str, options: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Log-probability of each class or, after the question about concepts, of each concept; see `Respondent`."""
        with self._lock, answering("probe", self.place):
            if question == CONCEPTS_QUESTION:
                concepts = self._fitted_concepts(list(options))
                features = self._of(images)
                return {name: _presence(concepts[name], features) for name in options}
            rows = self._fitted().log_probabilities(self._of(images), list(options))
        return dict(zip(options, _mean(rows), strict=True))

    def usage(self) -> dict[str, Any]:
        """What the run has cost so far, and what was fitted."""
        fitted = {"probe": self._probe.settings} if self._probe else {}
        return {"peak_memory_bytes": peak_memory(self.place.device), **fitted}

    def _of(self, images: Sequence[Image.Image]) -> np.ndarray:
        return stored_precision(self.source(images))

    def _training_features(self) -> np.ndarray:
        """(records, d) of all training records."""
        if self._features is None:
            parts = []
            for path in self.training.paths:
                records = read_manifest(path)
                parts.append(cached_features(self.source, path, records, self.cache_dir))
            self._features = np.concatenate(parts)
        return self._features

    def _fitted(self) -> Probe:
        """The classifier, fitted at its first use.

        Raises:
            RespondentGone: the training's pictures or labels do not allow it; no case would.
        """
        if self._probe is None:
            labels = self.training.labels
            rows = [row for row, label in enumerate(labels) if label is not None]
            try:
                self._probe = self._fit(rows, [str(labels[row]) for row in rows], self.classifier)
            except (ProbingError, ImageError, FeatureError) as error:
                raise RespondentGone(f"--train: {error}") from error
            settings = self._probe.settings
            chosen = {key: settings[key] for key in ("C", "k") if key in settings}
            loss = min(settings["log_loss"].values())
            logger.info(
                "%s on %d pictures of %d classes: %s, cross-validated log loss %.3f",
                self.classifier, settings["num_examples"], settings["num_classes"], chosen, loss,
            )  # fmt: skip
        return self._probe

    def _fitted_concepts(self, names: Sequence[str]) -> dict[str, Probe | float]:
        if self._concepts is None:
            known = [row for row, record in enumerate(self.training.manifest) if record.concepts is not None]
            if not known:
                raise RespondentGone(
                    "--concept-scores: no training record has concepts; leave it out, or name another --train"
                )
            records = [self.training.manifest[row] for row in known]
            self._concepts = {
                name: self._fit_concept(name, known, records)
                for name in tqdm(names, desc="fitting concepts", unit="concept")
            }
        return self._concepts

    def _fit_concept(self, name: str, rows: Sequence[int], records: Sequence[Record]) -> Probe | float:
        labels = ["yes" if name in (record.concepts or ()) else "no" for record in records]
        try:
            return self._fit(rows, labels, "logistic")
        except ProbingError:  # too rare, or always there: nothing to learn from
            frequency = labels.count("yes") / len(labels)
            return max(float(np.log(frequency)), FLOOR) if frequency else FLOOR

    def _fit(self, rows: Sequence[int], labels: Sequence[str], classifier: str) -> Probe:
        groups = [group_of(self.training.manifest[row], row) for row in rows]
        return CLASSIFIERS[classifier](self._training_features()[list(rows)], labels, groups, self.seed)


def _presence(concept: Probe | float, features: np.ndarray) -> float:
    if isinstance(concept, float):
        return concept
    return _mean(concept.log_probabilities(features, ["yes"]))[0]


def _mean(log_probabilities: np.ndarray) -> list[float]:
    """The log of the mean probability (pictures, n) over pictures."""
    count = len(log_probabilities)
    return (logsumexp(log_probabilities, axis=0) - np.log(count)).tolist()
