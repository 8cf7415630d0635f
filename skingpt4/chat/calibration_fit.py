"""Fits a calibration on images that the model was not trained on.

A temperature for the 15 classes (Guo et al. 2017, arXiv 1706.04599), where diseases were scored their mean scores,
the weight of these (the prior of `skingpt4.taxonomy.closed_set`) and their spread, one slope and an intercept each
for the concepts (Platt 1999), and the lowest confidence whose answers are right as often as required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor
from tqdm import tqdm

from skingpt4.chat import calibration
from skingpt4.chat.calibration import Calibration, CalibrationError, Platt, class_loss
from skingpt4.chat.calibration_readings import (
    FOLDS,
    PLAIN,
    Reading,
    fit_reading,
    folds_of,
    held_out_probabilities,
    read_in_all_ways,
    spread_of,
)
from skingpt4.chat.checks import alarm
from skingpt4.chat.differential import score_concepts, score_images
from skingpt4.checkpoints import checkpoint
from skingpt4.config.schema import Config
from skingpt4.generation.diseases import DiseaseScorer
from skingpt4.generation.questions import scored_diseases
from skingpt4.model.network import SkinGPT4
from skingpt4.records.comparing.identity import Keys
from skingpt4.records.comparing.overlap import check_cases, compare
from skingpt4.records.manifest import Manifest, read_manifest
from skingpt4.taxonomy.closed_set import ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

MIN_CASES = 30
MIN_CONFIDENT = 10  # cases that reach a threshold: with fewer, the target is reached by chance
MIN_OF_CONCEPT = 5  # images with it, and without it


# --- fitting -------------------------------------------------------------------------------------------


def fit_concepts(scores: np.ndarray, present: np.ndarray, names: Sequence[str]) -> dict[str, Platt]:
    """One slope for all concepts and an intercept for each; concepts that are rare in the data are left out.

    The slope is shared, since most concepts have few images. If it is not positive, the result is empty: the scores
    then say nothing about what the images show.

    Args:
        scores: (n, concepts) log-likelihoods.
        present: (n, concepts) bool.
        names: of the concepts.
    """
    counts = present.sum(axis=0)
    used = np.flatnonzero((counts >= MIN_OF_CONCEPT) & (len(present) - counts >= MIN_OF_CONCEPT))
    if not len(used):
        return {}
    centre, spread = scores[:, used].mean(axis=0), float(scores[:, used].std(axis=0).mean()) or 1.0
    scaled = (scores[:, used] - centre) / spread
    one_hot = np.tile(np.eye(len(used)), (len(scores), 1))
    rows = np.column_stack([scaled.ravel(), one_hot])
    fit = LogisticRegression(C=10.0, fit_intercept=False, max_iter=1000).fit(rows, present[:, used].ravel())
    slope, *intercepts = fit.coef_[0].tolist()
    if slope <= 0:
        return {}
    return {
        names[k]: Platt(slope / spread, start - slope * middle / spread, int(counts[k]))
        for k, start, middle in zip(used.tolist(), intercepts, centre.tolist(), strict=True)
    }


def fit(
    scores: np.ndarray | Mapping[Reading, np.ndarray],
    truth: np.ndarray,
    concept_scores: np.ndarray,
    concepts: np.ndarray,
    known: np.ndarray,
    diseases: dict[str, str],
    target_accuracy: float = 1 - calibration.TARGET_RISK,
    seed: int = 0,
) -> Calibration:
    """A calibration of scores, with measures of folds that each fit did not see.

    Args:
        scores: (n, 15) log-likelihoods in the order of `diseases`; or log-scores for each reading, PLAIN among them.
        truth: (n,) number of the true class.
        concept_scores: (n, 48) log-likelihoods.
        concepts: (n, 48) bool.
        known: (n,) whether an image's concepts are known.
        diseases: the disease that was scored for each class.
        target_accuracy: of the confident answers.
        seed: of the folds.

    Raises:
        CalibrationError: fewer than MIN_CASES images, or scores that are not finite.
    """
    n = len(truth)
    _require_enough(n)
    by_reading = scores if isinstance(scores, Mapping) else {PLAIN: scores}
    if not all(np.isfinite(each).all() for each in (*by_reading.values(), concept_scores)):
        raise CalibrationError("the model gives scores that are not finite numbers; it cannot be calibrated")
    probability = held_out_probabilities(by_reading, truth, seed)
    reading, temperature = fit_reading(by_reading, truth)
    before, after = by_reading[PLAIN], by_reading[reading]
    plain = Calibration(1.0, None, target_accuracy, n, diseases, {}).class_probabilities(before)
    confidence = Calibration(temperature, None, 1, n, diseases, {}).class_probabilities(after).max(axis=1)
    right_before, right, right_held_out = (
        (each.argmax(axis=1) == truth).astype(np.float64) for each in (before, after, probability)
    )
    threshold = calibration.choose_threshold(confidence, right, 1 - target_accuracy, MIN_CONFIDENT)
    confident = confidence >= (np.inf if threshold is None else threshold)
    measures: dict[str, Any] = {
        "accuracy": float(right_held_out.mean()),
        **({"accuracy_with_prior": float(right_before.mean())} if len(by_reading) > 1 else {}),
        "nll_before": class_loss(before, truth, 1.0),
        "nll_after": float(-np.log(probability[np.arange(n), truth]).mean()),
        "ece_before": calibration.calibration_error(plain.max(axis=1), right_before),
        "ece_after": calibration.calibration_error(probability.max(axis=1), right_held_out),
        "spread_power": reading[1],
        "kept_at_threshold": int(confident.sum()),
        "right_at_threshold": int(right[confident].sum()),
        "folds": FOLDS,
        **_concept_measures(concept_scores[known], concepts[known], folds_of(n, seed)[known]),
    }
    platts = fit_concepts(concept_scores[known], concepts[known], CONCEPTS)
    return Calibration(
        temperature, threshold, target_accuracy, n, diseases, platts, measures, prior_weight=reading[0]
    )


def _require_enough(num_cases: int) -> None:
    if num_cases < MIN_CASES:
        raise CalibrationError(
            f"{num_cases} pictures with a class are too few to calibrate on; at least {MIN_CASES} are needed"
        )


def _concept_measures(scores: np.ndarray, present: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    """Loss and Brier score of held-out folds, beside those of each concept's frequency in the other folds."""
    truth, fitted, frequencies = [], [], []
    for fold in range(FOLDS):
        here, others = folds == fold, folds != fold
        platts = fit_concepts(scores[others], present[others], CONCEPTS) if others.any() else {}
        for name, platt in platts.items():
            column = CONCEPTS.index(name)
            one = Calibration(1.0, None, 1, 0, {}, {name: platt})
            fitted += [one.concept_probability(name, score) for score in scores[here, column].tolist()]
            frequencies += [float(present[others, column].mean())] * int(here.sum())
            truth += present[here, column].tolist()
    measures: dict[str, Any] = {"num_with_concepts": len(scores), "num_concept_judgements": len(truth)}
    if truth and 0 < sum(truth) < len(truth):
        for name, p in (("share_alone", frequencies), ("after", fitted)):
            measures[f"concept_nll_{name}"] = float(log_loss(truth, p, labels=[False, True]))
            measures[f"concept_brier_{name}"] = float(brier_score_loss(truth, p))
    return measures


