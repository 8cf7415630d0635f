"""Does the likelihood of the chosen class say how often it is right, and what may be left unanswered?

The probability of a class is the softmax over the closed set's summed log-likelihoods, at temperature 1: a
distribution among the 15 sentences alone, not over all that a model could say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from eval.measures.intervals import (
    RESAMPLES,
    Line,
    best_class,
    case_draws,
    percentile_interval,
    proportion,
    ratio_interval,
)
from skingpt4.chat.calibration import TARGET_RISK, choose_threshold, equal_mass_bins, risks_by_coverage

FOLDS = 5
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25)


def probabilities(lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities (n, classes), confidence of the best class (n,), whether it is right (n,) as 0 and 1), fp64."""
    names = list(lines[0]["class_scores"])
    scores = np.array([[line["class_scores"][name] for name in names] for line in lines], dtype=np.float64)
    right = np.array([best_class(line) == line["class"] for line in lines], dtype=np.float64)
    p = softmax(scores, axis=1)
    return p, p.max(axis=1), right


def expected_error(
    confidence: np.ndarray, right: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Expected calibration error over equal-mass bins (Naeini et al. 2015; equal mass: Nixon et al. 2019).

    It is above 0 by chance alone, so the same error of a perfectly calibrated model with these confidences is given
    too: the outcomes are drawn with the stated confidence (consistency resampling, Broecker and Smith 2007).

    Args:
        confidence: (n,) probability of the answer given.
        right: (n,) 0 or 1.
        seed: of the draws.
        resamples: number of draws.

    Returns:
        `ece` (the bootstrap keeps each case's bin), `ece_if_calibrated` (mean and 95 % range of the simulation), `p`
        (share of simulations with an error at least as large) and `bins`: confidence, accuracy (Wilson), n, low
        and high edge of each.
    """
    n, bins = len(confidence), equal_mass_bins(confidence)
    member = np.zeros((n, len(bins)))
    for number, part in enumerate(bins):
        member[part, number] = 1

    def error(signed: np.ndarray) -> np.ndarray:
        return np.abs(signed).sum(axis=-1) / n

    gaps = member * (right - confidence)[:, None]
    value = float(error(gaps.sum(axis=0)))
    drawn = error(case_draws(n, resamples, seed) @ gaps)
    outcomes = np.random.default_rng(seed).random((resamples, n)) < confidence
    simulated = error((outcomes - confidence) @ member)
    return {
        "ece": percentile_interval(value, drawn, n).to_dict(),
        "ece_if_calibrated": percentile_interval(float(simulated.mean()), simulated, n).to_dict(),
        "p": float((1 + (simulated >= value - 1e-12).sum()) / (1 + resamples)),
        "bins": [
            {
                "confidence": float(confidence[part].mean()),
                "edges": [float(confidence[part].min()), float(confidence[part].max())],
                "accuracy": proportion(int(right[part].sum()), len(part)).to_dict(),
                "n": len(part),
            }
            for part in bins
        ],
    }


def selective_risk(
    confidence: np.ndarray, right: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Share of wrong answers among those given, as the least confident are left unanswered.

    AURC is the mean risk over coverage (Geifman and El-Yaniv 2017); cases of equal confidence stay together, so
    a model that is equally sure of everything has its plain error rate.

    Returns:
        `aurc`, `curve` (`coverage`, `risk`, `threshold`, one entry for each confidence, at most 200), `at` (for each
        coverage of COVERAGES: `threshold`, `coverage` and `risk` with a Wilson interval).
    """
    n = len(confidence)
    order, starts, coverage, risk = risks_by_coverage(confidence, right)
    sizes = np.diff(np.append(0, coverage))
    weights = case_draws(n, resamples, seed)[:, order]
    answered = np.add.reduceat(weights, starts, axis=1)
    wrong = np.add.reduceat(weights * (1 - right[order]), starts, axis=1)
    sums = np.cumsum(answered, axis=1)
    risks = np.divide(np.cumsum(wrong, axis=1), sums, out=np.zeros_like(sums), where=sums > 0)
    drawn = (risks * answered).sum(axis=1) / n
    shown = np.unique(np.linspace(0, len(risk) - 1, min(len(risk), 200)).round().astype(int))
    at = []
    for target in COVERAGES:
        place = min(int(np.searchsorted(coverage, target - 1e-9)), len(coverage) - 1)
        cases = round(coverage[place] * n)
        at.append(
            {
                "threshold": float(confidence[order][starts[place]]),
                "coverage": float(coverage[place]),
                "risk": proportion(round(risk[place] * cases), cases).to_dict(),
            }
        )
    return {
        "aurc": percentile_interval(float((risk * sizes).sum()), drawn, n).to_dict(),
        "curve": {
            "coverage": coverage[shown].tolist(),
            "risk": risk[shown].tolist(),
            "threshold": confidence[order][starts][shown].tolist(),
        },
        "at": at,
    }


def not_confident(
    confidence: np.ndarray, right: np.ndarray, target: float = TARGET_RISK, seed: int = 0
) -> dict[str, Any]:
    """A threshold below which an answer is called 'not confident', and what it would do to new cases.

    `coverage` and `risk` are of thresholds chosen on four fifths of the cases and used on the last, over all five
    (the risk at a threshold chosen on the same cases would look better than it is).

    Returns:
        `target_risk`, `threshold` (from all cases; None: no threshold reaches the target), `coverage`, `risk` (None
        where nothing is answered).
    """
    n = len(confidence)
    folds = np.random.default_rng(seed).permutation(n) % min(FOLDS, n)
    answered = np.zeros(n, dtype=bool)
    for fold in range(FOLDS if n > 1 else 0):
        others = folds != fold
        limit = choose_threshold(confidence[others], right[others], target)
        if limit is not None:
            answered |= ~others & (confidence >= limit)
    wrong = 1 - right[answered]
    return {
        "target_risk": target,
        "threshold": choose_threshold(confidence, right, target),
        "coverage": proportion(len(wrong), n).to_dict(),
        "risk": proportion(int(wrong.sum()), len(wrong)).to_dict() if len(wrong) else None,
    }


def calibration(lines: Sequence[Line]) -> dict[str, Any]:
    """All of the above for an arm, with mean confidence, its excess over accuracy, and the Brier score.

    The Brier score is the sum over classes of squared differences (0 best, 2 worst; Brier 1950).
    """
    p, confidence, right = probabilities(lines)
    truth = np.array([[name == line["class"] for name in line["class_scores"]] for line in lines])
    return {
        "probability": "softmax over the closed set's summed log-likelihoods, temperature 1",
        "num_bins": len(equal_mass_bins(confidence)),
        "mean_confidence": ratio_interval(confidence).to_dict(),
        "overconfidence": ratio_interval(confidence - right).to_dict(),
        "brier": ratio_interval(((p - truth) ** 2).sum(axis=1)).to_dict(),
        **expected_error(confidence, right),
        "selective": selective_risk(confidence, right),
        "not_confident": not_confident(confidence, right),
    }
