"""What a model's scores are worth: temperature, threshold, and the file beside a checkpoint that holds them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

from skingpt4.chat.checks.alarm import Alarm
from skingpt4.checkpoints import checkpoint
from skingpt4.support.errors import UserError
from skingpt4.support.files import file_sha256, write_text
from skingpt4.support.parse import parse_json
from skingpt4.support.regular import MAX_TEXT, read_regular
from skingpt4.taxonomy.closed_set import ClosedSet

NAME, FORMAT = "calibration.json", 1
NUM_BINS = 10
TARGET_RISK = 0.2  # fraction of wrong answers that a threshold may leave among the confident ones


class CalibrationError(UserError):
    """A calibration that cannot be made or used; the message says why."""


@dataclass(frozen=True)
class Platt:
    """p = 1 / (1 + exp(-(slope * score + intercept))) for a concept (Platt 1999); n positives of the data."""

    slope: float
    intercept: float
    positives: int


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities, and how good those are.

    Attributes:
        temperature: divides the classes' log-scores.
        threshold: of the cases whose best class reached it, at least the fraction `target_accuracy` was right; None
            if no threshold did that with enough cases.
        target_accuracy: see `threshold`.
        n: number of cases.
        diseases: the disease that was scored for each class; of a closed set the commonest of each.
        concepts: of those with enough cases.
        measures: before and after, of cases that the fit did not see (over folds).
        data: what it was fitted on.
        tensors_sha256: of the checkpoint's tensors.
        closed_set: rows of the diseases whose scores make up those of the classes; None where each class has one
            disease, as with checkpoints that do not know what diseases they were taught.
        prior_weight: of what is said of each disease whatever the picture shows, see `skingpt4.taxonomy.closed_set`.
        prior: that, for each row of `closed_set`: the mean score over the pictures; None in files from before there
            was one, whose weight is that of the scores without a picture.
        spread: what the scores of each row of `closed_set` are divided by, and their prior; None where it is 1.
        alarms: when the warning of skin cancer is raised, see `skingpt4.chat.checks.alarm`; empty where the data
            had too few malignant cases, and in files from before there were any.
    """

    temperature: float
    threshold: float | None
    target_accuracy: float
    n: int
    diseases: dict[str, str]
    concepts: dict[str, Platt]
    measures: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tensors_sha256: str | None = None
    closed_set: list[dict[str, Any]] | None = None
    prior_weight: float = 0.0
    alarms: dict[str, Alarm] = field(default_factory=dict)
    prior: list[float] | None = None
    spread: list[float] | None = None

    def class_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (..., 15) among the classes of log-likelihoods (..., 15)."""
        return softmax(np.asarray(scores, np.float64) / self.temperature, axis=-1)

    def concept_probability(self, name: str, score: float) -> float | None:
        """Probability that the concept is present; None if the data had too few images with it."""
        platt = self.concepts.get(name)
        return None if platt is None else float(expit(platt.slope * score + platt.intercept))

    def describe(self) -> str:
        """What it was fitted on, in one line."""
        return f"{self.data.get('manifest', 'unnamed')}, n = {self.n}"


# --- the file ------------------------------------------------------------------------------------------


def path_of(checkpoint_path: str | Path) -> Path:
    """Where a checkpoint's calibration is: in its folder, or beside a MiniGPT-4 `.pth`.

    Raises:
        CheckpointError: no such checkpoint.
    """
    path = checkpoint.find(checkpoint_path)
    return path.with_name(f"{path.name}.{NAME}") if path.is_file() else path / NAME


def weights_sha256(checkpoint_path: str | Path) -> str:
    """The SHA-256 of the checkpoint's tensors."""
    path = checkpoint.find(checkpoint_path)
    return file_sha256(path if path.is_file() else path / checkpoint.TENSORS)


def save(calibration: Calibration, checkpoint_path: str | Path) -> Path:
    """Write a calibration beside its checkpoint, atomically; returns its path."""
    path = path_of(checkpoint_path)
    write_text(path, json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1) + "\n")
    return path


def load(checkpoint_path: str | Path | None) -> Calibration | None:
    """The calibration beside a checkpoint, or None if there is none.

    Raises:
        CheckpointError: no such checkpoint.
        CalibrationError: the file is damaged, or belongs to other weights.
    """
    if checkpoint_path is None or not (path := path_of(checkpoint_path)).is_file():
        return None
    try:
        content = read_regular(path, MAX_TEXT)
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        data = dict(parse_json(content))
        if data.pop("format") != FORMAT:
            raise CalibrationError(f"{path}: has another format; run skingpt4 calibrate again")
        data["concepts"] = {name: Platt(**platt) for name, platt in dict(data["concepts"]).items()}
        data["alarms"] = {name: Alarm(**alarm) for name, alarm in dict(data.get("alarms", {})).items()}
        calibration = Calibration(**data)
        if not (math.isfinite(calibration.temperature) and calibration.temperature > 0):
            raise ValueError("temperature")
        if not 0 <= calibration.prior_weight <= 1:
            raise ValueError("prior_weight")
        if calibration.closed_set is not None:
            ClosedSet.of_rows(calibration.closed_set)
            for values in (calibration.prior, calibration.spread):
                if values is not None and not (
                    len(values) == len(calibration.closed_set) and np.isfinite(values).all()
                ):
                    raise ValueError("prior or spread")
            if calibration.spread is not None and min(calibration.spread) <= 0:
                raise ValueError("spread")
    except (ValueError, KeyError, TypeError):
        raise CalibrationError(f"{path}: is damaged; run skingpt4 calibrate again") from None
    if calibration.tensors_sha256 != weights_sha256(checkpoint_path):
        raise CalibrationError(f"{path}: belongs to other weights; run skingpt4 calibrate again")
    return calibration


# --- measures ------------------------------------------------------------------------------------------


def equal_mass_bins(confidence: np.ndarray, num_bins: int = NUM_BINS) -> list[np.ndarray]:
    """Indices of the cases in each bin, from low to high confidence; sizes differ by at most one, none is empty."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(num_bins, len(confidence)))
    return [part for part in parts if len(part)]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over equal-mass bins (Naeini et al. 2015; equal mass: Nixon et al. 2019)."""
    gaps = [abs(float((right[part] - confidence[part]).sum())) for part in equal_mass_bins(confidence)]
    return sum(gaps) / len(confidence)


def class_loss(scores: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """Mean negative log-probability, in nats, of the true classes (n,) among (n, classes) scores."""
    return float(-log_softmax(scores / temperature, axis=1)[np.arange(len(truth)), truth].mean())


def risks_by_coverage(
    confidence: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(order of falling confidence, starts of runs of equal confidence in it, coverage and risk after each run)."""
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    starts = np.append(0, ends[:-1] + 1)
    return order, starts, (ends + 1) / len(ranked), np.cumsum(1 - right[order])[ends] / (ends + 1)


def choose_threshold(
    confidence: np.ndarray, right: np.ndarray, target: float = TARGET_RISK, min_cases: int = 1
) -> float | None:
    """The lowest confidence from which on at most the fraction `target` of answers is wrong; None if there is none.

    Args:
        confidence: (n,) probability of the answer given.
        right: (n,) 0 or 1.
        target: fraction of wrong answers.
        min_cases: a threshold that fewer cases reach does not count, since a few may be right by chance.
    """
    order, starts, coverage, risk = risks_by_coverage(confidence, right)
    fit = np.flatnonzero((risk <= target) & (coverage * len(confidence) >= min_cases - 0.5))
    return float(confidence[order][starts[fit[-1]]]) if len(fit) else None
