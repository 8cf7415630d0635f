"""The local web page over `ChatSession`: what its controls do, and how it is laid out."""

from __future__ import annotations

import html
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from skingpt4.chat import CLINICAL_PROMPTS, DISCLAIMER, ChatError, ChatSession, Generation
from skingpt4.errors import UserError
from skingpt4.images import open_image
from skingpt4.serving import note

STUDY_LABELS = ("Describe the disease", "List further features", "Explain the cause", "Suggest treatment")
TITLE = "<h1>SkinGPT-4 <span>open re-implementation</span></h1>"
HINT = """<p class="hint">Sharp, evenly lit, the lesion in the middle. Leave out faces and names.
Another picture starts a new conversation.</p>"""
SHOWN_SIDE = 1600  # pixels; the page shows a copy no larger than this, the model sees the whole picture
PREVIEW_SECONDS = 5.0  # how long a sent file stays for the browser to fetch its preview
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # no spinners, no API


@dataclass(frozen=True)
class About:
    """What the page says of the loaded checkpoint."""

    checkpoint: str
    step: str
    language_model: str
    questions: tuple[str, ...]
    caution: str = ""


@dataclass
class Visit:
    """What one open page holds; nobody else's page sees it. `answering` is the session that is at work."""

    session: ChatSession | None = None
    picture: Path | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answering: ChatSession | None = None
    stopped: bool = False
    note: str = ""

    def forget(self) -> None:
        """Drop the conversation and delete the picture; an answer being written is stopped and dropped."""
        if self.session is not None:
            self.session.stop()
        if self.picture is not None:
            self.picture.unlink(missing_ok=True)
        self.session = self.picture = self.answering = None
        self.messages, self.stopped, self.note = [], False, ""


class Shown(NamedTuple):
    """What the page shows next. None leaves that part as it is."""

    messages: list[dict[str, str]] | None = None
    note: str | None = None
    busy: bool | None = None
    question: str | None = None


def _failure(error: Exception) -> str:
    """The cause of a failure, as a note and over the page; what nobody expected goes to the terminal too."""
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "Out of memory: start a new conversation, or ask for a shorter answer with fewer beams."
    else:
        traceback.print_exception(error)
        text = f"Something unexpected failed ({type(error).__name__}: {error}); the terminal shows where."
    gr.Warning(html.escape(text), duration=6)
    return note(text, failed=True)


@dataclass(frozen=True)
class Desk:
    """What the page's controls do, for all pages; each brings its own `Visit`. The model is shared."""

    new_session: Callable[[], ChatSession]

    def show(self, visit: Visit | None, upload: dict | None) -> tuple[Visit | None, str | None, Shown]:
        """Take an uploaded picture (None: it was removed), which starts a new conversation.

        Gradio cannot receive or show a picture that is no file. What was sent, with its EXIF data and name, is
        deleted when the browser has fetched its preview. The returned path is of a copy for the page that
        has neither; it is deleted with the conversation.
        """
        if visit is None and upload is None:
            return None, None, Shown()
        visit = visit or Visit()
        visit.forget()
        if upload is None:
            visit.note = note("Picture and conversation are deleted.")
            return visit, None, _present(visit)
        try:
            sent = Path(upload["path"])
            try:
                picture = open_image(sent, "The picture")
            finally:
                _delete_later(sent)
            session = self.new_session()
            session.add_image(picture)
            picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
            visit.picture = Path(folder) / "picture.png"
            picture.save(visit.picture)
        except Exception as error:
            visit.forget()
            visit.note = _failure(error)
            return visit, None, _present(visit)
        visit.session = session
        visit.note = note("A new picture, a new conversation: choose a question or type your own.")
        return visit, str(visit.picture), _present(visit)

    def ask(
        self, visit: Visit | None, question: str, *settings: float | None, typed: bool = False
    ) -> Iterator[Shown]:
        """Answer, yielding what to show after each piece.

        A failed question leaves the conversation as it was; one that was typed goes back to its box.
        The settings are temperature, beams, max_new_tokens and seed, as the page's controls give them.
        """
        visit, box = visit or Visit(), question if typed else None
        try:
            session, generation = _ready(visit, question, settings)
        except UserError as error:
            yield Shown(visit.messages, _failure(error), visit.answering is not None, box)
            return
        before, said = visit.messages, ""
        visit.answering, visit.stopped = session, False
        wait = note("Writing ..." if generation.num_beams == 1 else "Writing; beams answer at one go ...")
        try:
            visit.messages = [*before, {"role": "user", "content": question.strip()}]
            yield Shown(visit.messages, wait, True, "" if typed else None)
            for piece in session.stream(question, generation):
                if visit.session is not session:
                    break
                said += piece
                visit.messages = [*visit.messages[: len(before) + 1], {"role": "assistant", "content": said}]
                yield Shown(visit.messages, wait, True)
            ended = "Stopped. What was written stays in the conversation." if visit.stopped else ""
            last = Shown(visit.messages, note(ended if said.strip() else "The model wrote nothing."), False)
        except Exception as error:
            if visit.session is session:
                visit.messages = before
            last = Shown(before, _failure(error), False, box)
        finally:
            session.stop()  # nothing more is computed, also when the page was closed meanwhile
            if visit.answering is session:
                visit.answering = None
        # Pieces under way may have hidden that the page moved on to another picture, so that is said again.
        yield last if visit.session is session else _present(visit)

    def stop(self, visit: Visit | None) -> None:
        """End the answer that is being written; what is there stays."""
        if visit is not None and visit.answering is not None:
            visit.stopped = True
            visit.answering.stop()


