"""Cases through the published prompts: each case one conversation, many cases in a batch, answers given at once.

A case's state is its own: the answers of a case are the only thing that its next prompt sees. Answers that are there
already are not asked for again, whatever stopped the run before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from eval.answers import Answer, Key
from eval.cases import Case
from eval.classes import read_class
from skingpt4 import history
from skingpt4.chat import CLINICAL_PROMPTS, Generation
from skingpt4.config import Config
from skingpt4.model import SkinGPT4
from skingpt4.prompts import Turn, encode_turns, get_template, stop_strings
from skingpt4.scoring import (
    CONCEPTS_QUESTION,
    DIAGNOSIS_QUESTION,
    class_sentences,
    concept_sentences,
    score_answers,
)
from skingpt4.taxonomy import CONCEPTS, find_concepts

PROBES = (CONCEPTS_QUESTION, DIAGNOSIS_QUESTION)

Pictures = Callable[[Sequence[int]], list[Tensor]]  # numbers of cases -> queries (pictures, q, d) of each


@dataclass(frozen=True)
class Setting:
    """What is asked, and how answers are drawn."""

    diseases: dict[str, str]  # class -> the disease that is scored for it
    prompts: tuple[str, ...] = CLINICAL_PROMPTS
    generation: Generation = field(default_factory=lambda: Generation(max_new_tokens=48))
    batch_size: int = 25
    with_concept_scores: bool = False
    with_history: bool = False


class _Clock(StoppingCriteria):
    """Never stops anything; remembers when the first token of a batch came."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first = 0.0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.first = self.first or time.perf_counter() - self.began
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class Asker:
    """One arm's model, asking cases; yields every new answer as soon as it is there."""

    def __init__(self, model: SkinGPT4, config: Config, setting: Setting, arm: str) -> None:
        """Keep what is the same for all cases."""
        self.model, self.config, self.setting, self.arm = model, config, setting, arm
        self.template = get_template(config.prompt.template)
        self.stop = stop_strings(self.template, model.tokenizer)

    def answers(
        self,
        cases: Sequence[Case],
        pictures: Pictures,
        done: dict[Key, Answer],
        repeat: int = 0,
        perturbation: str | None = None,
    ) -> Iterator[Answer]:
        """What `done` does not hold yet, batch by batch.

        Args:
            cases: asked in this order.
            pictures: gives the queries of the cases with these numbers.
            done: answers of earlier runs; every new one is put in.
            repeat: number of this repeat, from 0; closed sets are scored in the first alone.
            perturbation: name of the change that `pictures` made.
        """
        for start in range(0, len(cases), self.setting.batch_size):
            batch = list(range(start, min(start + self.setting.batch_size, len(cases))))
            for answer in self._batch(cases, batch, pictures, done, repeat, perturbation):
                done[answer.key] = answer
                yield answer

    def _batch(
        self,
        cases: Sequence[Case],
        batch: Sequence[int],
        pictures: Pictures,
        done: dict[Key, Answer],
        repeat: int,
        perturbation: str | None,
    ) -> Iterator[Answer]:
        def key(place: int, kind: str, number: int = 0) -> Key:
            return Key(cases[place].id, repeat, perturbation, kind, number)

        shown: dict[int, Tensor] = {}

        def see(places: Sequence[int]) -> list[Tensor]:
            unseen = [place for place in places if place not in shown]
            shown.update(zip(unseen, pictures(unseen), strict=True) if unseen else ())
            return [shown[place].float() for place in places]

        for number, prompt in enumerate(self.setting.prompts, 1):
            todo = [place for place in batch if key(place, "turn", number) not in done]
            if todo:
                said_before = [[done[key(place, "turn", n)] for n in range(1, number)] for place in todo]
                talks = [self._talk(cases[p], prompt, b) for p, b in zip(todo, said_before, strict=True)]
                said = self._generate(talks, see(todo), (repeat, perturbation, batch[0], number))
                for place, talk, line in zip(todo, talks, said, strict=True):
                    line |= {"prompt": talk[-1].question, "image_sha256": _hashes(cases[place])}
                    yield Answer(self.arm, key(place, "turn", number), line)
        for number, question in enumerate(PROBES, 1):
            todo = [place for place in batch if key(place, "probe", number) not in done]
            if todo:
                talks = [[Turn(question, None, len(cases[place].records))] for place in todo]
                said = self._generate(talks, see(todo), (repeat, perturbation, batch[0], -number))
                for place, line in zip(todo, said, strict=True):
                    line |= {"question": question, **self._read(question, line["answer"])}
                    yield Answer(self.arm, key(place, "probe", number), line)
        todo = [place for place in batch if key(place, "scores") not in done] if repeat == 0 else []
        if todo:
            for place, line in zip(todo, self._scores([cases[p] for p in todo], see(todo)), strict=True):
                yield Answer(self.arm, key(place, "scores"), line)

    def _talk(self, case: Case, prompt: str, before: Sequence[Answer]) -> list[Turn]:
        """The conversation so far and the prompt whose answer is asked for; the pictures stand in its first turn."""
        views = len(case.records)
        turns = [
            Turn(answer.said["prompt"], answer.text, 0 if place else views)
            for place, answer in enumerate(before)
        ]
        if not before and self.setting.with_history and case.history:
            prompt = history.before(case.history, prompt)
        return [*turns, Turn(prompt, None, 0 if before else views)]

    def _generate(
        self, talks: Sequence[Sequence[Turn]], queries: Sequence[Tensor], draw: tuple[Any, ...]
    ) -> list[dict[str, Any]]:
        tokenizer, generation = self.model.tokenizer, self.setting.generation
        prompts = [encode_turns(self.template, t, tokenizer, queries[0].shape[1]) for t in talks]
        seed = _seed(generation.seed, *draw)
        clock = _Clock()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            answers = self.model.generate(
                prompts,
                torch.cat(list(queries)),
                self.stop,
                stopping_criteria=StoppingCriteriaList([clock]),
                **generation.options(),
            )
        seconds = time.perf_counter() - clock.began
        return [
            {
                "answer": answer,
                "num_tokens": len(tokenizer(answer, add_special_tokens=False).input_ids),
                "seconds_to_first_token": round(clock.first, 4),
                "seconds": round(seconds, 4),  # of the whole batch: how long its user waits
                "num_cases_in_batch": len(answers),
                "seed": seed if generation.temperature > 0 else None,
            }
            for answer in answers
        ]

    def _read(self, question: str, answer: str) -> dict[str, Any]:
        if question == CONCEPTS_QUESTION:
            return {"predicted_concepts": find_concepts(answer)}
        return read_class(answer, self.config.prompt.disease_sentence, self.setting.diseases)

    def _scores(self, cases: Sequence[Case], queries: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Log-probabilities of the published sentence for each class's disease, and for each single concept.

        They sum over the tokens that tell the sentences apart.
        """
        diseases, prompt = self.setting.diseases, self.config.prompt
        sentences = class_sentences(prompt.disease_sentence, diseases)
        found = [
            {"class_scores": dict(zip(diseases, row, strict=True)), "concept_scores": None}
            for row in self._likelihoods(DIAGNOSIS_QUESTION, cases, queries, sentences)
        ]
        if self.setting.with_concept_scores:
            sentences = concept_sentences(prompt.concepts_sentence)
            rows = self._likelihoods(CONCEPTS_QUESTION, cases, queries, sentences)
            for line, row in zip(found, rows, strict=True):
                line["concept_scores"] = dict(zip(CONCEPTS, row, strict=True))
        return found

    def _likelihoods(
        self, question: str, cases: Sequence[Case], queries: Sequence[Tensor], sentences: Sequence[str]
    ) -> list[list[float]]:
        prompts = [
            encode_turns(
                self.template,
                [Turn(question, None, len(c.records))],
                self.model.tokenizer,
                queries[0].shape[1],
            )
            for c in cases
        ]
        scores = score_answers(self.model, prompts, torch.cat(list(queries)), sentences)
        return [[round(score, 4) for score in row] for row in scores.tolist()]


def _hashes(case: Case) -> str | list[str | None] | None:
    hashes = [record.sha256 for record in case.records]
    return hashes[0] if len(hashes) == 1 else hashes


def _seed(*parts: Any) -> int:
    """A seed (31 bits) that is a function of what it is for."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) >> 1
