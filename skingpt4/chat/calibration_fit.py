"""Fit what makes probabilities of a model's scores, on pictures it was not trained on.

    skingpt4 calibrate --checkpoint runs/quickstart/step2 \\
        --manifest runs/phantoms/validation/manifest.jsonl

A temperature for the 15 classes (Guo et al. 2017, arXiv 1706.04599), one slope and an intercept each for the
concepts (Platt 1999), and the lowest confidence whose answers are right as often as is asked. Written as
calibration.json into the checkpoint. Give held-out validation manifests; those of the evaluation are refused, for its
figures would flatter.
Research software, not a medical device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from skingpt4.chat import calibration
from skingpt4.chat.calibration import Calibration, CalibrationError, Platt, class_loss
from skingpt4.taxonomy.taxonomy import CONCEPTS

FOLDS = 5
LEAST_CASES = 30  # of a calibration
LEAST_KEPT = 10  # at a threshold: with fewer, the target is reached by chance
LEAST_OF_CONCEPT = 5  # pictures with it, and without it
TEMPERATURES = (0.05, 50.0)


# --- fitting -------------------------------------------------------------------------------------------


def fit_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least loss for (n, classes) log-likelihoods and true classes (n,), within bounds."""
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda t: class_loss(scores, truth, float(np.exp(t))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def fit_concepts(scores: np.ndarray, present: np.ndarray, names: Sequence[str]) -> dict[str, Platt]:
    """One slope for all concepts and an intercept for each; those that are rare in the data are left out.

    A shared slope, since most concepts have few pictures; none at all where it is not positive: the scores then say
    nothing about what is seen.

    Args:
        scores: (n, concepts) log-likelihoods.
        present: (n, concepts) bool.
        names: of the concepts.
    """
    counts = present.sum(axis=0)
    kept = np.flatnonzero((counts >= LEAST_OF_CONCEPT) & (len(present) - counts >= LEAST_OF_CONCEPT))
    if not len(kept):
        return {}
    centre, spread = scores[:, kept].mean(axis=0), float(scores[:, kept].std(axis=0).mean()) or 1.0
    scaled = (scores[:, kept] - centre) / spread
    each = np.tile(np.eye(len(kept)), (len(scores), 1))
    rows = np.column_stack([scaled.ravel(), each])
    fit = LogisticRegression(C=10.0, fit_intercept=False, max_iter=1000).fit(rows, present[:, kept].ravel())
    slope, *intercepts = fit.coef_[0].tolist()
    if slope <= 0:
        return {}
    return {
        names[k]: Platt(slope / spread, start - slope * middle / spread, int(counts[k]))
        for k, start, middle in zip(kept.tolist(), intercepts, centre.tolist(), strict=True)
    }


def fit(
    scores: np.ndarray,
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
        scores: (n, 15) log-likelihoods in the order of `diseases`.
        truth: (n,) number of the true class.
        concept_scores: (n, 48) log-likelihoods.
        concepts: (n, 48) bool.
        known: (n,) whether a picture's concepts are known.
        diseases: what stood for each class.
        target_accuracy: of the answers that are kept.
        seed: of the folds.

    Raises:
        CalibrationError: fewer than LEAST_CASES pictures, or scores that are no numbers.
    """
    n = len(truth)
    if n < LEAST_CASES:
        raise CalibrationError(
            f"{n} pictures with a class are too few to calibrate on; at least {LEAST_CASES}"
        )
    if not (np.isfinite(scores).all() and np.isfinite(concept_scores).all()):
        raise CalibrationError("the model gives scores that are no numbers; it cannot be calibrated")
    folds = np.random.default_rng(seed).permutation(n) % FOLDS
    temperature, probability = fit_temperature(scores, truth), np.zeros_like(scores)
    for fold in range(FOLDS):
        apart = Calibration(
            fit_temperature(scores[folds != fold], truth[folds != fold]), None, 1, n, diseases, {}
        )
        probability[folds == fold] = apart.class_probabilities(scores[folds == fold])
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    plain = Calibration(1.0, None, target_accuracy, n, diseases, {})
    confidence = Calibration(temperature, None, 1, n, diseases, {}).class_probabilities(scores).max(axis=1)
    threshold = calibration.choose_threshold(confidence, right, 1 - target_accuracy, LEAST_KEPT)
    kept = confidence >= (np.inf if threshold is None else threshold)
    measures: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "nll_before": class_loss(scores, truth, 1.0),
        "nll_after": float(-np.log(probability[np.arange(n), truth]).mean()),
        "ece_before": calibration.calibration_error(plain.class_probabilities(scores).max(axis=1), right),
        "ece_after": calibration.calibration_error(probability.max(axis=1), right),
        "kept_at_threshold": int(kept.sum()),
        "right_at_threshold": int(right[kept].sum()),
        "folds": FOLDS,
        **_concept_measures(concept_scores[known], concepts[known], folds[known]),
    }
    platts = fit_concepts(concept_scores[known], concepts[known], CONCEPTS)
    return Calibration(temperature, threshold, target_accuracy, n, diseases, platts, measures)


def _concept_measures(scores: np.ndarray, present: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    """Loss and Brier score of held-out folds, beside those of each concept's share in the other folds."""
    truth, fitted, shares = [], [], []
    for fold in range(FOLDS):
        here, apart = folds == fold, folds != fold
        platts = fit_concepts(scores[apart], present[apart], CONCEPTS) if apart.any() else {}
        for name, platt in platts.items():
            column = CONCEPTS.index(name)
            one = Calibration(1.0, None, 1, 0, {}, {name: platt})
            fitted += [one.concept_probability(name, score) for score in scores[here, column].tolist()]
            shares += [float(present[apart, column].mean())] * int(here.sum())
            truth += present[here, column].tolist()
    found: dict[str, Any] = {"num_with_concepts": len(scores), "num_concept_judgements": len(truth)}
    if truth and 0 < sum(truth) < len(truth):
        for name, p in (("share_alone", shares), ("after", fitted)):
            found[f"concept_nll_{name}"] = float(log_loss(truth, p, labels=[False, True]))
            found[f"concept_brier_{name}"] = float(brier_score_loss(truth, p))
    return found


# --- pictures ------------------------------------------------------------------------------------------


def report(found: Calibration) -> str:
    """What a calibration found, for people."""
    m = found.measures
    lines = [
        f"n = {found.n} pictures, {m['accuracy']:.1%} right; fitted values from {m['folds']} folds",
        f"temperature {found.temperature:.2f}: loss {m['nll_before']:.3f} -> {m['nll_after']:.3f} nats, calibration "
        f"error {m['ece_before']:.3f} -> {m['ece_after']:.3f}",
    ]
    if found.threshold is None:
        lines.append(
            f"no threshold keeps {LEAST_KEPT} or more answers of which {found.target_accuracy:.0%} are right: the "
            "model will always be called not confident"
        )
    else:
        lines.append(
            f"confident from {found.threshold:.3f}: {m['right_at_threshold']} of the {m['kept_at_threshold']} "
            f"answers that are kept are right (target {found.target_accuracy:.0%}; chosen on these very pictures)"
        )
    told = f"{len(found.concepts)} of {len(CONCEPTS)} concepts, from {m['num_with_concepts']} pictures"
    if "concept_nll_after" in m:
        told += f": loss {m['concept_nll_share_alone']:.3f} by share alone -> {m['concept_nll_after']:.3f}"
    return "\n".join([*lines, told])
