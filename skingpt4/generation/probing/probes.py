"""Probes: simple classifiers on fixed features, which show how much of a label the features hold.

Two are fitted: multinomial logistic regression on standardised features (the linear probe of CLIP, arXiv 2103.00020,
section 3.2), and k nearest neighbours by cosine similarity, whose votes are weighted by exp(similarity / 0.07) (the
k-NN evaluation of DINO, arXiv 2104.14294, appendix; its temperature). The strength C and the number k are chosen by
cross-validated log loss on the training alone, in folds that never divide a patient or case.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from statsmodels.stats.proportion import proportion_confint
from threadpoolctl import threadpool_limits

from skingpt4.records.record import Record
from skingpt4.support.errors import UserError

STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # of C: from almost no fit to almost no penalty
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
TEMPERATURE = 0.07
MAX_FOLDS = 5
MAX_ITERATIONS = 2000
SMALL = 2_000_000  # numbers; with fewer, threads that share the sums make them several times as slow
FLOOR = float(np.log(1e-12))  # the log-probability of a class of which the training has no example


class ProbingError(UserError):
    """A training that no probe can be fitted on; the message says why."""


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    `settings` is what JSON can hold of it: the kind, what was chosen and the log loss of each candidate, the folds,
    the number of examples and classes.
    """

    classes: tuple[str, ...]  # those of the training, sorted
    settings: dict[str, Any]
    predict: Callable[[np.ndarray], np.ndarray]  # (n, d) -> log-probabilities (n, classes)

    def log_probabilities(self, features: np.ndarray, classes: Sequence[str] | None = None) -> np.ndarray:
        """Log-probabilities (n, classes).

        Args:
            features: (n, d) as in the training.
            classes: the columns; by default those of the training. One that the training lacks has FLOOR.
        """
        own = self.predict(np.asarray(features, dtype=np.float64))
        if classes is None:
            return own
        columns = [self.classes.index(name) if name in self.classes else None for name in classes]
        missing = np.full(len(own), FLOOR)
        return np.stack([missing if column is None else own[:, column] for column in columns], axis=1)


@dataclass(frozen=True)
class Accuracy:
    """A number of right answers, with its Wilson 95 % interval."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """The fraction."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, which stays sensible at 0 of n and n of n."""
        low, high = proportion_confint(self.right, self.n, method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, float]:
        """For JSON, in the words of the evaluation's intervals."""
        low, high = self.interval
        return {"value": self.value, "low": low, "high": high, "n": self.n}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.0f} to {100 * high:.0f}, n = {self.n})"


def group_of(record: Record, place: int) -> str:
    """What a fold must not divide: the patient, else the case, else the picture.

    Args:
        record: of the training.
        place: its number, which stands for it where it has no name.
    """
    for kind in ("patient_id", "case_id", "sha256"):
        if value := getattr(record, kind):
            return f"{kind} {value}"
    return f"row {place}"


