"""The ratings form in the browser: how an `eval.rating.desk.View` is laid out, and what the keys do."""

from __future__ import annotations

import base64
import functools
import io
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from eval.rating.desk import DIAGNOSE, DONE, RATE, Desk, ReviewError, View
from eval.rating.ratings import FLAG, ITEMS, SCALE
from skingpt4.records.images import read_picture
from skingpt4.server.decoding import decoded
from skingpt4.server.gradio_app import escape, note
from skingpt4.support.errors import UserError
from skingpt4.support.parse import parse_json

TITLE = "Review of answers"
DISCLAIMER = "Research software, not a medical device. The answers shown here are not a diagnosis."
FLAG_TEXT = "Does the text state something that is not in the picture or is made up (a hallucination)?"
SHOWN_SIDE = 1600  # pixels; a larger picture is shown as a copy of this size
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

CSS = Path(__file__).with_name("review.css").read_text(encoding="utf-8")
SCRIPT = f"<script>{Path(__file__).with_name('review.js').read_text(encoding='utf-8')}</script>"

READY = "() => window.reviewReady()"


@functools.lru_cache(maxsize=16)
def picture_uri(path: Path) -> str:
    """A picture without metadata and name, at most SHOWN_SIDE pixels a side, as a data URI."""
    with decoded(read_picture(path, "The picture"), "The picture") as picture:
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def head(view: View, rater: str, serial: str) -> str:
    """Title, rater and progress."""
    which = f"Form {view.k + 1} of {view.n}" if view.stage != DONE else f"All {view.n} forms"
    again = ", revising" if view.revising and view.stage == RATE else ""
    return (
        f'<header data-view="{serial}"><h1>{TITLE}</h1><span>{which}{again}; {view.num_rated} rated</span>'
        f'<progress max="{max(view.n, 1)}" value="{view.num_rated}" aria-label="Forms rated"></progress>'
        f'<form method="post" action="/logout">Rater {escape(rater)}, <button>log out</button></form></header>'
    )


def pictures(view: View) -> str:
    """The case's pictures and history."""
    figures = "".join(
        f'<figure><img src="{picture_uri(path)}" alt="Picture {n} of the case; a click enlarges it"></figure>'
        for n, path in enumerate(view.pictures, 1)
    )
    history = (
        f'<p class="history"><strong>History:</strong> {escape(view.history)}</p>' if view.history else ""
    )
    return f'<div id="pictures">{figures}</div>{history}'


def sheet(view: View, serial: str) -> str:
    """The conversation and the questionnaire, or what stands there when all is done."""
    if view.stage == DONE:
        return '<p class="done">All forms are rated. Thank you; this page can be closed.</p>'
    if view.stage == DIAGNOSE:
        return ""
    turns = "".join(
        f'<div class="turn"><p class="asked">{escape(prompt)}</p>'
        f'<p class="said">{escape(answer) or "(no answer)"}</p></div>'
        for prompt, answer in view.conversation
    )
    words = "".join(f"<span>{number} {SCALE[number]}</span>" for number in sorted(SCALE))
    scale = [(str(number), str(number), str(number), SCALE[number]) for number in sorted(SCALE)]
    items = [_group(n, item, statement, scale, view) for n, (item, statement) in enumerate(ITEMS.items(), 1)]
    yes_no = [("y", "1", "Yes", "yes"), ("n", "0", "No", "no")]
    items.append(_group(len(ITEMS) + 1, FLAG, FLAG_TEXT, yes_no, view))
    return (
        f'<p class="own"><strong>Your own diagnosis:</strong> {escape(view.own)}</p>{turns}'
        f'<form id="sheet" data-serial="{serial}" onsubmit="return false" autocomplete="off">'
        f'<div class="words" aria-hidden="true"><span></span>{words}</div>{"".join(items)}'
        '<label class="comment" for="comment">Comment (if you like)</label>'
        f'<textarea id="comment" name="comment" maxlength="4000">{escape(view.values.get("comment", ""))}</textarea>'
        '<p class="gaps" role="status">Not saved yet: the lines marked in red are still to be answered.</p>'
        '<p class="keys">Keys: 1 to 5 answer the marked line, Y or N the last; Enter saves and goes on '
        "(in the comment too; Shift+Enter begins a line).</p></form>"
    )


