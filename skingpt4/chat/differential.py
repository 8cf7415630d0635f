"""Ranks the 15 classes and the visible concepts, with probabilities from the model's own likelihoods.

The disease sentence is scored with every disease that the checkpoint was taught, and a class is the sum over its
diseases (see `skingpt4.taxonomy.closed_set`). A checkpoint that does not say what it was taught is scored with one
disease for each class. The concepts' sentence is scored with each of the 48 concepts. A calibration (`skingpt4
calibrate`) turns the scores into probabilities; without one the class probabilities are those of temperature 1, and
no concept has any. The model cannot name what it was never trained on: the classes' probabilities are among the 15
only. Not a diagnosis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skingpt4.chat import calibration as calibrations
from skingpt4.chat.calibration import Calibration
from skingpt4.chat.checks.alarm import (
    ALARM_CLASSES,
    AlarmReading,
    alarm_class,
    alarm_readings,
    raised_classes,
)
from skingpt4.chat.texts import load as load_texts
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.diseases import of_card
from skingpt4.config.schema import Config
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.diseases import DiseaseScorer
from skingpt4.generation.questions import (
    CONCEPTS_QUESTION,
    DIAGNOSIS_QUESTION,
    class_sentences,
    concept_sentences,
)
from skingpt4.generation.scoring import score_sets, score_tree
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Encoded, Turn, encode_turns, get_template
from skingpt4.support.errors import UserError
from skingpt4.support.files import read_yaml
from skingpt4.taxonomy.closed_set import UNFITTED_WEIGHT, ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_disease

TOP_DISEASES = 10
NEVER = 1.0  # the threshold if no confidence is enough


class DifferentialError(UserError):
    """No ranking can be made; the message says why."""


@dataclass(frozen=True)
class ClassProbability:
    """A class, its likeliest disease (or the one scored for it), and its probability among the 15 (0 to 1)."""

    class_name: str
    disease: str
    probability: float


@dataclass(frozen=True)
class DiseaseProbability:
    """A disease that was taught, its class if it is in one of the 15, and its probability among all of them."""

    name: str
    class_name: str | None
    probability: float


@dataclass(frozen=True)
class ConceptProbability:
    """One of SKINCON's concepts and the probability that it is visible (0 to 1)."""

    name: str
    probability: float


