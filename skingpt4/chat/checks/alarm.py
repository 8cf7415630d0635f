"""When skin cancer is among the possibilities: the malignant diseases' probability, and what its warning is worth.

The class "Melanoma, nevi and moles" holds benign moles as well. So where the diseases are scored one by one, the
warning is raised by the sum over the malignant ones. Where only classes are scored, it is raised by each class of
`ALARM_CLASSES`. The threshold is fitted on validation data (`skingpt4 calibrate`) to catch a given fraction of the
malignant cases, and comes with how many it caught, and how often it warned without one. Without such data it is the
fixed one of warnings.yaml. Which diseases are malignant stands in alarm.yaml.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from skingpt4.support.files import read_yaml
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.closed_set import ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES

MALIGNANT = "malignant"  # the sum over all malignant diseases
ALARM_CLASSES = ("malignant_lesions", "melanoma_nevi_moles")
MIN_MALIGNANT = 20  # cases; with fewer a threshold says nothing about the next ones
FOLDS = 5


@dataclass(frozen=True)
class Alarm:
    """A fitted threshold, and what it did on cases of the validation that did not choose it (over folds).

    Attributes:
        threshold: the probability from which the warning is raised.
        target_sensitivity: fraction of the malignant cases that it should catch.
        caught: malignant cases that raised it.
        malignant: all malignant cases.
        false_alarms: other cases that raised it.
        others: all other cases.
    """

    threshold: float
    target_sensitivity: float
    caught: int
    malignant: int
    false_alarms: int
    others: int

    def __post_init__(self) -> None:
        counts = ((self.caught, self.malignant), (self.false_alarms, self.others))
        if not (0 <= self.threshold <= 1) or any(not 0 <= count <= n for count, n in counts):
            raise ValueError("an alarm's threshold or counts")

    @property
    def sensitivity(self) -> tuple[float, float, float]:
        """Fraction of the malignant cases that raised it, with its 95 % interval."""
        return _fraction(self.caught, self.malignant)

    @property
    def false_alarm_rate(self) -> tuple[float, float, float]:
        """Fraction of the other cases that raised it, with its 95 % interval."""
        return _fraction(self.false_alarms, self.others)


@dataclass(frozen=True)
class AlarmReading:
    """What one case did; `kind` is MALIGNANT or a class, `measured` None for a threshold that was not fitted."""

    kind: str
    probability: float
    threshold: float
    measured: Alarm | None = None

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AlarmReading:
        """The inverse of `to_dict`."""
        measured = row["measured"]
        if measured is not None:
            measured = Alarm(**{field.name: measured[field.name] for field in fields(Alarm)})
        return cls(row["kind"], row["probability"], row["threshold"], measured)

    @property
    def raised(self) -> bool:
        """Whether the warning is shown."""
        return self.probability >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        measured = None
        if self.measured is not None:
            rates = {
                "sensitivity": self.measured.sensitivity,
                "false_alarm_rate": self.measured.false_alarm_rate,
            }
            measured = asdict(self.measured) | {
                name: {"value": value, "low": low, "high": high} for name, (value, low, high) in rates.items()
            }
        return {
            "kind": self.kind, "probability": round(self.probability, 4), "threshold": self.threshold,
            "raised": self.raised, "measured": measured,
        }  # fmt: skip


def _fraction(count: int, n: int) -> tuple[float, float, float]:
    """Count / n with its Wilson interval (Wilson 1927)."""
    if not n:
        return math.nan, 0.0, 1.0
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return count / n, float(interval.low), float(interval.high)


# --- which diseases ------------------------------------------------------------------------------------


@functools.cache
def _table() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("alarm.yaml"))


def alarm_class(disease: str, class_name: str | None) -> str | None:
    """The class whose warning a disease raises; None for a disease that is not malignant.

    Args:
        disease: as the training or a record spells it.
        class_name: its class, if it is known.
    """
    table, term = _table(), taxonomy.listed_disease(disease)
    usual = disease.casefold() if term is None else term.usual
    if usual in table["melanoma_nevi_moles"] or (term is None and table["word"] in usual):
        return "melanoma_nevi_moles"
    if class_name == table["complete_class"] or usual in table["malignant_lesions"]:
        return "malignant_lesions"
    return None


def is_malignant(disease: str | None, class_name: str | None) -> bool | None:
    """Whether a record's diagnosis is malignant; None where its class holds both and it names no disease."""
    if disease is not None:
        return alarm_class(disease, class_name) is not None
    return None if class_name == "melanoma_nevi_moles" else class_name == _table()["complete_class"]


# --- raising and fitting it ----------------------------------------------------------------------------


