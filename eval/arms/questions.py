"""What a respondent is asked about a case, in order, and the line that its answer becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from PIL import Image

from eval.arms.closed_sets import chosen
from eval.arms.respondent import LIST, Reply, Respondent
from eval.asking.answers import Answer, Key, seed_of
from eval.asking.cases import Case
from eval.asking.classes import options_of, read_task_class
from eval.tasks import Task
from skingpt4.chat import history
from skingpt4.generation.questions import CLINICAL_PROMPTS, CONCEPTS_QUESTION, DIAGNOSIS_QUESTION
from skingpt4.taxonomy.free_text import ANSWER_FORM, find_concepts


@dataclass(frozen=True)
class Unit:
    """One case in one repeat, or with one change of its pictures: its questions are asked one after the other."""

    number: int
    repeat: int
    change: str | None


class Questions:
    """The questions of one arm: those of the task that its respondent can answer.

    `prompts` are the conversation, `probes` the questions outside it by what is read from their answers, and `scores`
    says whether closed sets are scored.
    """

    def __init__(self, respondent: Respondent, arm: str, task: Task, cases: Sequence[Case], num_prompts: int = 4,
                 concept_scores: bool = False, with_history: bool = False, seed: int = 0) -> None:  # fmt: skip
        self.respondent, self.arm, self.task, self.cases = respondent, arm, task, cases
        self.with_history, self.seed = with_history, seed
        prompts = CLINICAL_PROMPTS if task.prompts is None else task.prompts
        self.prompts = prompts[:num_prompts] if respondent.turns else ()
        self.probes = probes_of(task) if respondent.turns else {}
        if respondent.card.get("closed_set") != LIST:
            self.probes.pop("listed", None)
        self.concept_scores = (
            (concept_scores or task.needs_concept_scores)
            and bool(task.concepts)
            and (respondent.card.get("capabilities", {}).get("concept_scores", True))
        )
        self.scores = respondent.scores and bool(task.classes or self.concept_scores)

    @property
    def question(self) -> str:
        """The question that the closed set answers."""
        return self.task.question or DIAGNOSIS_QUESTION

    @cached_property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Class to the texts that stand for it."""
        return options_of(self.task, (case.known for case in self.cases))

    def keys(self, unit: Unit) -> list[Key]:
        """What is asked about a unit, in order; closed sets are scored only in the first repeat."""
        kinds = [("scores", 0)] if self.scores and unit.repeat == 0 else []
        kinds += [("turn", number) for number, _ in enumerate(self.prompts, 1)]
        kinds += [("probe", number) for number, _ in enumerate(self.probes, 1)]
        case_id = self.cases[unit.number].id
        return [Key(case_id, unit.repeat, unit.change, kind, number) for kind, number in kinds]

    def answers(self, unit: Unit, images: Sequence[Image.Image], done: dict[Key, Answer]) -> Iterator[Answer]:
        """Every answer about a unit that `done` does not hold yet; each is added to it.

        Raises:
            RespondentError: the next question was not answered.
        """
        case = self.cases[unit.number]
        for key in self.keys(unit):
            if key not in done:
                done[key] = Answer(self.arm, key, self._fields(case, key, images, done))
                yield done[key]

    def _fields(
        self, case: Case, key: Key, images: Sequence[Image.Image], done: Mapping[Key, Answer]
    ) -> dict[str, Any]:
        if key.kind == "scores":
            return self._scores(images)
        if key.kind == "turn":
            before = [done[replace(key, number=number)] for number in range(1, key.number)]
            prompt = self.prompts[key.number - 1]
            if not before and self.with_history and case.history:
                prompt = history.before(case.history, prompt)
            talk = [(answer.fields["prompt"], answer.text) for answer in before]
            line = self._reply(images, talk, prompt, key)
            return line | {"prompt": prompt, "image_sha256": case.image_sha256}
        what, question = list(self.probes.items())[key.number - 1]
        line = self._reply(images, [], question, key) | {"question": question}
        return line | read_answer(what, line["answer"], self.task, self.options)

    def _reply(
        self, images: Sequence[Image.Image], talk: Sequence[tuple[str, str]], question: str, key: Key
    ) -> dict[str, Any]:
        seed = seed_of(self.seed, key)
        reply: Reply = self.respondent.reply(images, talk, question, seed)
        return {
            "answer": reply.text,
            "num_tokens": reply.num_tokens,
            "seconds_to_first_token": _rounded(reply.seconds_to_first_token),
            "seconds": _rounded(reply.seconds),
            "seed": seed,
            **reply.fields,
        }

    def _scores(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        line: dict[str, Any] = {"class_scores": None, "concept_scores": None}
        if self.options:
            scores = self.respondent.score(images, self.question, self.options)
            line["class_scores"] = _rounded_all(scores)
        if self.concept_scores:
            options = {concept: (concept,) for concept in self.task.concepts}
            scores = self.respondent.score(images, CONCEPTS_QUESTION, options)
            line["concept_scores"] = _rounded_all(scores)
        return line


def read_answer(what: str, answer: str, task: Task, options: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """What is read from the answer to a single question.

    Args:
        what: "concepts", "class", or "listed" (a label out of a list).
        answer: as it was written.
        task: whose labels are read.
        options: class to the texts that stand for it.
    """
    if what == "concepts":
        return {"predicted_concepts": find_concepts(answer)}
    if what == "listed":
        return {"listed_class": chosen(answer, task.classes) or task.label_named(answer)}
    return read_task_class(answer, task.answer_form or ANSWER_FORM, task, options)


def probes_of(task: Task) -> dict[str, str]:
    """The single questions of a task by what is read from their answers."""
    probes = {"concepts": CONCEPTS_QUESTION} if task.concepts else {}
    if task.classes:
        probes |= {"class": task.question or DIAGNOSIS_QUESTION, "listed": task.list_text()}
    return probes


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _rounded_all(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(score), 4) for name, score in scores.items()}
