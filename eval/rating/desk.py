"""What a rater is shown of a run, and when: blinded, in the rater's own order, the own diagnosis before any text.

No Gradio here: `eval.rating.form` lays out the `View`s that a `Desk` gives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from eval.asking.answers import Run
from eval.rating.ratings import FLAG, ITEMS
from eval.rating.store import Sheet, Store, clean
from skingpt4.records.archives import exists
from skingpt4.records.naming import hint, image_path
from skingpt4.support.errors import UserError

NEUTRAL = "the system"
# Families of models; a version or size that follows (`-13b-v1.5`, ` 4`) goes with the name.
FAMILIES = (
    r"(?:open[- ]?)?skin[- ]?gpt", "mini[- ]?gpt", "chat[- ]?gpt", "gpt", "vicuna", "(?:code|med)?[- ]?llama",
    "llava", "alpaca", r"falcon[- ]\d+b", "smol(?:lm|vlm)", "qwen", "(?:med[- ]?)?gemma", "mi[sx]tral", "blip",
)  # fmt: skip
SIZE = r"(?:[-\s]?v?\d(?:[\w.-]*\w)?|-[\w.-]*\w)?"
ORDINARY = {"blank", "noise", "untrained"}  # arms whose names are words of their own and tell a rater nothing
DIAGNOSE, RATE, DONE = "diagnose", "rate", "done"


class ReviewError(UserError):
    """A review that cannot be held, or a form that cannot be taken; the message says what is missing."""


@dataclass(frozen=True)
class View:
    """What is shown at place `k` (from 0) of `n`. `conversation` is empty until the own diagnosis is saved."""

    k: int
    n: int
    stage: str
    pictures: tuple[Path, ...] = ()
    history: str = ""
    own: str = ""
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


def name_pattern(arms: Sequence[str], models: Sequence[str]) -> re.Pattern[str]:
    """Matches names by which a text could give its arm away."""
    words = [re.escape(arm) for arm in arms if arm.lower() not in ORDINARY]
    words += [re.escape(PurePath(model).name) for model in models if model]
    names = "|".join(sorted(words, key=len, reverse=True)) or r"(?!)"
    return re.compile(rf"(?<!\w)(?:(?:{names})|(?:{'|'.join(FAMILIES)}){SIZE})(?!\w)", re.IGNORECASE)


def select(
    run: Run, folder: Path, arms: Sequence[str] | None = None, num_cases: int | None = None
) -> Material:
    """What of a run is shown: only complete conversations, without the names of arms and models.

    Args:
        run: from `eval.asking.answers.read_run`.
        folder: what the pictures' paths are relative to (the folder of the list of cases).
        arms: only these.
        num_cases: only this many, evenly spaced over the list: the same ones for every rater.

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
    num_shown = min(num_cases or len(names), len(names))
    cases = tuple(names[place * len(names) // num_shown] for place in range(num_shown))
    pattern = name_pattern(
        tuple(run.arms), [str(arm.meta.get("language_model", "")) for arm in run.arms.values()]
    )
    conversations = {}
    for arm in chosen:
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
    if missing:
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

    def open(self, rater: str, k: int | None = None) -> View:
        """The sheet at place k, or the rater's first without a complete form."""
        sheets, rated = self._sheets(rater), self.store.rated(rater)
        done = [sheet[1:] in rated for sheet in sheets]
        current = done.index(False) if False in done else len(sheets)
        k = current if k is None else min(max(k, 0), current)
        if k == len(sheets):
            return View(k, len(sheets), DONE, num_rated=sum(done))
        sheet = sheets[k]
        own = self.store.own_diagnosis(rater, sheet.case_id)
        values = self.store.form(rater, sheet.arm, sheet.case_id) if own is not None else {}
        return View(
            k,
            len(sheets),
            DIAGNOSE if own is None else RATE,
            self.material.pictures[sheet.case_id],
            self.material.histories[sheet.case_id],
            own or "",
            () if own is None else self.material.conversations[sheet[1:]],
            values,
            sum(done),
            done[k],
        )

    def diagnose(self, rater: str, k: int, text: str, seconds: float) -> View:
        """Save the rater's own diagnosis, then show the text. A second page does not change what is saved.

        Raises:
            ReviewError: it is empty.
        """
        text = clean(text)
        if not text:
            raise ReviewError(
                "Write your own diagnosis first ('not known' is one); then the answers are shown."
            )
        view = self.open(rater, k)
        if view.stage == DIAGNOSE:
            _, arm, case_id = self._sheets(rater)[view.k]
            self.store.save(rater, arm, case_id, {"own_diagnosis": text}, seconds)
            view = self.open(rater, k)
        return view

    def rate(self, rater: str, k: int, values: Mapping[str, str], seconds: float) -> View:
        """Save a complete form, then show the first sheet without one.

        Raises:
            ReviewError: an answer is missing, or the own diagnosis is; nothing is saved.
            RatingsError: an answer that is not on its scale.
        """
        if self.open(rater, k).stage != RATE:
            raise ReviewError("This form cannot be taken now; load the page again.")
        missing = [item for item in (*ITEMS, FLAG) if not values.get(item)]
        if missing:
            numbers = [str([*ITEMS, FLAG].index(item) + 1) for item in missing]
            raise ReviewError(f"Still to be answered: {', '.join(numbers)}.")
        _, arm, case_id = self._sheets(rater)[k]
        form = {item: str(values[item]) for item in (*ITEMS, FLAG)}
        self.store.save(rater, arm, case_id, form | {"comment": str(values.get("comment") or "")}, seconds)
        return self.open(rater)

    def back(self, rater: str, k: int) -> View:
        """The sheet before, to be revised."""
        return self.open(rater, max(k - 1, 0))