# --- records -------------------------------------------------------------------------------------------


def require_held_out(records: Manifest, path: str, card: dict[str, Any], allowed: bool = False) -> list[str]:
    """Refuse images that a checkpoint was trained on or is evaluated on, or that cannot be compared with these.

    Args:
        records: to calibrate on.
        path: of the checkpoint.
        card: the checkpoint's.
        allowed: return a note instead of refusing.

    Returns:
        Sentences on what could not be compared, and on what is shared but allowed.

    Raises:
        CalibrationError: some are shared, or nothing could be compared with the training.
    """
    seen = checkpoint.load_seen(path, card)
    trained = check_cases(records, seen, *checkpoint.training_manifests(card))
    notes, problem = list(trained.uncompared), ""
    if trained.shared:
        problem = f"the training shares records with the manifest: {'; '.join(trained.shared)}"
    elif trained.nothing:
        problem = f"overlap with the training cannot be checked: {'; '.join(notes)}"
    for name in card.get("config", {}).get("data", {}).get("evaluation", []):
        if not Path(name).exists():
            notes.append(f"overlap with the evaluation's {name} was not checked: it does not exist")
            continue
        evaluated = compare(
            Keys(read_manifest(name)), Keys(records), "the manifest", f"the evaluation's {name}"
        )
        notes += evaluated.uncompared
        if evaluated.shared and not problem:
            problem = f"the manifest shares records with the evaluation's {name}: {evaluated.shared[0]}"
    if problem and not allowed:
        raise CalibrationError(f"{problem}; calibrate on held-out pictures, or add --allow-overlap")
    return [*([f"{problem} (allowed by --allow-overlap)"] if problem else []), *notes]