def fit_logistic(
    features: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """Multinomial logistic regression with an L2 penalty, C chosen by cross-validation.

    Args:
        features: (n, d).
        labels: the class of each row.
        groups: rows of one group are in one fold, see `group_of`.
        seed: of the folds.
        strengths: candidates for C, the inverse of the penalty.

    Raises:
        ProbingError: fewer than two classes or groups, or features that are not finite.
    """

    def fit(rows: np.ndarray, names: np.ndarray, strength: float) -> _Fitted:
        scaler = StandardScaler().fit(rows)
        basis = _span(scaler.transform(rows))
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
        limits = threadpool_limits(1 if rows.size < SMALL else None)
        with limits, warnings.catch_warnings():
            # With hardly a penalty a fit may not converge: its log loss speaks for it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaler.transform(rows) @ basis, names)

        def predict(new: np.ndarray) -> np.ndarray:
            logits = model.decision_function(scaler.transform(new) @ basis)
            if logits.ndim == 1:  # of two classes only the second has one
                logits = np.stack([np.zeros_like(logits), logits], axis=1)
            return log_softmax(logits, axis=1)

        return model.classes_, predict

    return _chosen("logistic", "C", fit, tuple(strengths), features, labels, groups, seed)


def fit_neighbours(
    features: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    seed: int = 0,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> Probe:
    """K nearest neighbours by cosine similarity, k chosen by cross-validation.

    The weighted votes p of k neighbours are mixed with the training's frequencies f, (k p + f) / (k + 1), so that no
    class of the training has probability 0.

    Args:
        features: (n, d).
        labels: the class of each row.
        groups: rows of one group are in one fold, see `group_of`.
        seed: of the folds.
        neighbours: candidates for k; those above the size of a fold's training are left out.

    Raises:
        ProbingError: as of `fit_logistic`.
    """

    def fit(rows: np.ndarray, names: np.ndarray, count: int) -> _Fitted:
        votes = KNeighborsClassifier(count, metric="cosine", algorithm="brute", weights=_weights)
        model = make_pipeline(Normalizer(), votes).fit(rows, names)
        frequencies = np.unique(names, return_counts=True)[1] / len(names)

        def predict(new: np.ndarray) -> np.ndarray:
            return np.log((count * model.predict_proba(new) + frequencies) / (count + 1))

        return model.classes_, predict

    fits = [count for count in neighbours if count <= len(labels) // 2] or [1]
    return _chosen("neighbours", "k", fit, tuple(fits), features, labels, groups, seed)


def accuracy(log_probabilities: np.ndarray, classes: Sequence[str], labels: Sequence[str]) -> Accuracy:
    """How many rows have their own class as the most probable one.

    Args:
        log_probabilities: (n, classes).
        classes: of the columns.
        labels: the class of each row.
    """
    best = np.asarray(log_probabilities).argmax(axis=1)
    return Accuracy(sum(classes[b] == label for b, label in zip(best, labels, strict=True)), len(labels))


_Fitted = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]  # the sorted classes, and the prediction


def _span(rows: np.ndarray) -> np.ndarray:
    """Orthonormal directions (d, at most n) that hold all of some rows (n, d).

    The penalised regression has no weight outside of them, so its solution there is the same, and many more features
    than rows cost no more than as many as rows.
    """
    count, width = rows.shape
    return np.eye(width) if width <= count else np.linalg.qr(rows.T)[0]


def _weights(distances: np.ndarray) -> np.ndarray:
    """exp(similarity / TEMPERATURE), up to a factor for each row, so that nothing overflows."""
    nearest = distances.min(axis=1, keepdims=True)
    return np.exp((nearest - distances) / TEMPERATURE)


def _chosen(
    kind: str,
    parameter: str,
    fit: Callable[[np.ndarray, np.ndarray, Any], _Fitted],
    candidates: tuple[Any, ...],
    features: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    seed: int,
) -> Probe:
    """The probe with the best candidate, fitted on everything."""
    rows, names = np.asarray(features, dtype=np.float64), np.asarray(labels)
    _check(rows, names, groups)
    most = int(np.unique(names, return_counts=True)[1].max())  # of one class; sklearn takes no more folds
    folds = min(MAX_FOLDS, len(set(groups)), max(2, most))
    with warnings.catch_warnings():  # sklearn warns of classes with fewer examples than folds
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = [
            (train, test)
            for train, test in splitter.split(rows, names, groups)
            if len(test) and len(set(names[train])) > 1
        ]
    if not splits:
        raise ProbingError(
            f"cross-validation needs two classes in each part of the training, which its {len(set(groups))} "
            "patients or cases do not allow; name a larger training manifest"
        )
    candidates = tuple(c for c in candidates if parameter != "k" or c <= min(len(t) for t, _ in splits))
    losses = {}
    # A single candidate needs no choice, and a fit takes seconds.
    for candidate in candidates if len(candidates) > 1 else ():
        total = 0.0
        for train, test in splits:
            own, predict = fit(rows[train], names[train], candidate)
            probe = Probe(tuple(own), {}, predict)
            log_probs = probe.log_probabilities(rows[test], sorted(set(names)))
            places = np.searchsorted(sorted(set(names)), names[test])
            total -= float(log_probs[np.arange(len(test)), places].sum())
        losses[candidate] = total / sum(len(test) for _, test in splits)
    best = min(
        candidates, key=lambda candidate: losses.get(candidate, 0.0)
    )  # of equal ones the first, the simplest
    own, predict = fit(rows, names, best)
    settings = {
        "kind": kind,
        parameter: best,
        "log_loss": {f"{candidate:g}": round(loss, 4) for candidate, loss in losses.items()},
        "folds": len(splits),
        "num_examples": len(names),
        "num_groups": len(set(groups)),
        "num_features": rows.shape[1],
        "num_classes": len(own),
        "seed": seed,
    }
    return Probe(tuple(str(name) for name in own), settings, predict)


def _check(features: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> None:
    if features.ndim != 2 or not len(features) == len(labels) == len(groups):
        raise ValueError(f"features {features.shape} of {len(labels)} labels and {len(groups)} groups")
    if not np.isfinite(features).all():
        raise ProbingError(
            "the features hold numbers that are not finite; the encoder overflows, try float32"
        )
    if len(set(labels)) < 2:
        raise ProbingError(f"a probe needs two classes, the training has {len(set(labels))}")
    if len(set(labels)) == len(labels):
        raise ProbingError("a probe needs more than one example of a class, the training has one of each")
    if len(set(groups)) < 2:
        raise ProbingError("a probe needs two patients or cases, the training has one")
