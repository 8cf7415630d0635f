"""The consultation page: its layout, and what each control calls. The words are in texts/, the deeds in page_*.py."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from skingpt4.chat import texts as page_texts
from skingpt4.chat.session import CLINICAL_PROMPTS
from skingpt4.chat.texts import Texts
from skingpt4.generation.sampling import Generation
from skingpt4.server import uploads
from skingpt4.server.page import history_form, scripts
from skingpt4.server.page import views as page_views
from skingpt4.server.page.desk import Desk
from skingpt4.server.page.talk import Talk
from skingpt4.server.page.visit import VIEWS, Shown, Tools, Visit, failure, waiting
from skingpt4.support.errors import UserError

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # no spinners, no API
# Answers of several pages are drawn together; more wait in a line.
AT_ONCE: dict[str, Any] = {"concurrency_id": "answer", "concurrency_limit": 16} | QUIET
NUM_TRAINED = 3  # trained questions that get a button
# Left stays left, where Gradio would mirror; and of a phone's cameras the one at its back.
CAMERA = gr.WebcamOptions(
    mirror=False,
    constraints={
        "video": {
            "width": {"ideal": 1920},
            "height": {"ideal": 1440},
            "facingMode": {"ideal": "environment"},
        }
    },
)


@dataclass(frozen=True)
class Place:
    """How the page is served: to this machine alone, over a public link, and the largest file it takes."""

    local: bool = True
    shared: bool = False
    megabytes: int = 20


def build(tools: Tools, language: str = page_texts.FIRST, place: Place = Place()) -> gr.Blocks:
    """Lay the page out in every language, `language` at / and each other at /CODE; connect the controls.

    Raises:
        TextError: no such language.
    """
    first = page_texts.load(language)
    others = [code for code in page_texts.languages() if code != language]
    paths = {language: "./"} | {code: f"./{code}" for code in others}
    with gr.Blocks(title=first["title"], analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Navbar(visible=False)
        _Page(tools, first, place, paths).lay_out(blocks)
    for code in others:
        texts = page_texts.load(code)
        with blocks.route(texts["language"], code):
            gr.Navbar(visible=False)
            _Page(tools, texts, place, paths).lay_out(blocks)

    def closed(request: gr.Request) -> None:
        _wipe(blocks, request.session_hash or "")

    with blocks:
        blocks.unload(closed)
    return blocks


def _wipe(blocks: gr.Blocks, session: str) -> None:
    """Drop what a page held as soon as it is closed; Gradio keeps it for an hour, and what it drew longer.

    An event that is still under way would write what it draws into a new state; so it is waited for.
    """
    holder, busy = blocks.state_holder, True
    while busy:
        jobs = [event for job in blocks._queue.active_jobs if job for event in job]
        busy = any(event.session_hash == session for event in jobs)
        holder.delete_state(session)
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)
        if busy:
            time.sleep(0.1)


class _Page:
    """One language's controls; `shown` are those that every step may change, in the order of `updates`."""

    def __init__(self, tools: Tools, texts: Texts, place: Place, paths: dict[str, str]) -> None:
        self.tools, self.texts, self.place, self.paths = tools, texts, place, paths
        self.desk, self.talk = Desk(tools, texts), Talk(tools, texts)
        self.offered: list[tuple[gr.Button, str]] = []

    def lay_out(self, blocks: gr.Blocks) -> None:
        texts, place = self.texts, self.place
        self.visit = gr.State(None, delete_callback=lambda value: value and value.forget())
        gr.HTML(page_views.banner(self.tools.model, texts))
        gr.HTML(page_views.strip(texts, place.local, place.shared), elem_id="disclaimer")
        with gr.Column(elem_id="welcome") as self.welcome:
            gr.HTML(
                page_views.switch(texts, self.paths) + page_views.welcome(texts, place.local, place.shared)
            )
            self.accept = gr.Checkbox(False, label=texts["welcome.accept"], elem_id="accept")
            self.begin = gr.Button(
                texts["welcome.begin"], variant="primary", interactive=False, elem_id="begin"
            )
        with gr.Column(visible=False, elem_id="case") as self.case:
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=300):
                    self._pictures()
                    self._history()
                with gr.Column(scale=7, min_width=300):
                    self._conversation()
            self._results()
            self._export()
        self.shown: list[Any] = [
            self.chat, self.note, self.question, self.send, self.stop, self.regenerate, self.change,
            self.condense, self.guidance, self.gallery, self.decide, self.remove, self.scores,
            *(button for button, _ in self.offered),
        ]  # fmt: skip
        self._connect()
        blocks.load(None, None, None, js=scripts.start(texts))

    def _heading(self, key: str) -> None:
        gr.HTML(f"<h2>{page_views.text(self.texts[key])}</h2>")

    def _pictures(self) -> None:
        texts = self.texts
        self._heading("pictures.heading")
        self.guidance = gr.HTML(page_views.guidance(texts, self.place.megabytes))
        choices = [(texts[f"pictures.{view}"], view) for view in VIEWS]
        self.view = gr.Radio(choices, value="close", label=texts["pictures.view"], elem_id="view")
        self.picture = gr.Image(
            label=texts["pictures.add"], alt_text=texts["pictures.add_alt"], height=190, elem_id="picture",
            sources=["upload", "clipboard", "webcam"], type="filepath", buttons=[], webcam_options=CAMERA,
        )  # fmt: skip
        self.gallery = gr.HTML(page_views.gallery(None, texts), elem_id="gallery")
        with gr.Row(visible=False, elem_id="decide") as self.decide:
            self.anyway = gr.Button(texts["pictures.use_anyway"], elem_id="anyway")
            gr.HTML(f'<p class="hint">{page_views.text(texts["pictures.use_anyway_recorded"])}</p>')
        self.remove = gr.Button(texts["pictures.remove"], size="sm", visible=False, elem_id="remove")

    def _history(self) -> None:
        with gr.Accordion(self.texts["history.heading"], open=False, elem_id="history"):
            self.history = history_form.controls(self.texts, self.tools.trained_history)

    def _conversation(self) -> None:
        texts = self.texts
        self._heading("chat.heading")
        self.chat = gr.Chatbot(
            label=texts["chat.label"], placeholder=texts["chat.placeholder"], height=430, elem_id="chat",
            show_label=False, render_markdown=False, latex_delimiters=[], feedback_options=None, buttons=[],
        )  # fmt: skip
        self.note = gr.HTML("", elem_id="note")
        study = list(zip(texts.lines("chat.prompts"), CLINICAL_PROMPTS, strict=True))
        trained = [(question, question) for question in self.tools.questions[:NUM_TRAINED]]
        for key, pairs, width in (("study", study, 130), ("trained", trained, 220)):
            gr.HTML(f'<p class="group">{page_views.text(texts[f"chat.{key}"])}</p>', visible=bool(pairs))
            with gr.Row(elem_classes="offered", visible=bool(pairs)):
                for number, (label, question) in enumerate(pairs):
                    button = gr.Button(label, size="sm", min_width=width, elem_id=f"{key}{number}")
                    self.offered.append((button, question))
        with gr.Row(elem_id="actions"):
            self.question = gr.Textbox(
                label=texts["chat.own"],
                max_lines=5,
                max_length=2000,
                scale=6,
                min_width=240,
                elem_id="question",
            )
            self.send = gr.Button(texts["chat.ask"], variant="primary", min_width=80, elem_id="ask")
            self.stop = gr.Button(texts["chat.stop"], min_width=80, interactive=False, elem_id="stop")
        with gr.Row(elem_id="more"):
            self.regenerate = gr.Button(
                texts["chat.regenerate"], size="sm", interactive=False, elem_id="regenerate"
            )
            self.change = gr.Button(texts["chat.edit"], size="sm", interactive=False, elem_id="edit")
            self.condense = gr.Button(texts["chat.condense"], size="sm", visible=False, elem_id="condense")
        self._settings()

    def _settings(self) -> None:
        """Temperature, beams, answer length and seed, in the order that `Talk.ask` takes them."""
        texts, start = self.texts, Generation()
        words: dict[str, dict[str, Any]] = {
            key: {"label": texts[f"settings.{key}"], "info": texts[f"settings.{key}_info"]}
            for key in ("temperature", "beams", "length")
        }
        with gr.Accordion(texts["settings.heading"], open=False, elem_id="settings"):
            self.settings = [
                gr.Slider(0, 1.5, start.temperature, step=0.1, **words["temperature"]),
                gr.Slider(1, 8, start.num_beams, step=1, **words["beams"]),
                gr.Slider(16, 512, start.max_new_tokens, step=16, **words["length"]),
                gr.Number(start.seed, label=texts["settings.seed"], precision=0, minimum=0),
            ]

    def _results(self) -> None:
        offered = self.tools.differential is not None
        with gr.Column(visible=offered, elem_id="results"):
            self._heading("differential.heading")
            self.scores = gr.HTML(self._differential(None), elem_id="scores")

    def _differential(self, visit: Visit | None) -> str:
        return page_views.differential(visit, self.texts)

    def _export(self) -> None:
        texts = self.texts
        self._heading("export.heading")
        self.include = gr.Checkbox(True, label=texts["export.include"], elem_id="include")
        with gr.Row(elem_id="export"):
            self.saves = {
                kind: gr.Button(texts[f"export.{kind}"], min_width=150, elem_id=f"save-{kind}")
                for kind in self.tools.exports
            }
            self.delete = gr.Button(texts["export.delete"], variant="stop", min_width=150, elem_id="delete")
        self.saved = gr.HTML("", elem_id="saved")
        with gr.Row(visible=False, elem_id="sure") as self.sure:
            gr.HTML(f'<p role="alert">{page_views.text(texts["export.delete_sure"])}</p>')
            self.yes = gr.Button(texts["export.delete_yes"], variant="stop", elem_id="delete-yes")
            self.no = gr.Button(texts["export.delete_no"], elem_id="delete-no")
        self.file = gr.JSON(visible=False)

    def updates(self, visit: Visit | None, step: Shown) -> list[Any]:
        """`Shown` as values of `shown`. The chat takes its text for HTML, so it is escaped."""
        keep, messages = gr.skip(), step.messages
        if messages:
            messages = [m | {"content": html.escape(m["content"], quote=False)} for m in messages]
        said = [keep if value is None else value for value in (messages, step.note, step.question)]
        free: list[Any] = [keep] * 4
        buttons: Any = keep
        if step.busy is not None:
            asked = not step.busy and visit is not None and bool(visit.record.turns)
            on = [not step.busy, step.busy, asked, asked]
            free, buttons = [gr.Button(interactive=state) for state in on], gr.Button(interactive=on[0])
        condense = keep if step.full is None else gr.Button(visible=step.full)
        gallery: list[Any] = [keep] * 4
        if step.views:
            views = visit.views if visit is not None else []
            removable = bool(views) and not views[-1].sent
            held = waiting(views) is not None
            guidance = page_views.guidance(self.texts, self.place.megabytes, opened=not views)
            gallery = [
                guidance,
                page_views.gallery(visit, self.texts),
                gr.Row(visible=held),
                gr.Button(visible=removable),
            ]
        scores = self._differential(visit) if step.scores else keep
        return [*said, *free, condense, *gallery, scores, *[buttons] * len(self.offered)]

    def _connect(self) -> None:
        def begin(accepted: bool) -> list[Any]:
            if not accepted:
                return [gr.skip()] * 3
            return [self.desk.begin(), gr.Column(visible=False), gr.Column(visible=True)]

        visit, shown, settings, history = self.visit, self.shown, self.settings, self.history
        self.accept.change(
            lambda on: gr.Button(interactive=on), self.accept, self.begin, queue=False, **QUIET
        )
        self.begin.click(
            begin, self.accept, [visit, self.welcome, self.case], js=scripts.TO_TOP, **QUIET,
        )  # fmt: skip

        def plain(do: Callable[..., Shown]) -> Callable[..., list[Any]]:
            return lambda now, *more: self.updates(now, do(now, *more))

        def add(
            now: Visit | None, upload: dict[str, Any] | None, view: str, request: gr.Request
        ) -> list[Any]:
            own = upload is None or uploads.vouched(upload, request)
            step = self.desk.add(now, upload, view) if own else self.desk.missing()
            return [None, *self.updates(now, step)]

        def spoken(now: Visit | None, steps: Iterator[Shown]) -> Iterator[list[Any]]:
            for step in steps:
                yield self.updates(now, step)

        def ask(now: Visit | None, typed: str, *rest: Any, text: str = "") -> Iterator[list[Any]]:
            drawn, told = rest[: len(settings)], rest[len(settings) :]
            try:
                history_form.take(now, told, self.tools.trained_history)
            except UserError as error:
                yield self.updates(now, Shown(note=failure(error, self.texts)))
                return
            yield from spoken(now, self.talk.ask(now, text or typed, drawn, typed=not text))

        def again(now: Visit | None, *drawn: Any) -> Iterator[list[Any]]:
            yield from spoken(now, self.talk.again(now, drawn))

        def score(now: Visit | None) -> Iterator[list[Any]]:
            yield from spoken(now, self.talk.score(now))

        asks = [
            gr.on(
                [self.send.click, self.question.submit],
                ask,
                [visit, self.question, *settings, *history],
                shown,
                **AT_ONCE,
            )
        ]
        for button, text in self.offered:
            inputs = [visit, self.question, *settings, *history]
            asks.append(button.click(partial(ask, text=text), inputs, shown, **AT_ONCE))
        asks.append(self.regenerate.click(again, [visit, *settings], shown, **AT_ONCE))
        for asked in asks:
            asked.then(score, visit, shown, **AT_ONCE)
        self.change.click(plain(self.talk.edit), visit, shown, **QUIET)
        self.condense.click(plain(self.talk.condense), visit, shown, **QUIET)
        self.stop.click(self.talk.stop, visit, None, queue=False, **QUIET)
        self.picture.input(
            add, [visit, self.picture, self.view], [self.picture, *shown], preprocess=False, **QUIET
        )
        self.anyway.click(plain(self.desk.use_anyway), visit, shown, **QUIET)
        self.remove.click(plain(self.desk.remove), visit, shown, **QUIET)
        self._connect_export(history)

    def _connect_export(self, history: Sequence[Any]) -> None:
        visit = self.visit

        def save(now: Visit | None, with_pictures: bool, *told: Any, kind: str) -> list[Any]:
            try:
                history_form.take(now, told, self.tools.trained_history)
            except UserError as error:
                return [None, failure(error, self.texts)]
            file, step = self.desk.save(now, kind, with_pictures)
            return [file, step.note]

        def delete(now: Visit | None) -> list[Any]:
            fresh, step = self.desk.delete(now)
            blank = history_form.empty(self.tools.trained_history)
            return [fresh, gr.Row(visible=False), "", None, *blank, *self.updates(fresh, step)]

        for kind, button in self.saves.items():
            made = button.click(
                partial(save, kind=kind), [visit, self.include, *history], [self.file, self.saved], **QUIET
            )
            made.then(None, self.file, None, js=scripts.SAVE, **QUIET)
        self.delete.click(lambda: gr.Row(visible=True), None, self.sure, queue=False, **QUIET)
        self.no.click(lambda: gr.Row(visible=False), None, self.sure, queue=False, **QUIET)
        self.yes.click(
            delete, visit, [visit, self.sure, self.saved, self.file, *history, *self.shown], **QUIET
        )
