"""What a rater is shown of a run, and when: blinded, in the rater's own order, their own opinion before any text.

No Gradio here: `eval.rating.form` lays out the `View`s that a `Desk` gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from eval.asking.answers import Run, spread_places
from eval.rating.questionnaire import (
    COMMENT,
    MAX_TEXT,
    OWN_DIAGNOSIS,
    UNKNOWN_ROLE,
    Question,
    form_of,
    steps_before,
)
from eval.rating.store import Sheet, Store, clean
from eval.rating.study import Study, agree, has_agreed, read_study
from skingpt4.records.archives import exists
from skingpt4.records.naming import hint, image_path
from skingpt4.support.errors import UserError

NEUTRAL = "the system"
# What may stand between the parts of a name, or nothing: also hyphens that break no line, and signs of no width.
GAP = r"[-_\s\u00ad\u200b-\u200d\u2010-\u2015\u2212\ufeff]?"
# Families of models; a version or size that follows (`-13b-v1.5`, ` 4`) goes with the name.
FAMILIES = tuple(name.replace(" ", GAP) for name in (
    "(?:open )?skin gpt", "mini gpt", "chat gpt", "gpt", "vicuna", "(?:(?:code|med) )?llama", "llava", "alpaca",
    r"falcon \d+b", "smol (?:lm|vlm)", "qwen", "(?:(?:med|pali) )?gemma", "mi[sx]tral", "(?:instruct)?blip",
    "intern vl", "idefics", "gemini", "deep seek", r"phi [34]", "claude", "derm (?:gpt|vlm|llava)", "pan derm",
))  # fmt: skip
# Who made them, as a text says that speaks of itself.
MAKERS = (
    r"open\s?ai", "anthropic", r"alibaba(?:\s+cloud)?", "tongyi", r"meta\s+(?:ai|platforms)", r"mistral\s+ai",
    r"google\s+(?:ai|deepmind|research)", "deepmind", r"hugging\s?face", r"microsoft(?:\s+research)?", "lmsys",
)  # fmt: skip
SIZE = rf"(?:{GAP}v?\d(?:[\w.\u2010-\u2015\u2212-]*[^\W_])?|[-\u2010-\u2015\u2212][\w.-]*[^\W_])?"
ORDINARY = {"blank", "noise", "untrained"}  # arms whose names are words of their own and tell a rater nothing
CONSENT, BEFORE, RATE, DONE = "consent", "before", "rate", "done"


class ReviewError(UserError):
    """A review that cannot be held, or a form that cannot be taken; the message says what is missing."""


@dataclass(frozen=True)
class View:
    """What is shown at place `k` (from 0) of `n`. `conversation` is empty until all that comes before it is saved.

    `questions` are asked now, and after them `steps_left` more steps before the text; `own` is what the rater
    answered in those steps, as (question, answer).
    """

    k: int
    n: int
    stage: str
    study: Study
    pictures: tuple[Path, ...] = ()
    history: str = ""
    questions: tuple[Question, ...] = ()
    steps_left: int = 0
    own: tuple[tuple[Question, str], ...] = ()
    conversation: tuple[tuple[str, str], ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    num_rated: int = 0
    revising: bool = False


@dataclass(frozen=True)
class Material:
    """The part of a run that is shown."""

    arms: tuple[str, ...]
    cases: tuple[str, ...]
    pictures: Mapping[str, tuple[Path, ...]]
    histories: Mapping[str, str]
    conversations: Mapping[tuple[str, str], tuple[tuple[str, str], ...]]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the models were asked, by the longest of the conversations."""
        return tuple(prompt for prompt, _ in max(self.conversations.values(), key=len))


def name_pattern(arms: Sequence[str], models: Sequence[str]) -> re.Pattern[str]:
    """Matches names by which a text could give its arm away; those of models however their parts are joined."""
    words = [re.escape(arm) for arm in arms if arm.lower() not in ORDINARY]
    for model in filter(None, models):
        parts = re.split(GAP[:-1], PurePath(model).name)
        words.append(GAP.join(map(re.escape, filter(None, parts))))
    names = "|".join([*sorted(filter(None, words), key=len, reverse=True), *MAKERS])
    return re.compile(rf"(?<![^\W_])(?:(?:{names})|(?:{'|'.join(FAMILIES)}){SIZE})(?![^\W_])", re.IGNORECASE)


