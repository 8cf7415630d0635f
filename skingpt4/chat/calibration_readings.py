"""How the scores of diseases are read: with which weight of their prior, which spread, which temperature.

A temperature for the 15 classes (Guo et al. 2017, arXiv 1706.04599), and where diseases were scored their mean, the
weight of it (the prior of `skingpt4.taxonomy.closed_set`) and their spread.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize_scalar

from skingpt4.chat.calibration import Calibration, class_loss
from skingpt4.taxonomy.closed_set import ClosedSet

FOLDS = 5
TEMPERATURES = (0.05, 50.0)
# How scores are read: the weight of their prior, and the power of their spread that they are divided by.
Reading = tuple[float, float]
PLAIN = (0.0, 0.0)
READINGS = [(weight / 10, power) for power in (0.0, 0.5, 1.0) for weight in range(11)]


def fit_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the lowest loss for (n, classes) log-likelihoods and true classes (n,), within bounds."""
    low, high = np.log(TEMPERATURES)
    minimum = minimize_scalar(
        lambda t: class_loss(scores, truth, float(np.exp(t))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(minimum.x))


def fit_reading(by_reading: Mapping[Reading, np.ndarray], truth: np.ndarray) -> tuple[Reading, float]:
    """(one of READINGS, temperature) with the lowest loss.

    `by_reading` has (n, classes) log-scores for each reading that is tried; truth is (n,) of numbers.
    """
    fitted = {reading: fit_temperature(scores, truth) for reading, scores in by_reading.items()}
    return min(fitted.items(), key=lambda item: class_loss(by_reading[item[0]], truth, item[1]))


def spread_of(scores: np.ndarray, power: float) -> np.ndarray:
    """(diseases,) what scores (n, diseases) are divided by: a power of their standard deviation over the images.

    The longer and the rarer a name, the more nats separate its good from its bad images; divided by this spread, each
    counts alike (z-norm, Auckenthaler et al. 2000, doi 10.1006/dspr.1999.0360). Their median is 1.
    """
    deviations = scores.std(axis=0)
    return np.maximum(deviations / (np.median(deviations) or 1.0), 1e-3) ** power


def read_in_all_ways(closed_set: ClosedSet, scores: np.ndarray) -> dict[Reading, np.ndarray]:
    """(n, classes) log-scores for each of READINGS, of scores (n, diseases) whose mean is the prior."""
    prior = scores.mean(0)  # it does not depend on what is true
    spreads = {power: spread_of(scores, power) for power in {power for _, power in READINGS}}
    return {
        (weight, power): closed_set.class_scores(scores / spreads[power], prior / spreads[power], weight)
        for weight, power in READINGS
    }


def folds_of(n: int, seed: int) -> np.ndarray:
    """(n,) the number of each image's fold."""
    return np.random.default_rng(seed).permutation(n) % FOLDS


def held_out_probabilities(
    by_reading: Mapping[Reading, np.ndarray], truth: np.ndarray, seed: int = 0
) -> np.ndarray:
    """(n, classes) probabilities of each image, by a reading and a temperature fitted on the other folds."""
    folds = folds_of(len(truth), seed)
    probability = np.zeros_like(next(iter(by_reading.values())))
    for fold in range(FOLDS):
        here, others = folds == fold, folds != fold
        reading, temperature = fit_reading({r: each[others] for r, each in by_reading.items()}, truth[others])
        fitted = Calibration(temperature, None, 1, len(truth), {}, {})
        probability[here] = fitted.class_probabilities(by_reading[reading][here])
    return probability
