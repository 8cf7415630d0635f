"""The consultation page: where its controls stand, and which method of `Handlers` each of them calls."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from skingpt4.chat.texts import FIRST, Texts, languages
from skingpt4.chat.texts import load as load_texts
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import Generation
from skingpt4.server import cover, uploads
from skingpt4.server.address import Address
from skingpt4.server.gradio_app import escape
from skingpt4.server.page import markup
from skingpt4.server.page.handlers import Handlers
from skingpt4.server.page.history_form import HistoryForm
from skingpt4.server.page.state import VIEWS, PageState, Settings, Update
from skingpt4.server.page.tools import Tools

Changes = dict[Any, Any]  # new values or properties by component; the other components stay as they are
Values = Mapping[Any, Any]  # the values of an event's inputs by component
CSS = cover.CSS + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
SCRIPT = f"<script>{Path(__file__).with_name('page.js').read_text(encoding='utf-8')}</script>"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # no spinners, no API
# Answers of several pages are decoded together; more than these wait in a queue.
ANSWERS: dict[str, Any] = {"concurrency_id": "answer", "concurrency_limit": 16} | QUIET
LOCAL = Address()
NUM_TRAINED = 3  # trained questions that get a button
# Left stays left, where Gradio would mirror; on a phone, the camera at its back.
CAMERA = gr.WebcamOptions(
    mirror=False,
    constraints={
        "video": {"width": {"ideal": 1920}, "height": {"ideal": 1440}, "facingMode": {"ideal": "environment"}}
    },
)


def build(
    tools: Tools, language: str = FIRST, address: Address = LOCAL, with_users: bool = False
) -> gr.Blocks:
    """Lay the page out in every language, `language` at / and each other at /CODE; connect the controls.

    Args:
        tools: what stands behind the page.
        language: code of the language at /.
        address: how the page is served; the page says where images go and how large a file may be.
        with_users: whether users log in; the page then says who is logged in, and lets them log out.

    Raises:
        TextError: no such language.
    """
    first = load_texts(language)
    others = [code for code in languages() if code != language]
    paths = {language: "./"} | {code: f"./{code}" for code in others}
    with gr.Blocks(title=first["title"], analytics_enabled=False) as blocks:
        gr.Navbar(visible=False)
        Layout(blocks, tools, first, address, paths, with_users)
    for code in others:
        texts = load_texts(code)
        with blocks.route(texts["language"], code):
            gr.Navbar(visible=False)
            Layout(blocks, tools, texts, address, paths, with_users)
    return blocks


class Layout:
    """One language's controls, laid out where Gradio now stands."""

    def __init__(
        self,
        blocks: gr.Blocks,
        tools: Tools,
        texts: Texts,
        address: Address,
        paths: dict[str, str],
        with_users: bool = False,
    ) -> None:
        self.tools, self.texts, self.address = tools, texts, address
        self.handlers = Handlers(tools, texts)
        self.state = gr.State(None, delete_callback=lambda state: state and state.forget())
        gr.HTML(markup.banner(tools.model, texts))
        if with_users:
            blocks.load(self._user, None, gr.HTML("", elem_id="user"), **QUIET)
        gr.HTML(markup.disclaimer(texts, address), elem_id="disclaimer")
        with gr.Column(elem_id="welcome") as self.welcome:
            gr.HTML(markup.language_links(texts, paths) + markup.welcome(texts, address))
            self.accept = gr.Checkbox(False, label=texts["welcome.accept"], elem_id="accept")
            self.begin = gr.Button(
                texts["welcome.begin"], variant="primary", interactive=False, elem_id="begin"
            )
        with gr.Column(visible=False, elem_id="case") as self.case:
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=300):
                    self._lay_out_images()
                    with gr.Accordion(texts["history.heading"], open=False, elem_id="history"):
                        self.history = HistoryForm(texts, tools.trained_history)
                with gr.Column(scale=7, min_width=300):
                    self._lay_out_conversation()
                    self._lay_out_settings()
            with gr.Column(visible=tools.differential is not None, elem_id="results"):
                self._heading("differential.heading")
                self.differential = gr.HTML(markup.differential(None, texts), elem_id="scores")
            self._lay_out_export()
        self._connect()
        title = f"{texts['title']}: {texts['not_a_diagnosis']}"
        start = f"consultationPage.start({json.dumps(texts.code)}, {json.dumps(title)})"
        blocks.load(None, None, None, js=f"() => {start}")

    def _heading(self, key: str) -> None:
        gr.HTML(f"<h2>{escape(self.texts[key])}</h2>")

    def _lay_out_images(self) -> None:
        texts = self.texts
        self._heading("pictures.heading")
        self.guidance = gr.HTML(markup.guidance(texts, self.address))
        choices = [(texts[f"pictures.{view}"], view) for view in VIEWS]
        self.view = gr.Radio(choices, value="close", label=texts["pictures.view"], elem_id="view")
        self.image = gr.Image(
            label=texts["pictures.add"], alt_text=texts["pictures.add_alt"], height=190, elem_id="picture",
            sources=["upload", "clipboard", "webcam"], type="filepath", buttons=[], webcam_options=CAMERA,
        )  # fmt: skip
        self.gallery = gr.HTML(markup.gallery(None, texts), elem_id="gallery")
        with gr.Row(visible=False, elem_id="decide") as self.decide:
            self.use_anyway = gr.Button(texts["pictures.use_anyway"], elem_id="anyway")
            gr.HTML(f'<p class="hint">{escape(texts["pictures.use_anyway_recorded"])}</p>')
        self.remove = gr.Button(texts["pictures.remove"], size="sm", visible=False, elem_id="remove")

    def _lay_out_conversation(self) -> None:
        texts = self.texts
        self._heading("chat.heading")
        self.chat = gr.Chatbot(
            label=texts["chat.label"], placeholder=texts["chat.placeholder"], height=430, elem_id="chat",
            show_label=False, render_markdown=False, latex_delimiters=[], feedback_options=None, buttons=[],
        )  # fmt: skip
        self.note = gr.HTML("", elem_id="note")
        study = list(zip(texts.lines("chat.prompts"), CLINICAL_PROMPTS, strict=True))
        trained = [(question, question) for question in self.tools.questions[:NUM_TRAINED]]
        self.ready_questions: dict[gr.Button, str] = {}
        for key, pairs, width in (("study", study, 130), ("trained", trained, 220)):
            gr.HTML(f'<p class="group">{escape(texts[f"chat.{key}"])}</p>', visible=bool(pairs))
            with gr.Row(elem_classes="offered", visible=bool(pairs)):
                for number, (label, question) in enumerate(pairs):
                    button = gr.Button(label, size="sm", min_width=width, elem_id=f"{key}{number}")
                    self.ready_questions[button] = question
        with gr.Row(elem_id="actions"):
            self.question = gr.Textbox(
                label=texts["chat.own"], max_lines=5, max_length=2000, scale=6, min_width=240,
                elem_id="question",
            )  # fmt: skip
            self.ask = gr.Button(texts["chat.ask"], variant="primary", min_width=80, elem_id="ask")
            self.stop = gr.Button(texts["chat.stop"], min_width=80, interactive=False, elem_id="stop")
        with gr.Row(elem_id="more"):
            self.regenerate = gr.Button(
                texts["chat.regenerate"], size="sm", interactive=False, elem_id="regenerate"
            )
            self.edit = gr.Button(texts["chat.edit"], size="sm", interactive=False, elem_id="edit")
            self.condense = gr.Button(texts["chat.condense"], size="sm", visible=False, elem_id="condense")

    def _lay_out_settings(self) -> None:
        texts, start = self.texts, Generation(max_new_tokens=self.tools.answer_tokens)

        def words(key: str) -> dict[str, Any]:
            return {"label": texts[f"settings.{key}"], "info": texts[f"settings.{key}_info"]}

        with gr.Accordion(texts["settings.heading"], open=False, elem_id="settings"):
            self.settings: dict[str, Component] = {
                "temperature": gr.Slider(0, 1.5, start.temperature, step=0.1, **words("temperature")),
                "num_beams": gr.Slider(1, 8, start.num_beams, step=1, **words("beams")),
                "max_new_tokens": gr.Slider(16, 512, start.max_new_tokens, step=16, **words("length")),
                "seed": gr.Number(start.seed, label=texts["settings.seed"], precision=0, minimum=0),
            }

    def _lay_out_export(self) -> None:
        texts = self.texts
        self._heading("export.heading")
        self.with_images = gr.Checkbox(True, label=texts["export.include"], elem_id="include")
        with gr.Row(elem_id="export"):
            self.saves = {
                kind: gr.Button(texts[f"export.{kind}"], min_width=150, elem_id=f"save-{kind}")
                for kind in self.tools.exports
            }
            self.delete = gr.Button(texts["export.delete"], variant="stop", min_width=150, elem_id="delete")
        self.save_note = gr.HTML("", elem_id="saved")
        with gr.Row(visible=False, elem_id="sure") as self.confirm_delete:
            gr.HTML(f'<p role="alert">{escape(texts["export.delete_sure"])}</p>')
            self.delete_yes = gr.Button(texts["export.delete_yes"], variant="stop", elem_id="delete-yes")
            self.delete_no = gr.Button(texts["export.delete_no"], elem_id="delete-no")
        self.file = gr.JSON(visible=False)  # the saved file, on its way to the browser

    def _connect(self) -> None:
        """Connect every control with its handler; each event lists in `outputs` what it may change."""
        do = self.handlers
        self.updated = [
            self.chat, self.note, self.question, self.ask, self.stop, self.regenerate, self.edit, self.condense,
            self.guidance, self.gallery, self.decide, self.remove, self.differential, *self.ready_questions,
        ]  # fmt: skip
        self.accept.change(
            lambda accepted: gr.Button(interactive=accepted), self.accept, self.begin, queue=False, **QUIET
        )
        self.begin.click(
            self._begin, self.accept, [self.state, self.welcome, self.case],
            js="(accepted) => consultationPage.scrollToTop(accepted)", **QUIET,
        )  # fmt: skip
        self.image.input(
            self._add_image, [self.state, self.image, self.view], [self.image, *self.updated],
            preprocess=False, **QUIET,
        )  # fmt: skip
        for button, handler in (
            (self.use_anyway, do.use_anyway),
            (self.remove, do.remove_image),
            (self.edit, do.edit),
            (self.condense, do.condense),
        ):
            button.click(partial(self._update, handler), self.state, self.updated, **QUIET)
        self.stop.click(do.stop, self.state, None, queue=False, **QUIET)
        settings: set[Any] = {self.state, *self.settings.values()}
        form = settings | {self.question} | self.history.components
        answers = [
            gr.on([self.ask.click, self.question.submit], self._ask, form, self.updated, **ANSWERS),
            self.regenerate.click(self._regenerate, settings, self.updated, **ANSWERS),
        ]
        for button, question in self.ready_questions.items():
            ask = partial(self._ask, ready_question=question)
            answers.append(button.click(ask, form, self.updated, **ANSWERS))
        for answer in answers:
            answer.then(self._score, self.state, self.updated, **ANSWERS)
        self._connect_export()

    def _connect_export(self) -> None:
        case: set[Any] = {self.state, self.with_images, *self.history.components}
        for kind, button in self.saves.items():
            saved = button.click(partial(self._save, kind), case, [self.file, self.save_note], **QUIET)
            saved.then(None, self.file, None, js="(file) => consultationPage.saveFile(file)", **QUIET)
        self.delete.click(lambda: gr.Row(visible=True), None, self.confirm_delete, queue=False, **QUIET)
        self.delete_no.click(lambda: gr.Row(visible=False), None, self.confirm_delete, queue=False, **QUIET)
        cleared = [self.state, self.confirm_delete, self.save_note, self.file, *self.history.components]
        self.delete_yes.click(self._delete, self.state, [*cleared, *self.updated], **QUIET)

    # ---- from Gradio's values to a handler and back; a set of inputs arrives as one dict by component

    def _user(self, request: gr.Request) -> str:
        return markup.user(str(request.username), self.texts)

    def _begin(self, accepted: bool, request: gr.Request) -> Changes:
        if not accepted:
            return gr.skip()
        state = self.handlers.begin(request.username)
        return {self.state: state, self.welcome: gr.Column(visible=False), self.case: gr.Column(visible=True)}

    def _add_image(
        self, state: PageState | None, upload: dict[str, Any] | None, view: str, request: gr.Request
    ) -> Changes:
        own = upload is None or uploads.vouched(upload, request)
        update = self.handlers.add_image(state, upload, view) if own else self.handlers.image_missing()
        return {self.image: None, **self.changes(state, update)}

    def _update(self, handler: Callable[[PageState | None], Update], state: PageState | None) -> Changes:
        return self.changes(state, handler(state)) or gr.skip()

    def _ask(self, values: Values, ready_question: str | None = None) -> Iterator[Changes]:
        state, typed = values[self.state], ready_question is None
        question = values[self.question] if ready_question is None else ready_question
        settings, history = self._settings_in(values), self.history.entry(values)
        yield from self._each(state, self.handlers.ask(state, question, settings, history, typed))

    def _regenerate(self, values: Values) -> Iterator[Changes]:
        state = values[self.state]
        yield from self._each(state, self.handlers.regenerate(state, self._settings_in(values)))

    def _settings_in(self, values: Values) -> Settings:
        return Settings(**{name: values[field] for name, field in self.settings.items()})

    def _score(self, state: PageState | None) -> Iterator[Changes]:
        yield from self._each(state, self.handlers.score(state))

    def _each(self, state: PageState | None, updates: Iterator[Update]) -> Iterator[Changes]:
        for update in updates:
            yield self.changes(state, update) or gr.skip()

    def _save(self, kind: str, values: Values) -> Changes:
        entry, with_images = self.history.entry(values), values[self.with_images]
        file, note = self.handlers.save(values[self.state], entry, kind, with_images)
        return {self.file: file, self.save_note: note}

    def _delete(self, state: PageState | None) -> Changes:
        fresh, update = self.handlers.delete(state)
        cleared = {
            self.state: fresh,
            self.confirm_delete: gr.Row(visible=False),
            self.save_note: "",
            self.file: None,
        }
        return {**cleared, **self.history.blank(), **self.changes(fresh, update)}

    def changes(self, state: PageState | None, update: Update) -> Changes:
        """An `Update` as new values of the components in `self.updated`."""
        changes: Changes = {}
        if update.note is not None:
            changes[self.note] = update.note
        if update.messages is not None:  # the chat takes its text for HTML, so it is escaped
            changes[self.chat] = [
                message | {"content": html.escape(message["content"], quote=False)}
                for message in update.messages
            ]
        if update.question is not None:
            changes[self.question] = update.question
        if update.busy is not None:
            idle = not update.busy
            answered = idle and state is not None and bool(state.record.turns)
            changes[self.stop] = gr.Button(interactive=update.busy)
            changes |= {button: gr.Button(interactive=idle) for button in (self.ask, *self.ready_questions)}
            changes |= {button: gr.Button(interactive=answered) for button in (self.regenerate, self.edit)}
        if update.full is not None:
            changes[self.condense] = gr.Button(visible=update.full)
        if update.images:
            images = state.images if state is not None else []
            held = state is not None and state.held_image is not None
            changes[self.guidance] = markup.guidance(self.texts, self.address, opened=not images)
            changes[self.gallery] = markup.gallery(state, self.texts, self.tools.cover)
            changes[self.decide] = gr.Row(visible=held)
            changes[self.remove] = gr.Button(visible=bool(images) and not images[-1].sent)
        if update.differential:
            changes[self.differential] = markup.differential(state, self.texts, self.tools.cover)
        return changes