@dataclass(frozen=True)
class Differential:
    """Classes, concepts and the TOP_DISEASES, the most probable first.

    `diseases` is empty where the checkpoint does not say what it was taught. `confident` is whether the best class
    reaches `threshold`; never without a calibration. `calibration` names the data behind the probabilities. `alarms`
    say whether skin cancer is among the possibilities, and how that is known.
    """

    ranked: tuple[ClassProbability, ...]
    concepts: tuple[ConceptProbability, ...]
    confident: bool
    threshold: float
    red_flags: tuple[str, ...]
    next_steps: tuple[str, ...]
    calibration: str = "none"
    diseases: tuple[DiseaseProbability, ...] = ()
    alarms: tuple[AlarmReading, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; `diseases` only where there are any."""
        data = asdict(self) | {"alarms": [alarm.to_dict() for alarm in self.alarms]}
        if not self.diseases:
            del data["diseases"]
        for row in (*data["ranked"], *data["concepts"], *data.get("diseases", ())):
            row["probability"] = round(row["probability"], 4)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


@dataclass(frozen=True)
class Rule:
    """How a checkpoint's scores become a ranking: its calibration, if it has one, and what is scored with it.

    `closed_set` is None where each class is scored by one disease.
    """

    calibration: Calibration | None = None
    closed_set: ClosedSet | None = None

    @classmethod
    def of(cls, checkpoint_path: str | Path | None) -> Rule:
        """The rule of a checkpoint or a run's folder. A calibration holds for the diseases that it was fitted with.

        Raises:
            CheckpointError: no such checkpoint, or a damaged one.
            CalibrationError: the calibration is damaged, or belongs to other weights.
        """
        if checkpoint_path is None:
            return cls()
        calibration = calibrations.load(checkpoint_path)
        if calibration is None:
            return cls(None, of_card(checkpoint.load(checkpoint_path)[1]))
        rows = calibration.closed_set
        return cls(calibration, None if rows is None else ClosedSet.of_rows(rows))

    def scaled(self, scores: np.ndarray, scorer: DiseaseScorer) -> tuple[np.ndarray, np.ndarray]:
        """Scores (..., diseases) of the scorer and their prior (diseases,), both as the closed set takes them."""
        spread = None if self.calibration is None else self.calibration.spread
        divisor = 1.0 if spread is None else np.array(spread)
        return scores / divisor, self.prior(scorer) / divisor

    def prior(self, scorer: DiseaseScorer) -> np.ndarray:
        """(diseases,) what the scorer's model says of each, whatever the picture shows."""
        fitted = None if self.calibration is None else self.calibration.prior
        return scorer.prior if fitted is None else np.array(fitted)

    @property
    def prior_weight(self) -> float:
        """Of the prior."""
        return UNFITTED_WEIGHT if self.calibration is None else self.calibration.prior_weight


class Ranker:
    """Ranks classes, diseases and concepts by one checkpoint's scores; several threads may use it.

    Args:
        model: the network with the checkpoint's projection.
        config: its configuration, whose sentences are scored.
        rule: of the checkpoint.
    """

    def __init__(self, model: SkinGPT4, config: Config, rule: Rule | None = None) -> None:
        self.rule = rule or Rule()
        self._model, self._config = model, config
        closed_set = self.rule.closed_set
        self._scorer = None if closed_set is None else DiseaseScorer(model, config.prompt, closed_set)

    def rank(self, queries: Sequence[Tensor], language: str = "en") -> Differential:
        """The ranking for the images of one case.

        Args:
            queries: (1, q, d) of each image, such as a session's `queries`.
            language: of the warnings and next steps, see `skingpt4.chat.texts`.

        Raises:
            DifferentialError: no image.
            TextError: no such language.
        """
        if not queries:
            raise DifferentialError("there is no picture yet; add one before asking for a differential")
        shown, calibration = torch.cat(list(queries)), self.rule.calibration
        if self._scorer is None:
            diseases = (
                calibration.diseases if calibration else {name: class_disease(name) for name in CLASSES}
            )
            classes, concepts = score_images(self._model, self._config, shown, diseases)
            return from_scores(classes, concepts, diseases, calibration, language)
        closed_set, weight = self._scorer.closed_set, self.rule.prior_weight
        scores, prior = self.rule.scaled(self._scorer.scores([shown])[0], self._scorer)
        temperature = calibration.temperature if calibration else 1.0
        probabilities = closed_set.probabilities(scores, prior, weight, temperature)
        named = sorted(
            (
                DiseaseProbability(d.name, d.class_name if d.class_name in CLASSES else None, p)
                for d, p in zip(closed_set.diseases, probabilities.tolist(), strict=True)
            ),
            key=lambda row: -row.probability,
        )
        likeliest = {row.class_name: row.name for row in reversed(named)}
        malignant = dict.fromkeys(ALARM_CLASSES, 0.0)
        for row in named:
            if (name := alarm_class(row.name, row.class_name)) is not None:
                malignant[name] += row.probability
        return from_scores(
            closed_set.class_scores(scores, prior, weight),
            score_concepts(self._model, self._config, shown),
            {name: likeliest[name] for name in CLASSES},
            calibration,
            language,
            named[:TOP_DISEASES],
            malignant,
        )


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
    prompts = [
        _prompt(model, config, queries, question) for question in (DIAGNOSIS_QUESTION, CONCEPTS_QUESTION)
    ]
    sets = [
        class_sentences(config.prompt.disease_sentence, diseases),
        concept_sentences(config.prompt.concepts_sentence),
    ]
    num_sets = 2 if with_concepts else 1
    scores = Decoder.of(model).run(lambda: score_sets(model, prompts[:num_sets], queries, sets[:num_sets]))
    classes, *concepts = (of_set.double().cpu().numpy() for of_set in scores)
    return classes, concepts[0] if concepts else np.zeros(len(CONCEPTS))


def score_concepts(model: SkinGPT4, config: Config, queries: Tensor) -> np.ndarray:
    """Log-likelihoods of the 48 single concepts' sentences (48,), fp64; arguments as of `score_images`."""
    prompt = _prompt(model, config, queries, CONCEPTS_QUESTION)
    sentences = concept_sentences(config.prompt.concepts_sentence)
    (scores,) = Decoder.of(model).run(lambda: score_tree(model, [prompt], queries, sentences))
    return scores.double().cpu().numpy()


def _prompt(model: SkinGPT4, config: Config, queries: Tensor, question: str) -> Encoded:
    turns = [Turn(question, None, len(queries))]
    return encode_turns(get_template(config.prompt.template), turns, model.tokenizer, queries.shape[1])


def from_scores(
    classes: np.ndarray,
    concepts: np.ndarray,
    diseases: dict[str, str],
    calibration: Calibration | None = None,
    language: str = "en",
    named: Sequence[DiseaseProbability] = (),
    malignant: Mapping[str, float] | None = None,
) -> Differential:
    """The ranking of given scores.

    Args:
        classes: (15,) log-scores in the order of `diseases`.
        concepts: (48,) log-likelihoods in SKINCON's order.
        diseases: the disease that is shown beside each class.
        calibration: None for temperature 1.
        language: of the advice.
        named: the likeliest diseases, where more than one of a class was scored.
        malignant: probability of the malignant diseases by class, where they were scored one by one.

    Raises:
        TextError: no such language.
    """
    probabilities = calibration or Calibration(1.0, None, NEVER, 0, diseases, {})
    each = zip(diseases.items(), probabilities.class_probabilities(classes).tolist(), strict=True)
    ranked = [ClassProbability(name, disease, p) for (name, disease), p in each]
    visible = [
        ConceptProbability(name, p)
        for name, score in zip(CONCEPTS, concepts.tolist(), strict=True)
        if (p := probabilities.concept_probability(name, score)) is not None
    ]
    ranked.sort(key=lambda row: -row.probability)
    visible.sort(key=lambda row: -row.probability)
    threshold = probabilities.threshold
    confident = threshold is not None and ranked[0].probability >= threshold
    classwise = {row.class_name: row.probability for row in ranked}
    by_class = malignant or {name: classwise[name] for name in ALARM_CLASSES}
    default = {name: warnings()["classes"][name] for name in ALARM_CLASSES}
    alarms = alarm_readings(by_class, malignant is not None, probabilities.alarms, default)
    raised = raised_classes(alarms, by_class)
    flags, steps = advise(ranked, visible, confident, language, raised)
    return Differential(
        tuple(ranked), tuple(visible), confident, NEVER if threshold is None else threshold, flags, steps,
        calibration.describe() if calibration else "none", tuple(named), alarms,
    )  # fmt: skip


@cache
def warnings() -> dict[str, dict[str, float]]:
    """From which probability the warning of a class or concept is shown: warnings.yaml."""
    return read_yaml(Path(__file__).with_name("warnings.yaml"))


def advise(
    ranked: Sequence[ClassProbability],
    concepts: Sequence[ConceptProbability],
    confident: bool,
    language: str = "en",
    alarms: Collection[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(warnings, next steps) in a language.

    A warning is shown from a probability on that warnings.yaml sets, so also for classes that are not first; of skin
    cancer, for the classes in `alarms` (see `skingpt4.chat.checks.alarm`). The first step is that of the best class
    if the model is confident, else that it is not; the last is always what to do in an emergency.

    Raises:
        TextError: no such language.
    """
    texts = load_texts(language)
    flags = [
        texts[f"advice.{group}.{name}.flag"]
        for group, rows in (
            ("classes", [(row.class_name, row.probability) for row in ranked]),
            ("concepts", [(row.name, row.probability) for row in concepts]),
        )
        for name, probability in rows
        if (start := warnings()[group].get(name)) is not None
        and (name in alarms if name in ALARM_CLASSES else probability >= start)
    ]
    first = f"advice.classes.{ranked[0].class_name}.next" if confident else "advice.not_confident"
    return tuple(flags), (texts[first], texts["advice.always"])
