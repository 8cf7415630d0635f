"""Cases through the published prompts: each case is one conversation, and many are answered together.

A case's state is its own: the next prompt of a case sees only the answers of that case. Answers that exist already
are not asked for again.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from eval.asking.answers import Answer, Key, seed_of
from eval.asking.cases import Case
from eval.asking.classes import read_task_class
from eval.asking.pictures import Pictures, first_equal
from eval.tasks import Task, load_task
from skingpt4.chat import history
from skingpt4.chat.differential import Rule
from skingpt4.config.schema import Config
from skingpt4.generation.answer import Answer as DecodedAnswer
from skingpt4.generation.cache import ConversationCache
from skingpt4.generation.diseases import DiseaseScorer
from skingpt4.generation.engine.decoder import decoder_of, require_engine
from skingpt4.generation.questions import CLINICAL_PROMPTS, CONCEPTS_QUESTION, DIAGNOSIS_QUESTION
from skingpt4.generation.sampling import Generation
from skingpt4.generation.scoring import score_answers, score_tree
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template, stop_strings
from skingpt4.taxonomy.free_text import find_concepts
from skingpt4.taxonomy.morphology import say_concepts
from skingpt4.taxonomy.taxonomy import CLASSES

PROBES = (CONCEPTS_QUESTION, DIAGNOSIS_QUESTION)


@dataclass(frozen=True)
class Setting:
    """What is asked, and how answers are drawn."""

    options: dict[str, tuple[str, ...]]  # class -> the diseases that are scored for it
    prompts: tuple[str, ...] = CLINICAL_PROMPTS
    generation: Generation = field(default_factory=Generation)
    batch_size: int = 25
    with_concept_scores: bool = False
    with_history: bool = False
    task: Task = field(default_factory=load_task)
    conversing: frozenset[str] | None = None  # the cases that go through the prompts; None: all

    def num_prompts(self, case: Case) -> int:
        """How many prompts a case goes through."""
        return len(self.prompts) if self.conversing is None or case.id in self.conversing else 0

    @property
    def probes(self) -> tuple[str, ...]:
        """The questions outside the conversation."""
        asked = (CONCEPTS_QUESTION,) if self.task.concepts else ()
        return (*asked, self.task.question or DIAGNOSIS_QUESTION) if self.task.classes else asked

    @property
    def scores(self) -> bool:
        """Whether any closed set is scored."""
        return bool(self.options) or self.with_concept_scores


@dataclass(eq=False)
class _OpenCase:
    """A case whose answers are being decoded, one after the other."""

    case: Case
    queries: Tensor  # (pictures, q, d)
    todo: deque[Key]  # the first one is being answered
    cache: ConversationCache  # keys and values of what was read; an answer reuses the prefix that it shares
    question: str = ""
    decoded: DecodedAnswer | None = None


class Asker:
    """Asks one arm's model about cases; every answer is given as soon as it ends."""

    def __init__(
        self,
        model: SkinGPT4,
        config: Config,
        setting: Setting,
        arm: str,
        made_by: Mapping[str, Any] | None = None,
        rule: Rule | None = None,
    ) -> None:
        """Prepare what is the same for all cases.

        Args:
            model: with the arm's projection, and its LoRA if it has any.
            config: its configuration.
            setting: what is asked.
            arm: its name.
            made_by: put into every line.
            rule: of the arm's checkpoint; by default each class is scored by its disease in the setting.
        """
        self.model, self.config, self.setting, self.arm = model, config, setting, arm
        self.made_by = dict(made_by or {})
        self.template = get_template(config.prompt.template)
        self.form = setting.task.answer_form or config.prompt.disease_sentence
        self.stop = stop_strings(self.template, model.tokenizer)
        require_engine(model, config.engine)
        self.decoder = decoder_of(model, config.engine, max_rows=setting.batch_size)
        self.rule = rule or Rule()
        closed_set = self.rule.closed_set if setting.task.is_default else None
        self.scorer = (
            None if closed_set is None else DiseaseScorer(model, config.prompt, closed_set, self.decoder)
        )

    @property
    def own_meta(self) -> dict[str, Any]:
        """The engine, if another than this program writes the answers.

        Where classes are sums over diseases: which diseases, and the weight of the prior.
        """
        engine = self.config.engine.name
        meta: dict[str, Any] = {} if engine == "in_process" else {"engine": engine}
        if self.scorer is None:
            return meta
        return meta | {"closed_set": self.scorer.closed_set.to_rows(), "prior_weight": self.rule.prior_weight}

    @property
    def prior(self) -> dict[str, dict[str, float]]:
        """How the score of each disease is read: what is taken off it, times its weight, and what divides both.

        Empty where no diseases are scored.
        """
        if self.scorer is None:
            return {}
        names = [disease.name for disease in self.scorer.closed_set.diseases]
        prior = {"prior": _named(names, self.rule.prior(self.scorer).tolist())}
        spread = self.rule.calibration.spread if self.rule.calibration else None
        return prior | ({"spread": _named(names, spread)} if spread else {})

    def answers(
        self,
        cases: Sequence[Case],
        pictures: Pictures,
        done: dict[Key, Answer],
        repeat: int = 0,
        perturbation: str | None = None,
    ) -> Iterator[Answer]:
        """Every answer that `done` does not hold yet.

        First the closed sets of all cases, then the texts, so that a case is complete with its last text and no
        text's time includes the scoring of others. Up to `batch_size` cases are answered together; as soon as an
        answer ends, the next question of its case takes its place, or the next case. So answers come in the order in
        which they end, those of one case in the order of its questions.

        Args:
            cases: asked in this order.
            pictures: gives the queries of the cases with these numbers.
            done: answers of earlier runs; every new one is added.
            repeat: number of this repeat, from 0; closed sets are scored only in the first.
            perturbation: name of the change that `pictures` made.
        """

        @functools.cache  # a picture that was changed costs the encoder
        def see(place: int) -> Tensor:
            return pictures([place])[0]

        if repeat == 0 and self.setting.scores:
            yield from self._closed_sets(cases, see, done, perturbation)
        waiting = deque(range(len(cases)))
        open_cases: list[_OpenCase] = []
        ended: SimpleQueue[_OpenCase] = SimpleQueue()
        try:
            while True:
                while waiting and len(open_cases) < self.setting.batch_size:
                    place = waiting.popleft()
                    todo = deque(k for k in self._keys(cases[place], repeat, perturbation) if k not in done)
                    if todo:
                        talk = _OpenCase(cases[place], see(place).float(), todo, self.decoder.new_cache())
                        open_cases.append(talk)
                        self._submit(talk, done, ended)
                if not open_cases:
                    return
                talk = ended.get()
                key = talk.todo.popleft()
                answer = done[key] = Answer(self.arm, key, self._fields(talk, key))
                if talk.todo:
                    self._submit(talk, done, ended)
                else:
                    talk.cache.close()
                    open_cases.remove(talk)
                yield answer
        finally:
            for talk in open_cases:
                talk.cache.close()
                if talk.decoded is not None:
                    talk.decoded.stop()

    def _keys(self, case: Case, repeat: int, perturbation: str | None) -> list[Key]:
        """The texts that a case is asked for, in order."""
        asked = {"turn": self.setting.num_prompts(case), "probe": len(self.setting.probes)}
        return [
            Key(case.id, repeat, perturbation, kind, number)
            for kind, count in asked.items()
            for number in range(1, count + 1)
        ]

    def _submit(self, talk: _OpenCase, done: dict[Key, Answer], ended: SimpleQueue[_OpenCase]) -> None:
        """Have the first question of `todo` answered; `ended` gets the case when the answer is there."""
        key = talk.todo[0]
        turns = self._turns(talk.case, key, done)
        talk.question = turns[-1].question
        prompt = encode_turns(self.template, turns, self.model.tokenizer, talk.queries.shape[1])
        generation = self.setting.generation
        generation = replace(generation, seed=seed_of(generation.seed, key))
        talk.decoded = self.decoder.submit(
            prompt, talk.queries, generation, self.stop, talk.cache, on_done=lambda _: ended.put(talk)
        )

    def _turns(self, case: Case, key: Key, done: dict[Key, Answer]) -> list[Turn]:
        """The conversation so far and what is asked now; the pictures stand in its first turn."""
        views = len(case.records)
        if key.kind == "probe":
            return [Turn(self.setting.probes[key.number - 1], None, views)]
        before = [done[replace(key, number=number)] for number in range(1, key.number)]
        turns = [
            Turn(answer.fields["prompt"], answer.text, 0 if place else views)
            for place, answer in enumerate(before)
        ]
        prompt = self.setting.prompts[key.number - 1]
        if not before and self.setting.with_history and case.history:
            prompt = history.before(case.history, prompt)
        return [*turns, Turn(prompt, None, 0 if before else views)]

    def _fields(self, talk: _OpenCase, key: Key) -> dict[str, Any]:
        """The line of an answer that has ended.

        Raises:
            BaseException: what its decoding raised.
        """
        decoded = talk.decoded
        assert decoded is not None
        answer, timing = decoded.result(), decoded.timing
        assert timing is not None
        line = {
            "answer": answer,
            "num_tokens": timing.num_tokens,  # as decoded, with the one that ended it
            "seconds_to_first_token": round(timing.seconds_to_first_token, 4),  # both from its submission on
            "seconds": round(timing.seconds, 4),
            "num_decoded_together": timing.num_rows,
            "seed": decoded.generation.seed if decoded.generation.temperature > 0 else None,
            **self.made_by,
        }
        if key.kind == "probe":
            return line | {"question": talk.question, **self._read(talk.question, answer)}
        return line | {"prompt": talk.question, "image_sha256": talk.case.image_sha256}

    def _closed_sets(
        self,
        cases: Sequence[Case],
        see: Callable[[int], Tensor],
        done: dict[Key, Answer],
        perturbation: str | None,
    ) -> Iterator[Answer]:
        """The scores that do not exist yet, batch by batch; of pictures that are equal, such as blank ones, once."""
        keys = [Key(case.id, 0, perturbation, "scores") for case in cases]
        for start in range(0, len(cases), self.setting.batch_size):
            places = range(start, min(start + self.setting.batch_size, len(cases)))
            batch = [place for place in places if keys[place] not in done]
            if not batch:
                continue
            queries = [see(place).float() for place in batch]
            first = first_equal(queries)
            unique = sorted({*first})
            lines = self._scores([cases[batch[n]] for n in unique], [queries[n] for n in unique])
            by_picture = dict(zip(unique, lines, strict=True))
            for place, n in zip(batch, first, strict=True):
                done[keys[place]] = Answer(self.arm, keys[place], dict(by_picture[n]))
                yield done[keys[place]]

    def _read(self, question: str, answer: str) -> dict[str, Any]:
        if question == CONCEPTS_QUESTION:
            return {"predicted_concepts": find_concepts(answer)}
        return read_task_class(answer, self.form, self.setting.task, self.setting.options)

    def _scores(self, cases: Sequence[Case], queries: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Log-scores of the classes, and log-probabilities of the sentence for each single concept.

        They sum over the tokens in which the sentences differ. The sentences of a class with several diseases count
        together: its score is the logarithm of the sum of their probabilities, or what the checkpoint's rule makes of
        them; then `disease_scores` has the log-probability of each disease's sentence.
        """
        task = self.setting.task
        lines: list[dict[str, Any]] = [
            {"class_scores": None, "concept_scores": None, **self.made_by} for _ in cases
        ]
        if self.setting.options:
            of_classes = self._by_options if self.scorer is None else self._by_rule
            lines = [line | scores for line, scores in zip(lines, of_classes(cases, queries), strict=True)]
        if self.setting.with_concept_scores:
            form = self.config.prompt.concepts_sentence
            sentences = [say_concepts(form, [name]) for name in task.concepts]
            rows = self._likelihoods(CONCEPTS_QUESTION, cases, queries, sentences)
            for line, row in zip(lines, rows, strict=True):
                line["concept_scores"] = _named(task.concepts, row.tolist())
        return lines

    def _by_options(self, cases: Sequence[Case], queries: Sequence[Tensor]) -> list[dict[str, Any]]:
        options = self.setting.options
        sentences = [self.form.format(disease=name) for names in options.values() for name in names]
        question = self.setting.task.question or DIAGNOSIS_QUESTION
        sizes = [len(names) for names in options.values()]
        rows = self._likelihoods(question, cases, queries, sentences)
        return [
            {"class_scores": _named(options, (float(part.logsumexp(0)) for part in row.split(sizes)))}
            for row in rows
        ]

    def _by_rule(self, cases: Sequence[Case], queries: Sequence[Tensor]) -> list[dict[str, Any]]:
        assert self.scorer is not None
        scores, closed_set = self.scorer.scores(queries), self.scorer.closed_set
        scaled, prior = self.rule.scaled(scores, self.scorer)
        of_classes = closed_set.class_scores(scaled, prior, self.rule.prior_weight)
        names = [disease.name for disease in closed_set.diseases]
        return [
            {
                "class_scores": _named(CLASSES, classes.tolist()),
                "disease_scores": _named(names, each.tolist()),
            }
            for classes, each in zip(of_classes, scores, strict=True)
        ]

    def _likelihoods(
        self, question: str, cases: Sequence[Case], queries: Sequence[Tensor], sentences: Sequence[str]
    ) -> Tensor:
        """(cases, sentences), fp32."""
        asked = [[Turn(question, None, len(case.records))] for case in cases]
        tokenizer, num_queries = self.model.tokenizer, queries[0].shape[1]
        prompts = [encode_turns(self.template, turns, tokenizer, num_queries) for turns in asked]
        score = score_answers if self.setting.task.is_default else score_tree  # which is for hundreds
        return self.decoder.run(lambda: score(self.model, prompts, torch.cat(list(queries)), sentences))


def _named(names: Iterable[str], scores: Iterable[float]) -> dict[str, float]:
    return {name: round(score, 4) for name, score in zip(names, scores, strict=True)}