def _group(
    number: int, item: str, statement: str, choices: list[tuple[str, str, str, str]], view: View
) -> str:
    """One line of the questionnaire; choices are (key, value, label, spoken label)."""
    labels = "".join(
        f'<label title="{spoken}"><input type="radio" name="{item}" value="{value}" data-key="{key}" '
        f'aria-label="{label}, {spoken}"{" checked" if view.values.get(item) == value else ""}>'
        f"<span>{label}</span></label>"
        for key, value, label, spoken in choices
    )
    return (
        f'<div class="item" role="radiogroup" aria-labelledby="item-{item}">'
        f'<p id="item-{item}">{number}. {escape(statement)}</p>{labels}</div>'
    )


class Page:
    """What the controls do: a view of the desk as values of the components. `now` is (place, serial, since)."""

    def __init__(self, desk: Desk) -> None:
        """Serve this desk to all raters."""
        self.desk = desk

    def show(self, view: View, rater: str, message: str = "") -> list[Any]:
        """Values of all components for a view."""
        since = time.monotonic()
        serial = f"{view.k}-{view.stage}-{since:.6f}"
        asking = view.stage == DIAGNOSE
        try:
            seen = pictures(view)
        except UserError as error:
            seen = note(str(error), failed=True)
        return [
            (view.k, serial, since),
            head(view, rater, serial),
            seen,
            gr.Textbox(value="", visible=asking),
            gr.Button("Show the answers" if asking else "Save and go on", visible=view.stage != DONE),
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
            traceback.print_exception(error)
            why = f"Something unexpected failed ({type(error).__name__}); the terminal shows where."
        return [gr.skip()] * 7 + [note(f"Not saved. {why}", failed=True)]

    def open(self, request: gr.Request) -> list[Any]:
        """The page was loaded: go on where the rater stopped."""
        rater = str(request.username)
        return self._try(rater, lambda: self.desk.open(rater))

    def go_on(self, now: tuple | None, own: str, collected: str, request: gr.Request) -> list[Any]:
        """Save the own diagnosis, or the form."""
        rater = str(request.username)

        def act() -> View:
            place, serial, since = now or (None, "", 0.0)
            sent = parse_json(collected or "{}")
            if place is None:
                raise ReviewError("This page is out of date; load it again.")
            if not sent.get("serial"):  # only the own diagnosis is sent
                return self.desk.diagnose(rater, place, own, time.monotonic() - since)
            if sent["serial"] != serial:
                raise ReviewError("This page is out of date; load it again.")
            return self.desk.rate(rater, place, sent["values"], time.monotonic() - since)

        return self._try(rater, act, "Saved.")

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
                own = gr.Textbox(
                    label="Your own diagnosis, before any answer is shown", visible=False, elem_id="own",
                    info="One or several, the likeliest first. It cannot be changed afterwards. Enter goes on.",
                    max_length=1000,
                )  # fmt: skip
                asked = gr.HTML("")
                line = gr.HTML("", elem_id="note")
                with gr.Row(elem_id="buttons"):
                    back = gr.Button("Back", min_width=90, scale=1, visible=False)
                    save = gr.Button("Go on", variant="primary", scale=3, elem_id="save", visible=False)
        shown = [now, title, seen, own, save, back, asked, line]
        collect = "(now, own) => [now, own, window.reviewCollect()]"
        then: dict[str, Any] = {"fn": None, "js": READY, "show_progress": "hidden"}
        blocks.load(page.open, None, shown, **QUIET).then(**then)
        gr.on([save.click, own.submit], page.go_on, [now, own, collected], shown, js=collect, **QUIET).then(
            **then
        )
        back.click(page.back, now, shown, **QUIET).then(**then)
    return blocks
