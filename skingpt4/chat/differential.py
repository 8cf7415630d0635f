"""A ranked list over the 15 classes and the concepts seen, with probabilities from the model's own likelihoods.

The published sentence is scored with each class's disease, and the concepts' sentence with each of the 48 concepts;
both questions share one reading of the pictures. A calibration (`skingpt4 calibrate`)
makes probabilities
of the scores; without one the class probabilities are those of temperature 1 and no concept has any. What the model
was never shown in training, it cannot name: the probabilities are among the 15 classes alone. No diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from skingpt4.chat.session import ChatSession

NEVER = 1.0  # the threshold where no confidence is enough
LANGUAGES = ("en", "de")


class DifferentialError(UserError):
    """No list can be made; the message says why."""


@dataclass(frozen=True)
class ClassProbability:
    """A class, the disease whose sentence was scored for it, and its probability among the 15 (0 to 1)."""

    class_name: str
    disease: str
    probability: float


@dataclass(frozen=True)
class ConceptProbability:
    """One of SKINCON's concepts and the probability that it is seen (0 to 1)."""

    name: str
    probability: float


@dataclass(frozen=True)
class Differential:
    """What the model's likelihoods say, best first; `calibration` names the data behind the probabilities.

    `confident` is whether the best class reaches `threshold`; never without a calibration.
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
    session_or_queries: ChatSession | Tensor | Sequence[Tensor],
    calibration: Calibration | None = None,
    language: str = "en",
) -> Differential:
    """The ranked list for the pictures of a session; its conversation is neither read nor changed.

    Args:
        model: the network.
        config: its configuration.
        session_or_queries: a session, or queries (pictures, q, d), or a list of (1, q, d).
        calibration: of this model's checkpoint, see `skingpt4.chat.calibration.load`.
        language: of the warnings and next steps, one of LANGUAGES.

    Raises:
        DifferentialError: no picture, or no such language.
    """
    diseases = calibration.diseases if calibration else {name: class_disease(name) for name in CLASSES}
    classes, concepts = score_pictures(model, config, _queries(session_or_queries), diseases)
    return from_scores(classes, concepts, diseases, calibration, language)


def _queries(source: ChatSession | Tensor | Sequence[Tensor]) -> Tensor:
    parts: Any = getattr(source, "queries", source)
    if not isinstance(parts, Tensor):
        if not len(parts):
            raise DifferentialError("there is no picture yet; add one before asking for a differential")
        parts = torch.cat(list(parts))
    return parts


def score_pictures(
    model: SkinGPT4, config: Config, queries: Tensor, diseases: dict[str, str], with_concepts: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of the 15 classes' sentences (15,) and of the 48 single concepts' (48,), fp64.

    Args:
        model: the network.
        config: its configuration, whose sentences are scored.
        queries: (pictures, q, d) of one case.
        diseases: the disease that stands for each class.
        with_concepts: False saves most of the work; the concepts' are zeros then.
    """
    template, prompt = get_template(config.prompt.template), config.prompt
    prompts = [
        encode_turns(template, [Turn(question, None, len(queries))], model.tokenizer, queries.shape[1])
        for question in (DIAGNOSIS_QUESTION, CONCEPTS_QUESTION)
    ]
    sets = [class_sentences(prompt.disease_sentence, diseases), concept_sentences(prompt.concepts_sentence)]
    asked = 2 if with_concepts else 1
    found = Decoder.of(model).run(lambda: score_sets(model, prompts[:asked], queries, sets[:asked]))
    classes, *concepts = (scores.double().cpu().numpy() for scores in found)
    return classes, concepts[0] if concepts else np.zeros(len(CONCEPTS))


def from_scores(
    classes: np.ndarray,
    concepts: np.ndarray,
    diseases: dict[str, str],
    calibration: Calibration | None = None,
    language: str = "en",
) -> Differential:
    """A differential of scores that are there already.

    Args:
        classes: (15,) log-likelihoods in the order of `diseases`.
        concepts: (48,) log-likelihoods in SKINCON's order.
        diseases: the disease that stood for each class.
        calibration: None for temperature 1.
        language: of the advice.

    Raises:
        DifferentialError: no advice in that language.
    """
    plain = calibration or Calibration(1.0, None, NEVER, 0, diseases, {})
    names = list(diseases)
    found = zip(names, plain.class_probabilities(classes).tolist(), strict=True)
    ranked = sorted(
        (ClassProbability(name, diseases[name], p) for name, p in found), key=lambda row: -row.probability
    )
    seen = []
    for name, score in zip(CONCEPTS, concepts.tolist(), strict=True):
        p = plain.concept_probability(name, score)
        if p is not None:
            seen.append(ConceptProbability(name, p))
    seen.sort(key=lambda row: -row.probability)
    threshold = NEVER if plain.threshold is None else plain.threshold
    confident = plain.threshold is not None and ranked[0].probability >= threshold
    flags, steps = advise(ranked, seen, confident, language)
    told = calibration.describe() if calibration else "none"
    return Differential(tuple(ranked), tuple(seen), confident, threshold, flags, steps, told)


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

    A warning is shown from a probability that is set in the data, so also for classes that are not first. The steps
    are those of the first class if the model is confident, else that it is not; an emergency's comes last, always.

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