def alarm_readings(
    by_class: Mapping[str, float],
    scored_diseases: bool,
    fitted: Mapping[str, Alarm],
    default: Mapping[str, float],
) -> tuple[AlarmReading, ...]:
    """What one picture did.

    Args:
        by_class: probability of each class of ALARM_CLASSES, or of its malignant diseases.
        scored_diseases: the latter; then their sum counts.
        fitted: the alarms of a calibration.
        default: by class, the threshold where none was fitted.
    """
    sums = {MALIGNANT: sum(by_class.values())} if scored_diseases else dict(by_class)
    lowest = {MALIGNANT: min(default.values())} | dict(default)
    return tuple(
        AlarmReading(kind, p, fitted[kind].threshold if kind in fitted else lowest[kind], fitted.get(kind))
        for kind, p in sums.items()
    )


def raised_classes(readings: Sequence[AlarmReading], by_class: Mapping[str, float]) -> tuple[str, ...]:
    """The classes whose warning is shown; of a sum those that reach the threshold themselves, else the larger one."""
    raised = [reading for reading in readings if reading.raised]
    if not raised or raised[0].kind != MALIGNANT:
        return tuple(reading.kind for reading in raised)
    alone = tuple(name for name, p in by_class.items() if p >= raised[0].threshold)
    return alone or (max(by_class, key=lambda name: by_class[name]),)


def fit_alarm(probability: np.ndarray, malignant: np.ndarray, seed: int = 0) -> Alarm | None:
    """The highest threshold that catches the target fraction of the malignant cases; None with too few of them.

    The counts are of folds that did not choose their threshold.

    Args:
        probability: (n,) that raises it.
        malignant: (n,) bool.
        seed: of the folds.
    """
    if malignant.sum() < MIN_MALIGNANT:
        return None
    target = float(_table()["target_sensitivity"])
    folds = np.random.default_rng(seed).permutation(len(malignant)) % FOLDS
    raised = np.zeros(len(malignant), bool)
    for fold in range(FOLDS):
        here = folds == fold
        if (malignant & ~here).any():
            raised[here] = probability[here] >= _threshold(probability[malignant & ~here], target)
    return Alarm(
        _threshold(probability[malignant], target), target,
        int((raised & malignant).sum()), int(malignant.sum()),
        int((raised & ~malignant).sum()), int((~malignant).sum()),
    )  # fmt: skip


def _threshold(of_malignant: np.ndarray, target: float) -> float:
    """The highest value that at least the target fraction of these reaches."""
    ordered = np.sort(of_malignant)[::-1]
    return float(ordered[math.ceil(target * len(ordered)) - 1])


def disease_alarms(
    probabilities: np.ndarray, closed_set: ClosedSet, malignant: Sequence[bool | None]
) -> dict[str, Alarm]:
    """The alarm of the malignant diseases' sum, from (n, diseases) probabilities."""
    counted = [alarm_class(d.name, d.class_name) is not None for d in closed_set.diseases]
    known = np.array([each is not None for each in malignant])
    fitted = fit_alarm(
        probabilities[known][:, counted].sum(axis=1), np.array([bool(each) for each in malignant])[known]
    )
    return {} if fitted is None else {MALIGNANT: fitted}


def class_alarms(
    probabilities: np.ndarray, truth: np.ndarray, malignant: Sequence[bool | None]
) -> dict[str, Alarm]:
    """The alarm of each class that holds malignant diseases, from (n, 15) probabilities."""
    known = np.array([each is not None for each in malignant])
    is_malignant = np.array([bool(each) for each in malignant])[known]
    alarms: dict[str, Alarm] = {}
    for name in ALARM_CLASSES:
        column = CLASSES.index(name)
        fitted = fit_alarm(probabilities[known, column], is_malignant & (truth[known] == column))
        if fitted is not None:
            alarms[name] = fitted
    return alarms


def describe(alarms: Mapping[str, Alarm]) -> list[str]:
    """Fitted alarms and their measures, one line each, for people."""
    lines = []
    for kind, alarm in alarms.items():
        (caught, low, high), (false, false_low, false_high) = alarm.sensitivity, alarm.false_alarm_rate
        lines.append(
            f"skin cancer warning ({kind.replace('_', ' ')}) from {alarm.threshold:.3f}: raised for "
            f"{alarm.caught} of {alarm.malignant} malignant cases ({caught:.1%}, 95 % interval {low:.1%} to "
            f"{high:.1%}) and for {alarm.false_alarms} of {alarm.others} others ({false:.1%}, {false_low:.1%} to "
            f"{false_high:.1%}), over folds"
        )
    few = f"skin cancer warning: fewer than {MIN_MALIGNANT} malignant cases, so its threshold is not fitted"
    return lines or [few]
