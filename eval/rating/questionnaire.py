"""What raters are asked, by role: the published items, the lay form, urgency, and what comes before any text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.rating.study import Study

# The statements of the published questionnaire, for a model whose name is not shown.
ITEMS: dict[str, str] = {
    "diagnosis": "The diagnosis is correct or relevant.",
    "description": "The description is informative.",
    "suggestions": "The suggestions are useful.",
    "helps_doctors": "It can help doctors with diagnosis.",
    "helps_patients": "It can help patients to understand their disease better.",
    "privacy": "If it can be deployed locally, it protects patients' privacy.",
    "willingness": "I would be willing to use it.",
}
# Items 3 and 5, which need no medical training, in words for people without any.
LAY_ITEMS: dict[str, str] = {
    "suggestions": "The advice in this text is useful.",
    "helps_patients": "This text helps someone with this skin problem to understand it better.",
}
SCALE: dict[int, str] = {
    5: "strongly agree", 4: "agree", 3: "neutral", 2: "disagree", 1: "strongly disagree",
}  # fmt: skip
AGREE = (4, 5)  # what the paper counts as agreement
FLAG = "hallucination"
FLAG_TEXT = "Does the text state something that is not in the picture or is made up (a hallucination)?"

DERMATOLOGIST, PHYSICIAN, LAY = "dermatologist", "physician", "lay"
ROLES: dict[str, str] = {DERMATOLOGIST: "dermatologist", PHYSICIAN: "other physician", LAY: "lay user"}
UNKNOWN_ROLE = ""  # of raters from before roles; they get the published form
UNKNOWN = "unknown"  # its name among results

# `own_...` is asked once a case, before a text about it is shown, and never changed. `own_answer_1` answers prompt 1.
OWN_DIAGNOSIS, OWN_URGENCY, OWN_ANSWER = "own_diagnosis", "own_urgency", "own_answer_{}"
URGENCY_ITEM, COMMENT = "urgency", "comment"
MAX_TEXT = 8000  # characters of a text

# Words for each of eval.asking.cases.URGENCY.
URGENCY_WORDS: dict[str, str] = {
    "self-care": "Self-care: no doctor is needed",
    "routine": "Routine: an appointment in the next weeks",
    "soon": "Soon: within a few days",
    "today": "Today: urgent",
}
LAY_URGENCY_WORDS: dict[str, str] = {
    "self-care": "Not at all, I would take care of it myself",
    "routine": "At a normal appointment in the next weeks",
    "soon": "Within a few days",
    "today": "Today, without waiting",
}


@dataclass(frozen=True)
class Question:
    """One question of a form.

    `kind` says how it is answered: on the five-point scale, by yes or no, by an urgency (`choices`: value -> words),
    in a line that must not be empty, or in a text that may be.
    """

    item: str
    text: str
    title: str = ""  # in a few words, where the answer is shown later
    kind: Literal["scale", "yes_no", "urgency", "line", "text"] = "scale"
    hint: str = ""
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def required(self) -> bool:
        """Whether a form without an answer to it is refused."""
        return self.kind != "text"


def is_own(item: str) -> bool:
    """Whether an item is asked before the first text about a case."""
    return item in (OWN_DIAGNOSIS, OWN_URGENCY) or own_answer_number(item) is not None


def own_answer_number(item: str) -> int | None:
    """Which prompt an item answers in the rater's own words, from 1; None for other items."""
    match = re.fullmatch(OWN_ANSWER.format("([1-9][0-9]?)"), item)
    return int(match[1]) if match else None


def is_text(item: str) -> bool:
    """Whether an item is answered in words, which may be any."""
    return item in (OWN_DIAGNOSIS, COMMENT) or own_answer_number(item) is not None


def is_urgency(item: str) -> bool:
    """Whether an item is answered by one of `URGENCY`."""
    return item in (OWN_URGENCY, URGENCY_ITEM)


def steps_before(role: str, study: Study, prompts: Sequence[str] = ()) -> list[tuple[Question, ...]]:
    """What a rater is asked of a case before its first text, step by step; empty where nothing is.

    Args:
        role: of the rater.
        study: what the study asks for.
        prompts: that the model was asked.
    """
    lay = role == LAY
    first: list[Question] = []
    if not lay:
        text = "Your own diagnosis, before any answer is shown"
        hint = "One or more, the most likely first. You cannot change this later."
        first.append(Question(OWN_DIAGNOSIS, text, "Your own diagnosis", "line", hint))
    if study.urgency:
        text = "How soon should this patient be seen?"
        if lay:
            text = "If this were your skin: when would you see a doctor?"
        first.append(_urgency(OWN_URGENCY, text, lay))
    steps = [tuple(first)] if first else []
    if study.own_answers and role == DERMATOLOGIST:
        hint = "In your own words, before any answer is shown. You may leave this empty; you cannot change it later."
        steps += [
            (Question(OWN_ANSWER.format(n), prompt, prompt, "text", hint),)
            for n, prompt in enumerate(prompts, 1)
        ]
    return steps


def statement(item: str, role: str) -> str:
    """The sentence of a scaled item as raters of this role read it."""
    return LAY_ITEMS.get(item, ITEMS[item]) if role == LAY else ITEMS[item]


def form_of(role: str, study: Study) -> tuple[Question, ...]:
    """What a rater is asked about a text."""
    lay = role == LAY
    questions = [Question(item, statement(item, role)) for item in (LAY_ITEMS if lay else ITEMS)]
    if study.urgency:
        text = (
            "After reading this text: when would you see a doctor?"
            if lay
            else "How soon would a patient who follows this text see a doctor?"
        )
        questions.append(_urgency(URGENCY_ITEM, text, lay))
    if not lay:
        questions.append(Question(FLAG, FLAG_TEXT, kind="yes_no"))
    return tuple(questions)


def _urgency(item: str, text: str, lay: bool) -> Question:
    words = LAY_URGENCY_WORDS if lay else URGENCY_WORDS
    title = "Before the text, you would see a doctor" if lay else "Your own judgement of urgency"
    return Question(item, text, title, "urgency", choices=tuple(words.items()))
