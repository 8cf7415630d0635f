"""The ratings form in the browser: how an `eval.rating.desk.View` is laid out, and what the keys do."""

from __future__ import annotations

import base64
import functools
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from eval.rating.desk import BEFORE, CONSENT, DONE, RATE, Desk, ReviewError, View
from eval.rating.questionnaire import COMMENT, MAX_TEXT, SCALE, Question, own_answer_number
from eval.rating.study import NO_APPROVAL, Study
from skingpt4.records.images import read_picture
from skingpt4.server import cover
from skingpt4.server.decoding.turns import decoded
from skingpt4.server.gradio_app import escape, note
from skingpt4.support.errors import UserError, trace_of
from skingpt4.support.parse import parse_json

logger = logging.getLogger(__name__)
TITLE = "Review of answers"
DISCLAIMER = "Research software, not a medical device. The answers shown here are not a diagnosis."
SHOWN_SIDE = 1600  # pixels; a larger picture is shown as a copy of this size
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

CSS = cover.CSS + Path(__file__).with_name("review.css").read_text(encoding="utf-8")
SCRIPT = f"<script>{Path(__file__).with_name('review.js').read_text(encoding='utf-8')}</script>"

READY = "() => window.reviewReady()"


@functools.lru_cache(maxsize=16)
def picture_uri(path: Path) -> str:
    """A picture without metadata and name, at most SHOWN_SIDE pixels a side, as a data URI."""
    with decoded(read_picture(path, "The picture"), "The picture") as (picture, _):
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def head(view: View, rater: str, serial: str) -> str:
    """Title, rater and progress."""
    which = f"Form {view.k + 1} of {view.n}" if view.stage != DONE else f"All {view.n} forms"
    again = ", revising" if view.revising and view.stage == RATE else ""
    return (
        f'<header data-view="{serial}" data-pictures="{_pictures_key(view)}"><h1>{TITLE}</h1>'
        f"<span>{which}{again}; {view.num_rated} rated</span>"
        f'<progress max="{max(view.n, 1)}" value="{view.num_rated}" aria-label="Forms rated"></progress>'
        f'<form method="post" action="logout">Rater {escape(rater)}, <button>Log out</button></form></header>'
    )


def _pictures_key(view: View) -> str:
    """Says which pictures a view shows; it is the same in all views of a case, so that they stay where they are."""
    return f"{view.k}-{len(view.pictures)}"


def pictures(view: View) -> str:
    """The case's pictures, covered if the study says so, and history."""
    figures = ""
    for n, path in enumerate(view.pictures, 1):
        image = f'<img src="{picture_uri(path)}" alt="Picture {n} of the case; click to enlarge">'
        shown = cover.covered(image, key=f"{view.k}-{n}") if view.study.cover else image
        figures += f"<figure>{shown}</figure>"
    history = (
        f'<p class="history"><strong>History:</strong> {escape(view.history)}</p>' if view.history else ""
    )
    return f'<div id="pictures" data-key="{_pictures_key(view)}">{figures}</div>{history}'


def consent(study: Study) -> str:
    """What raters agree to, and under which number it was approved."""
    paragraphs = "".join(f"<p>{escape(' '.join(part.split()))}</p>" for part in study.consent.split("\n\n"))
    approval = f"Approval: {study.approval}" if study.approval else NO_APPROVAL
    return (
        f'<section id="consent"><h2>Before you begin</h2>{paragraphs}<p><strong>{escape(approval)}</strong></p>'
        "<p>Your consent is recorded with the time, this text and the approval number.</p></section>"
    )


def sheet(view: View, serial: str) -> str:
    """What is asked now, under what the rater has read and written of the case so far."""
    if view.stage == DONE:
        thanks = "All forms are rated. Thank you! You can close this page now."
        return f'<p class="done" data-view="{serial}">{thanks}</p>'
    if view.stage == CONSENT:
        body = consent(view.study)
    else:
        turns = "".join(_turn(prompt, answer, "(no answer)") for prompt, answer in view.conversation)
        body = _own(view) + turns + _questions(view)
    return f'<form id="sheet" data-view="{serial}" onsubmit="return false" autocomplete="off">{body}</form>'