def _delete_later(sent: Path) -> None:
    timer = threading.Timer(PREVIEW_SECONDS, sent.unlink, (True,))
    timer.daemon = True
    timer.start()


def _present(visit: Visit) -> Shown:
    return Shown(visit.messages, visit.note, visit.answering is not None)


def _ready(visit: Visit, question: str, settings: Sequence[float | None]) -> tuple[ChatSession, Generation]:
    """The session and settings of a question that can be asked now; ChatError otherwise."""
    if visit.session is None:
        raise ChatError("There is no picture yet: add one first, then ask.")
    if visit.answering is not None:
        raise ChatError("An answer is being written: wait for it, or stop it first.")
    if not question.strip():
        raise ChatError("The question is empty: type one, or choose one of those offered.")
    if None in settings:
        raise ChatError("A setting is empty: temperature, beams, answer length and seed are numbers.")
    temperature, beams, max_new_tokens, seed = (float(value or 0) for value in settings)
    generation = Generation(int(max_new_tokens), temperature, num_beams=int(beams), seed=int(seed))
    generation.options()
    return visit.session, generation


def build(desk: Desk, about: About, local: bool = True) -> gr.Blocks:
    """Lay the page out and connect its controls; `local` says that it is served to this machine alone."""
    with gr.Blocks(title="SkinGPT-4", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(_head(about))
        where = "this machine" if local else "the machine that serves this page"
        stay = f"{DISCLAIMER} <strong>Pictures stay on {where}.</strong>"
        gr.HTML(f'<p role="note">{stay}</p>', elem_id="disclaimer")
        visit = gr.State(None, delete_callback=lambda value: value and value.forget())
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                picture = gr.Image(
                    label="Picture of the skin", alt_text="The picture that the answers are about", height=360,
                    sources=["upload", "clipboard", "webcam"], type="filepath", buttons=["fullscreen"],
                )  # fmt: skip
                gr.HTML(HINT)
                settings = _settings()
            with gr.Column(scale=7, min_width=320):
                chat = gr.Chatbot(
                    label="Conversation", placeholder="Questions and answers appear here. Begin with a picture.",
                    height="max(300px, calc(100vh - 556px))", elem_id="chat", render_markdown=False,
                    latex_delimiters=[], feedback_options=None, buttons=[],
                )  # fmt: skip
                line = gr.HTML("", elem_id="note")
                offered = _offered(about)
                with gr.Row(elem_id="actions"):
                    question = gr.Textbox(
                        label="Your own question", max_lines=5, max_length=2000, scale=6, min_width=310
                    )
                    send = gr.Button("Ask", variant="primary", min_width=80)
                    stop = gr.Button("Stop", min_width=80, interactive=False, elem_id="stop")
                    clear = gr.Button("Clear all", min_width=96)
        shown = [chat, line, question, send, stop, *(button for button, _ in offered)]

        def ask(*inputs: Any, typed: bool = False, text: str = "") -> Iterator[list[Any]]:
            now, question, *drawn = inputs if typed else (inputs[0], text, *inputs[1:])
            for step in desk.ask(now, question, *drawn, typed=typed):
                yield _updates(step, len(offered))

        def show(before: Visit | None, upload: dict[str, Any] | None = None) -> list[Any]:
            now, copy, step = desk.show(before, upload)
            return [now, copy, *_updates(step, len(offered))]

        one: dict[str, Any] = {"concurrency_id": "answer", "concurrency_limit": 1} | QUIET  # the others queue
        typed = partial(ask, typed=True)
        gr.on([send.click, question.submit], typed, [visit, question, *settings], shown, **one)
        for button, text in offered:
            button.click(partial(ask, text=text), [visit, *settings], shown, **one)
        stop.click(desk.stop, visit, None, queue=False, **QUIET)
        picture.input(show, [visit, picture], [visit, picture, *shown], preprocess=False, **QUIET)
        gr.on([clear.click, picture.clear], show, visit, [visit, picture, *shown], **QUIET)
    return blocks


def _updates(step: Shown, num_offered: int) -> list[Any]:
    """`Shown` as values of the components it goes to. The chat takes its text for HTML, so it is escaped."""
    chat, keep = step.messages, gr.skip()
    if chat:
        chat = [message | {"content": html.escape(message["content"], quote=False)} for message in chat]
    values = [keep if value is None else value for value in (chat, step.note, step.question)]
    switches = [keep, keep]
    if step.busy is not None:
        switches = [gr.Button(interactive=not step.busy), gr.Button(interactive=step.busy)]
    return [*values, *switches, *[switches[0]] * num_offered]


def _head(about: About) -> str:
    """Title and what is loaded."""
    facts = {"Checkpoint": about.checkpoint, "Trained": about.step, "Language model": about.language_model}
    items = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    below = f'<p class="caution" role="note">{html.escape(about.caution)}</p>' if about.caution else ""
    return f"<header>{TITLE}<dl>{items}</dl></header>{below}"


def _offered(about: About) -> list[tuple[gr.Button, str]]:
    """The one-click questions as (button, question)."""
    offered = []
    trained = [(question, question) for question in about.questions[:3]]
    study = list(zip(STUDY_LABELS, CLINICAL_PROMPTS, strict=True))
    groups = (("Questions of the published study", study, 130), ("Trained questions", trained, 220))
    for title, pairs, width in groups:
        gr.HTML(f'<p class="group">{title}</p>', visible=bool(pairs))
        with gr.Row(elem_classes="offered", visible=bool(pairs)):
            offered += [(gr.Button(label, size="sm", min_width=width), text) for label, text in pairs]
    return offered


def _settings() -> list[gr.components.Component]:
    """Temperature, beams, answer length and seed, in the order that `Desk.ask` takes them."""
    start, length = Generation(), "Longest answer, in tokens"
    warm = "0: always the likeliest words. Above: varied, and repeatable by the seed."
    wide, count = "Above 1: slower, temperature off, the answer at one go.", "A token is about 3/4 of a word."
    with gr.Accordion("Settings", open=False):
        return [
            gr.Slider(0, 1.5, start.temperature, step=0.1, label="Temperature", info=warm),
            gr.Slider(1, 8, start.num_beams, step=1, label="Beams", info=wide),
            gr.Slider(16, 512, start.max_new_tokens, step=16, label=length, info=count),
            gr.Number(start.seed, label="Seed", precision=0, minimum=0),
        ]