def select(
    run: Run,
    folder: Path,
    arms: Sequence[str] | None = None,
    num_cases: int | None = None,
    shows_pictures: bool = True,
) -> Material:
    """What of a run is shown: only complete conversations, without the names of arms and models.

    Args:
        run: from `eval.asking.answers.read_run`.
        folder: what the pictures' paths are relative to (the folder of the list of cases).
        arms: only these.
        num_cases: only this many, evenly spread over the list: the same ones for every rater.
        shows_pictures: whether they have to be there; counts need none.

    Raises:
        ReviewError: an unknown arm, no complete conversation, or missing pictures.
    """
    chosen = tuple(dict.fromkeys(arms or run.arms))
    unknown = [arm for arm in chosen if arm not in run.arms]
    if unknown:
        raise ReviewError(f"{run.folder}: has no arm {unknown[0]!r}; it has {', '.join(run.arms)}")
    if num_cases is not None and num_cases < 1:
        raise ReviewError("--num-cases must be 1 or more")
    names = tuple(run.cases)
    cases = tuple(names[place] for place in spread_places(len(names), num_cases))
    models = [str(arm.meta.get("language_model") or "") for arm in run.arms.values()]
    pattern = name_pattern(tuple(run.arms), models)
    conversations = {}
    for arm in chosen:
        if not run.arms[arm].meta.get("texts", True):
            continue  # imported times, without any text
        turns: dict[str, dict[int, tuple[str, str]]] = {}
        for answer in run.arms[arm].of("turn"):
            turn = (str(answer.fields["prompt"]), pattern.sub(NEUTRAL, answer.text))
            turns.setdefault(answer.key.case_id, {})[answer.key.number] = turn
        num_prompts = len(run.arms[arm].meta.get("prompts") or ()) or max(map(len, turns.values()), default=1)
        for case in cases:
            if len(turns.get(case, ())) >= num_prompts:
                conversations[arm, case] = tuple(turn for _, turn in sorted(turns[case].items()))
    if not conversations:
        raise ReviewError(f"{run.folder}: holds no complete conversation yet; finish eval.run first")
    pictures = {case: tuple(image_path(folder, name) for name in run.cases[case]["images"]) for case in cases}
    missing = [path for paths in pictures.values() for path in paths if not exists(path)]
    if missing and shows_pictures:
        raise ReviewError(
            f"{missing[0]}: no such picture ({len(missing)} missing){hint(missing[0])}; --cases names the list of "
            "cases beside its pictures"
        )
    histories = {case: str(run.cases[case].get("history") or "") for case in cases}
    return Material(chosen, cases, pictures, histories, conversations)