def score_records(
    model: SkinGPT4,
    config: Config,
    records: Manifest,
    queries: Tensor,
    diseases: dict[str, str],
    scorer: DiseaseScorer | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each image, with a progress bar: of the 48 concepts, and of all diseases or else the 15 classes.

    Where no concepts are known they are zeros.
    """
    rows, concept_rows = [], []
    bar = tqdm(records, desc="scoring pictures", unit="picture")
    for record, image_queries in zip(bar, queries, strict=True):
        shown, with_concepts = image_queries[None].float(), record.concepts is not None
        if scorer is None:
            scores, concepts = score_images(model, config, shown, diseases, with_concepts)
        else:
            scores = scorer.scores([shown])[0]
            concepts = score_concepts(model, config, shown) if with_concepts else np.zeros(len(CONCEPTS))
        rows.append(scores)
        concept_rows.append(concepts)
    return np.stack(rows), np.stack(concept_rows)


def calibrate(
    model: SkinGPT4,
    config: Config,
    records: Manifest,
    queries: Tensor,
    target_accuracy: float = 1 - calibration.TARGET_RISK,
    closed_set: ClosedSet | None = None,
) -> Calibration:
    """Score the images that have a class, and fit.

    Args:
        model: the network with the checkpoint's projection.
        config: its configuration.
        records: held-out records; those without a class are left out.
        queries: (n, q, d) of all of them.
        target_accuracy: of the confident answers.
        closed_set: the diseases that are scored; None for one of each class.

    Raises:
        CalibrationError: too few images with a class.
    """
    rows = [row for row, record in enumerate(records) if record.class_name in CLASSES]
    _require_enough(len(rows))  # before minutes of scoring
    chosen: Any = [records[row] for row in rows]
    present = np.array([[c in (record.concepts or ()) for c in CONCEPTS] for record in chosen])
    truth = np.array([CLASSES.index(record.class_name) for record in chosen])
    known = np.array([record.concepts is not None for record in chosen])
    malignant = [alarm.is_malignant(record.disease, record.class_name) for record in chosen]
    if closed_set is None:
        diseases = scored_diseases(chosen)
        scores, concept_scores = score_records(model, config, chosen, queries[rows], diseases)
        fitted = fit(scores, truth, concept_scores, present, known, diseases, target_accuracy)
        by_class = fitted.class_probabilities(scores)
        return replace(fitted, alarms=alarm.class_alarms(by_class, truth, malignant))
    scorer, diseases = DiseaseScorer(model, config.prompt, closed_set), closed_set.representatives
    scores, concept_scores = score_records(model, config, chosen, queries[rows], diseases, scorer)
    by_reading = read_in_all_ways(closed_set, scores)
    fitted = fit(by_reading, truth, concept_scores, present, known, diseases, target_accuracy)
    prior, spread = scores.mean(0), spread_of(scores, fitted.measures["spread_power"])
    by_disease = closed_set.probabilities(
        scores / spread, prior / spread, fitted.prior_weight, fitted.temperature
    )
    return replace(
        fitted,
        closed_set=closed_set.to_rows(),
        prior=prior.tolist(),
        spread=spread.tolist(),
        alarms=alarm.disease_alarms(by_disease, closed_set, malignant),
    )


def report(fitted: Calibration) -> str:
    """A calibration and its measures, for people."""
    m = fitted.measures
    lines = [
        f"n = {fitted.n} pictures, {m['accuracy']:.1%} right; fitted values from {m['folds']} folds",
        f"temperature {fitted.temperature:.2f}: loss {m['nll_before']:.3f} -> {m['nll_after']:.3f} nats, calibration "
        f"error {m['ece_before']:.3f} -> {m['ece_after']:.3f}",
    ]
    if fitted.closed_set is not None:
        lines.append(
            f"{len(fitted.closed_set)} diseases scored; their mean scores taken off with weight "
            f"{fitted.prior_weight:.1f}, divided by their spread to the power {m['spread_power']:g} "
            f"(with neither: {m['accuracy_with_prior']:.1%} right)"
        )
    if fitted.threshold is None:
        lines.append(
            f"no threshold leaves {MIN_CONFIDENT} or more answers of which {fitted.target_accuracy:.0%} are right: "
            "the model will always be called not confident"
        )
    else:
        lines.append(
            f"confident from {fitted.threshold:.3f}: {m['right_at_threshold']} of the {m['kept_at_threshold']} "
            f"confident answers are right (target {fitted.target_accuracy:.0%}; chosen on these same pictures)"
        )
    concepts = f"{len(fitted.concepts)} of {len(CONCEPTS)} concepts, from {m['num_with_concepts']} pictures"
    if "concept_nll_after" in m:
        concepts += f": loss {m['concept_nll_share_alone']:.3f} by frequency -> {m['concept_nll_after']:.3f}"
    return "\n".join([*lines, concepts, *alarm.describe(fitted.alarms)])
