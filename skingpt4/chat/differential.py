"""Ranks the 15 classes and the visible concepts, with probabilities from the model's own likelihoods.

The published sentence is scored with each class's disease, and the concepts' sentence with each of the 48 concepts;
both questions share one reading of the images. A calibration (`skingpt4 calibrate`) turns the scores into
probabilities; without one the class probabilities are those of temperature 1, and no concept has any. The model
cannot name what it was never trained on: the probabilities are among the 15 classes only. Not a diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skingpt4.chat.calibration import Calibration
from skingpt4.config.schema import Config
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.scoring import (
    CONCEPTS_QUESTION,
    DIAGNOSIS_QUESTION,
    class_sentences,
    concept_sentences,
    score_sets,
)
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.support.errors import UserError
from skingpt4.support.files import read_yaml
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_disease

NEVER = 1.0  # the threshold if no confidence is enough
LANGUAGES = ("en", "de")


class DifferentialError(UserError):
    """No ranking can be made; the message says why."""


@dataclass(frozen=True)
class ClassProbability:
    """A class, the disease whose sentence was scored for it, and its probability among the 15 (0 to 1)."""

    class_name: str
    disease: str
    probability: float


@dataclass(frozen=True)
class ConceptProbability:
    """One of SKINCON's concepts and the probability that it is visible (0 to 1)."""

    name: str
    probability: float


@dataclass(frozen=True)
class Differential:
    """Classes and concepts, the most probable first.

    `confident` is whether the best class reaches `threshold`; never without a calibration. `calibration` names the
    data behind the probabilities.
    """

    ranked: tuple[ClassProbability, ...]
    concepts: tuple[ConceptProbability, ...]
    confident: bool
    threshold: float
    red_flags: tuple[str, ...]
    next_steps: tuple[str, ...]
    calibration: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = asdict(self)
        for row in (*data["ranked"], *data["concepts"]):
            row["probability"] = round(row["probability"], 4)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def differential(
    model: SkinGPT4,
    config: Config,
    queries: Sequence[Tensor],
    calibration: Calibration | None = None,
    language: str = "en",
) -> Differential:
    """The ranking for the images of one case.

    Args:
        model: the network.
        config: its configuration.
        queries: (1, q, d) of each image, such as a session's `queries`.
        calibration: of this model's checkpoint, see `skingpt4.chat.calibration.load`.
        language: of the warnings and next steps, one of LANGUAGES.

    Raises:
        DifferentialError: no image, or no such language.
    """
    if not queries:
        raise DifferentialError("there is no picture yet; add one before asking for a differential")
    diseases = calibration.diseases if calibration else {name: class_disease(name) for name in CLASSES}
    classes, concepts = score_images(model, config, torch.cat(list(queries)), diseases)
    return from_scores(classes, concepts, diseases, calibration, language)


def score_images(
    model: SkinGPT4, config: Config, queries: Tensor, diseases: dict[str, str], with_concepts: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of the 15 classes' sentences (15,) and of the 48 single concepts' (48,), fp64.

    Args:
        model: the network.
        config: its configuration, whose sentences are scored.
        queries: (images, q, d) of one case.
        diseases: the disease that is scored for each class.
        with_concepts: False saves most of the work; the concepts' values are then zeros.
    """
    template, prompt = get_template(config.prompt.template), config.prompt
    prompts = [
        encode_turns(template, [Turn(question, None, len(queries))], model.tokenizer, queries.shape[1])
        for question in (DIAGNOSIS_QUESTION, CONCEPTS_QUESTION)
    ]
    sets = [class_sentences(prompt.disease_sentence, diseases), concept_sentences(prompt.concepts_sentence)]
    num_sets = 2 if with_concepts else 1
    scores = Decoder.of(model).run(lambda: score_sets(model, prompts[:num_sets], queries, sets[:num_sets]))
    classes, *concepts = (of_set.double().cpu().numpy() for of_set in scores)
    return classes, concepts[0] if concepts else np.zeros(len(CONCEPTS))


def from_scores(
    classes: np.ndarray,
    concepts: np.ndarray,
    diseases: dict[str, str],
    calibration: Calibration | None = None,
    language: str = "en",
) -> Differential:
    """The ranking of given scores.

    Args:
        classes: (15,) log-likelihoods in the order of `diseases`.
        concepts: (48,) log-likelihoods in SKINCON's order.
        diseases: the disease that was scored for each class.
        calibration: None for temperature 1.
        language: of the advice.

    Raises:
        DifferentialError: no advice in that language.
    """
    probabilities = calibration or Calibration(1.0, None, NEVER, 0, diseases, {})
    by_class = zip(diseases.items(), probabilities.class_probabilities(classes).tolist(), strict=True)
    ranked = [ClassProbability(name, disease, p) for (name, disease), p in by_class]
    visible = [
        ConceptProbability(name, p)
        for name, score in zip(CONCEPTS, concepts.tolist(), strict=True)
        if (p := probabilities.concept_probability(name, score)) is not None
    ]
    ranked.sort(key=lambda row: -row.probability)
    visible.sort(key=lambda row: -row.probability)
    threshold = probabilities.threshold
    confident = threshold is not None and ranked[0].probability >= threshold
    flags, steps = advise(ranked, visible, confident, language)
    return Differential(
        tuple(ranked), tuple(visible), confident, NEVER if threshold is None else threshold, flags, steps,
        calibration.describe() if calibration else "none",
    )  # fmt: skip


@cache
def advice() -> dict[str, Any]:
    """The warnings and next steps: advice.yaml."""
    return read_yaml(Path(__file__).with_name("advice.yaml"))


def advise(
    ranked: Sequence[ClassProbability],
    concepts: Sequence[ConceptProbability],
    confident: bool,
    language: str = "en",
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(warnings, next steps) in a language.

    A warning is shown from a probability on that advice.yaml sets, so also for classes that are not first. The first
    step is that of the best class if the model is confident, else that it is not; the last is always what to do in an
    emergency.

    Raises:
        DifferentialError: no advice in that language.
    """
    if language not in LANGUAGES:
        raise DifferentialError(f"there is no advice in {language!r}; there is {', '.join(LANGUAGES)}")
    data = advice()
    flags = [
        entry["flag"][language]
        for group, rows in (
            ("classes", [(row.class_name, row.probability) for row in ranked]),
            ("concepts", [(row.name, row.probability) for row in concepts]),
        )
        for name, probability in rows
        if (entry := data[group].get(name, {})).get("flag") and probability >= entry["from"]
    ]
    first = data["classes"][ranked[0].class_name]["next"] if confident else data["not_confident"]
    return tuple(flags), (first[language], data["always"][language])