def _turn(prompt: str, answer: str, nothing: str) -> str:
    return (
        f'<div class="turn"><p class="asked">{escape(prompt)}</p>'
        f'<p class="said">{escape(answer) or nothing}</p></div>'
    )


def _own(view: View) -> str:
    """What the rater answered before the text; their own answers are folded once the text is shown."""
    answers, notes = "", ""
    for question, value in view.own:
        if own_answer_number(question.item):
            answers += _turn(question.text, value, "(left empty)")
        else:
            words = dict(question.choices).get(value, value)
            notes += f'<p class="own"><strong>{escape(question.title)}:</strong> {escape(words)}</p>'
    if answers:
        opened = " open" if view.stage == BEFORE else ""
        answers = f'<details class="own"{opened}><summary>Your own answers</summary>{answers}</details>'
    return notes + answers


def _questions(view: View) -> str:
    several = len(view.questions) > 1
    asked = [_question(question, n if several else 0, view) for n, question in enumerate(view.questions, 1)]
    kinds: set[str] = {question.kind for question in view.questions}
    head = ""
    if "scale" in kinds:
        words = "".join(f"<span>{number} {SCALE[number]}</span>" for number in sorted(SCALE))
        head = f'<div class="words" aria-hidden="true"><span></span>{words}</div>'
    comment = ""
    if view.stage == RATE:
        text = escape(view.values.get(COMMENT, ""))
        comment = (
            '<label class="comment" for="comment">Comment (optional)</label>'
            f'<textarea id="comment" name="{COMMENT}" maxlength="{MAX_TEXT}">{text}</textarea>'
        )
    gaps = '<p class="gaps" role="status">Not saved yet: please answer the questions marked in red.</p>'
    return f'{head}{"".join(asked)}{comment}{gaps}<p class="keys">{_keys(kinds)}</p>'


def _keys(kinds: set[str]) -> str:
    """Which keys answer these kinds of questions."""
    if "text" in kinds:
        return "Enter starts a new line; Ctrl+Enter continues."
    digits = "1 to 5" if "scale" in kinds else "1 to 4" if "urgency" in kinds else ""
    keys = f"{digits} answer the highlighted question, " if digits else ""
    keys += "Y or N the last one; " if "yes_no" in kinds else ""
    lines = " (Shift+Enter starts a new line in a text)" if kinds & {"line", "scale"} else ""
    return f"Keys: {keys}Enter saves and continues{lines}."


def _question(question: Question, number: int, view: View) -> str:
    """One line of the questionnaire, numbered from 1; 0 gives it no number."""
    item = question.item
    title = f"{number}. {question.text}" if number else question.text
    hint = f'<p class="hint" id="hint-{item}">{escape(question.hint)}</p>' if question.hint else ""
    if question.kind in ("line", "text"):
        needed = " required" if question.required else ""
        described = f' aria-describedby="hint-{item}"' if hint else ""
        return (
            f'<div class="item {question.kind}"><label for="field-{item}">{escape(title)}</label>{hint}'
            f'<textarea id="field-{item}" name="{item}" maxlength="{MAX_TEXT}"{needed}{described}></textarea></div>'
        )
    labels = "".join(
        f'<label title="{escape(spoken)}"><input type="radio" name="{item}" value="{value}" data-key="{key}" '
        f'aria-label="{escape(spoken if shown == spoken else f"{shown}, {spoken}")}"'
        f"{' checked' if view.values.get(item) == value else ''}><span>{escape(shown)}</span></label>"
        for key, value, shown, spoken in _choices(question)
    )
    return (
        f'<div class="item {question.kind}" role="radiogroup" aria-labelledby="item-{item}">'
        f'<p id="item-{item}">{escape(title)}</p>{labels}</div>'
    )


def _choices(question: Question) -> list[tuple[str, str, str, str]]:
    """(key, value, words, spoken words) of each choice."""
    if question.kind == "yes_no":
        return [("y", "1", "Yes", "yes"), ("n", "0", "No", "no")]
    if question.kind == "urgency":
        return [(str(n), value, words, words) for n, (value, words) in enumerate(question.choices, 1)]
    return [(str(number), str(number), str(number), SCALE[number]) for number in sorted(SCALE)]