@dataclass(frozen=True)
class Desk:
    """What the form's controls do. All that matters is in the store, so a page may be closed or doubled."""

    store: Store
    material: Material

    def _sheets(self, rater: str) -> list[Sheet]:
        material = self.material
        sheets = self.store.sheets(rater, material.arms, material.cases)
        return [sheet for sheet in sheets if sheet[1:] in material.conversations]

    def _role(self, rater: str) -> str:
        return self.store.roles().get(rater, UNKNOWN_ROLE)

    def progress(self, rater: str) -> tuple[int, int]:
        """How many of the rater's forms are complete, and how many there are."""
        done = self._done(rater, self._sheets(rater), read_study(self.store))
        return sum(done), len(done)

    def _done(self, rater: str, sheets: Sequence[Sheet], study: Study) -> list[bool]:
        needed = [question.item for question in form_of(self._role(rater), study) if question.required]
        rated = self.store.rated(rater, needed)
        return [sheet[1:] in rated for sheet in sheets]

    def open(self, rater: str, k: int | None = None) -> View:
        """The sheet at place k, or the rater's first without a complete form; before all, the consent."""
        sheets, study, role = self._sheets(rater), read_study(self.store), self._role(rater)
        done = self._done(rater, sheets, study)
        n, num_rated = len(sheets), sum(done)
        if not has_agreed(self.store, rater, study):
            return View(0, n, CONSENT, study, num_rated=num_rated)
        current = done.index(False) if False in done else n
        k = current if k is None else min(max(k, 0), current)
        if k == n:
            return View(k, n, DONE, study, num_rated=num_rated)
        sheet = sheets[k]
        answered = self.store.own(rater, sheet.case_id)
        steps = steps_before(role, study, self.material.prompts)
        open_steps = [step for step in steps if any(question.item not in answered for question in step)]
        own = [(q, answered[q.item]) for step in steps for q in step if q.item in answered]
        view = View(
            k, n, BEFORE, study, self.material.pictures[sheet.case_id], self.material.histories[sheet.case_id],
            own=tuple(own), num_rated=num_rated, revising=done[k],
        )  # fmt: skip
        if open_steps:
            return replace(view, questions=open_steps[0], steps_left=len(open_steps) - 1)
        return replace(
            view,
            stage=RATE,
            questions=form_of(role, study),
            conversation=self.material.conversations[sheet[1:]],
            values=self.store.form(rater, sheet.arm, sheet.case_id),
        )

    def agree(self, rater: str) -> View:
        """The rater agrees to take part; then the first case is shown."""
        agree(self.store, rater, read_study(self.store))
        return self.open(rater)

    def answer(
        self, rater: str, k: int, items: Sequence[str], values: Mapping[str, object], seconds: float
    ) -> View:
        """Save what is asked before the text, then show what comes next.

        A second page with the same questions does not change what is saved.

        Args:
            rater: who answers.
            k: place of the sheet.
            items: of the questions that were shown.
            values: by item.
            seconds: since they were shown.

        Raises:
            ReviewError: an answer is missing; nothing is saved.
            RatingsError: an answer that is not in its list.
        """
        view = self.open(rater, k)
        if view.stage == BEFORE and [question.item for question in view.questions] == list(items):
            answers = _complete(view.questions, values)
            _, arm, case_id = self._sheets(rater)[view.k]
            self.store.save(rater, arm, case_id, answers, seconds)
            view = self.open(rater, k)
        return view

    def rate(self, rater: str, k: int, values: Mapping[str, object], seconds: float) -> View:
        """Save a complete form, then show the first sheet without one.

        Raises:
            ReviewError: an answer is missing, or what comes before it is; nothing is saved.
            RatingsError: an answer that is not on its scale.
        """
        view = self.open(rater, k)
        if view.stage != RATE:
            raise ReviewError("This form cannot be taken now; load the page again.")
        comment = Question(COMMENT, "", kind="text")
        form = _complete((*view.questions, comment), values)
        _, arm, case_id = self._sheets(rater)[view.k]
        self.store.save(rater, arm, case_id, form, seconds)
        return self.open(rater)

    def back(self, rater: str, k: int) -> View:
        """The sheet before, to be revised."""
        return self.open(rater, max(k - 1, 0))


def _complete(questions: Sequence[Question], values: Mapping[str, object]) -> dict[str, str]:
    """The answer to each question.

    Raises:
        ReviewError: a required one is missing.
    """
    answers = {question.item: clean(str(values.get(question.item) or "")) for question in questions}
    numbers = [str(n) for n, q in enumerate(questions, 1) if q.required and not answers[q.item]]
    if any(len(text) > MAX_TEXT for text in answers.values()):
        raise ReviewError(f"A text may have at most {MAX_TEXT} characters.")
    if not answers.get(OWN_DIAGNOSIS, "x"):
        raise ReviewError("Write your own diagnosis first ('not known' is one); then the answers are shown.")
    if numbers:
        raise ReviewError(f"Still to be answered: {', '.join(numbers)}.")
    return answers
