"""The diseases whose sentences are scored about an image, and how their scores become those of classes.

A class is the sum over its diseases. Let s(d) be the log-probability of disease d's sentence after the image, p(d)
its mean over many images (of a calibration; in older ones the same without any image), and n(d) how many records
taught d. With the weight w of this prior, the score of a class c is

    log sum over d in c of exp(s(d) - w p(d) + w log(n(d) / n(c)))

A calibration may divide s and p by the spread of s (skingpt4/chat/calibration_readings.py).

w = 0 is the law of total probability: the model's own probability of the class. w = 1 scores by how much more likely
this image makes a sentence than images on average do, which takes off that some names are likelier words than others
(surface form competition, Holtzman et al. 2021, arXiv 2104.08315; batch calibration, Zhou et al. 2024, arXiv
2309.17249). What the language model says without an image is a poor prior of a trained model, which is then in
another state (docs/learning.md). Within a class the diseases then count by their share of the training (the mixture
of its diseases), and no class by how many records or diseases it has. A disease that was never taught counts as half
a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.taxonomy import CLASSES, OTHERS

# Where no calibration has fitted the weight: a model that has learned its diseases also has their prior from its
# training, and what the frozen language model says without an image then has nothing to do with it.
UNFITTED_WEIGHT = 0.0
# Sentences that are scored about an image: 300 take seconds on two cores.
MAX_SCORED = 500


@dataclass(frozen=True)
class Disease:
    """A disease as the training spelled it, its class (one of CLASSES, OTHERS, or None) and its number of records."""

    name: str
    class_name: str | None
    records: int


class ClosedSet:
    """The diseases that are scored, in a fixed order.

    Args:
        diseases: at least one of each of the 15 classes; no name twice.

    Raises:
        ValueError: a class has no disease.
    """

    def __init__(self, diseases: Iterable[Disease]) -> None:
        self.diseases = tuple(diseases)
        if not {disease.class_name for disease in self.diseases} >= set(CLASSES):
            raise ValueError("a class has no disease")

    @classmethod
    def of_training(cls, trained: Iterable[Mapping[str, Any]]) -> ClosedSet:
        """Everything that was taught, and what stands for each class in the taxonomy.

        Spellings that differ in capitals alone are one disease, in the commoner spelling. Of more than MAX_SCORED
        diseases the commonest are scored, and the commonest of each class.

        Args:
            trained: `disease`, `class` and `records` of each, as a checkpoint's card has them.
        """
        by_name: dict[str, list[Disease]] = {}
        for row in trained:
            class_name = row["class"] if row["class"] in (*CLASSES, OTHERS) else None
            disease = Disease(row["disease"], class_name, row["records"])
            by_name.setdefault(disease.name.casefold(), []).append(disease)
        merged = [_merged(spellings) for spellings in by_name.values()]
        merged.sort(key=lambda disease: (-disease.records, disease.name))
        known = {(term.usual, d.class_name) for d in merged if (term := taxonomy.listed_disease(d.name))}
        for class_name in CLASSES:
            name = taxonomy.class_disease(class_name)
            if name in by_name:  # taught, perhaps as one of another class
                name = taxonomy.class_title(class_name).casefold()
            term = taxonomy.listed_disease(taxonomy.class_disease(class_name))
            if term is None or (term.usual, class_name) not in known:
                merged.append(Disease(name, class_name, 0))
        first = {d.class_name: place for place, d in reversed(list(enumerate(merged)))}
        kept = {place for class_name, place in first.items() if class_name in CLASSES}
        rest = (place for place in range(len(merged)) if place not in kept)
        kept.update(place for place, _ in zip(rest, range(MAX_SCORED - len(kept)), strict=False))
        return cls(merged[place] for place in sorted(kept))

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> ClosedSet:
        """The inverse of `to_rows`."""
        return cls(Disease(**row) for row in rows)

    def to_rows(self) -> list[dict[str, Any]]:
        """Plain data, ready for JSON."""
        return [asdict(disease) for disease in self.diseases]

    def __len__(self) -> int:
        return len(self.diseases)

    def sentences(self, form: str) -> list[str]:
        """The disease sentence with each disease."""
        return [form.format(disease=disease.name) for disease in self.diseases]

    @cached_property
    def representatives(self) -> dict[str, str]:
        """The commonest disease of each class."""
        return {name: self.diseases[self._groups[group][0]].name for group, name in enumerate(CLASSES)}

    @cached_property
    def _groups(self) -> dict[int, np.ndarray]:
        """Places of the diseases of each class, by its number; OTHERS and no class follow the 15."""
        names = (*CLASSES, OTHERS, None)
        numbers = np.array([names.index(disease.class_name) for disease in self.diseases])
        return {
            group: np.flatnonzero(numbers == group) for group in range(len(names)) if (numbers == group).any()
        }

    @cached_property
    def _log_shares(self) -> np.ndarray:
        """(diseases,) log of each one's share of its class's records."""
        records = np.array([max(disease.records, 0.5) for disease in self.diseases])
        shares = np.empty(len(self))
        for places in self._groups.values():
            shares[places] = records[places] / records[places].sum()
        return np.log(shares)

    def _grouped(
        self, scores: np.ndarray, prior: np.ndarray, weight: float
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """(scores (..., diseases) without the text's prior, their logarithmic sums (...,) by class)."""
        rest = np.asarray(scores, np.float64) - weight * (prior - self._log_shares)
        return rest, {group: logsumexp(rest[..., places], axis=-1) for group, places in self._groups.items()}

    def class_scores(self, scores: np.ndarray, prior: np.ndarray, weight: float) -> np.ndarray:
        """Log-scores (..., 15) of the classes in the order of CLASSES.

        Args:
            scores: (..., diseases) log-probabilities of the sentences after the image.
            prior: (diseases,) theirs whatever the image shows.
            weight: of the prior, 0 to 1.
        """
        _, sums = self._grouped(scores, prior, weight)
        return np.stack([sums[group] for group in range(len(CLASSES))], axis=-1)

    def probabilities(
        self, scores: np.ndarray, prior: np.ndarray, weight: float, temperature: float = 1.0
    ) -> np.ndarray:
        """Probabilities (..., diseases) among all diseases, those outside the 15 classes included.

        A class's probability, flattened by the temperature, is shared among its diseases by their scores.

        Args:
            scores: as of `class_scores`, with
            prior: and
            weight: likewise.
            temperature: divides the classes' log-scores.
        """
        rest, sums = self._grouped(scores, prior, weight)
        by_group = log_softmax(np.stack(list(sums.values()), axis=-1) / temperature, axis=-1)
        logs = np.empty_like(rest)
        for column, (group, places) in enumerate(self._groups.items()):
            logs[..., places] = by_group[..., [column]] + rest[..., places] - sums[group][..., None]
        return np.exp(logs)


def _merged(spellings: Sequence[Disease]) -> Disease:
    commonest = max(spellings, key=lambda disease: disease.records)
    return Disease(commonest.name, commonest.class_name, sum(disease.records for disease in spellings))