def _go_on(view: View) -> str:
    """The words on the button that sends this view's form."""
    if view.stage == BEFORE:
        return "Continue" if view.steps_left else "Show the answers"
    return "I agree, start" if view.stage == CONSENT else "Save and continue"


class Page:
    """What the controls do: a view of the desk as values of the components.

    `now` is (place, stage, items asked, serial, since).
    """

    def __init__(self, desk: Desk) -> None:
        """Serve this desk to all raters."""
        self.desk = desk

    def show(self, view: View, rater: str, message: str = "") -> list[Any]:
        """Values of all components for a view."""
        since = time.monotonic()
        serial = f"{view.k}-{view.stage}-{since:.6f}"
        try:
            seen = pictures(view)
        except UserError as error:
            seen = (
                f'<div id="pictures" data-key="{_pictures_key(view)}">{note(str(error), failed=True)}</div>'
            )
        return [
            (view.k, view.stage, [question.item for question in view.questions], serial, since),
            head(view, rater, serial),
            seen,
            gr.Button(_go_on(view), visible=view.stage != DONE),
            gr.Button(visible=view.k > 0),
            sheet(view, serial),
            note(message),
        ]

    def _try(self, rater: str, act: Callable[[], View], message: str = "") -> list[Any]:
        """The next view, or only a note of why there is none; what the rater has entered stays."""
        try:
            return self.show(act(), rater, message)
        except UserError as error:
            why = str(error)
        except Exception as error:
            logger.error("unexpected failure on the form\n%s", trace_of(error))
            why = f"Something unexpected failed ({type(error).__name__}); the terminal shows where."
        return [gr.skip()] * 6 + [note(f"Not saved. {why}", failed=True)]

    def open(self, request: gr.Request) -> list[Any]:
        """The page was loaded: go on where the rater stopped."""
        rater = str(request.username)
        return self._try(rater, lambda: self.desk.open(rater))

    def go_on(self, now: tuple | None, collected: str, request: gr.Request) -> list[Any]:
        """Save what the form on the page holds."""
        rater = str(request.username)
        place, stage, items, serial, since = now or (0, "", [], None, 0.0)

        def act() -> View:
            try:
                sent = parse_json(collected or "{}")
            except ValueError:
                sent = None
            values = sent.get("values") if isinstance(sent, dict) and sent.get("serial") == serial else None
            if serial is None or not isinstance(values, dict):
                raise ReviewError("This page is out of date; load it again.")
            if stage == CONSENT:
                return self.desk.agree(rater)
            seconds = time.monotonic() - since
            if stage == BEFORE:
                return self.desk.answer(rater, place, items, values, seconds)
            return self.desk.rate(rater, place, values, seconds)

        return self._try(rater, act, "" if stage == CONSENT else "Saved.")

    def back(self, now: tuple | None, request: gr.Request) -> list[Any]:
        """Show the form before, to be revised."""
        rater = str(request.username)
        return self._try(rater, lambda: self.desk.back(rater, now[0] if now else 0))


def build(desk: Desk) -> gr.Blocks:
    """Lay the page out and connect its controls."""
    page = Page(desk)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        title = gr.HTML("")
        gr.HTML(f'<p role="note">{DISCLAIMER}</p>', elem_id="disclaimer")
        now, collected = gr.State(None), gr.Textbox(visible=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_id="seen"):
                seen = gr.HTML("")
            with gr.Column(scale=6, min_width=320):
                asked = gr.HTML("")
                line = gr.HTML("", elem_id="note")
                with gr.Row(elem_id="buttons"):
                    back = gr.Button("Back", min_width=90, scale=1, visible=False)
                    save = gr.Button("Continue", variant="primary", scale=3, elem_id="save", visible=False)
        shown = [now, title, seen, save, back, asked, line]
        collect = "(now) => [now, window.reviewCollect()]"
        then: dict[str, Any] = {"fn": None, "js": READY, "show_progress": "hidden"}
        blocks.load(page.open, None, shown, **QUIET).then(**then)
        save.click(page.go_on, [now, collected], shown, js=collect, **QUIET).then(**then)
        back.click(page.back, now, shown, **QUIET).then(**then)
    return blocks
