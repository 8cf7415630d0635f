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

from skingpt4.chat import CLINICAL_PROMPTS, DISCLAIMER, ChatSession, Generation
from skingpt4.errors import UserError
from skingpt4.images import open_image

STUDY_LABELS = ("Describe the disease", "List further features", "Explain the cause", "Suggest treatment")
SHOWN_SIDE = 1600  # pixels; the page shows a copy no larger than this, the model sees the whole picture
PREVIEW_SECONDS = 5.0  # how long a sent file stays for the browser to fetch its preview
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
}  # no spinners over the page, no public API


class PageError(UserError):
    """A control that cannot be obeyed; the message says why."""


@dataclass(frozen=True)
class About:
    """What the page says of the loaded checkpoint."""

    checkpoint: str
    step: str
    language_model: str
    questions: tuple[str, ...]
    demonstration: bool = False
    untrained: bool = False


@dataclass
class Visit:
    """What one open page holds; nobody else's page sees it. `answering` is the session that is at work."""

    session: ChatSession | None = None
    picture: Path | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    answering: ChatSession | None = None
    stopped: bool = False

    def forget(self) -> None:
        """Drop the conversation and delete the picture; an answer being written is stopped and dropped."""
        if self.session is not None:
            self.session.stop()
        if self.picture is not None:
            self.picture.unlink(missing_ok=True)
        self.session = self.picture = self.answering = None
        self.messages, self.stopped = [], False


class Shown(NamedTuple):
    """What the page shows next. `question` None leaves the text box as it is."""

    messages: list[dict[str, str]]
    note: str
    busy: bool = False
    question: str | None = None


def note(text: str, failed: bool = False) -> str:
    """A line of the page as HTML; screen readers speak it."""
    role, kind = ("alert", "failure") if failed else ("status", "plain")
    return f'<p class="note {kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def sentence(error: Exception) -> str:
    """The cause of a failure as a sentence for the page; what nobody expected goes to the terminal too."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Out of memory: start a new conversation, or ask for a shorter answer with fewer beams."
    traceback.print_exception(error)
    return f"Something unexpected failed ({type(error).__name__}: {error}); the terminal shows where."


def _failure(error: Exception) -> str:
    text = sentence(error)
    gr.Warning(html.escape(text), duration=6)
    return note(text, failed=True)


class Desk:
    """What the page's controls do. One desk serves all pages; each page brings its own `Visit`."""

    def __init__(self, new_session: Callable[[], ChatSession]) -> None:
        """`new_session` starts a conversation with the shared model."""
        self.new_session = new_session

    def show(self, visit: Visit | None, upload: dict[str, Any] | None) -> tuple[Visit, str | None, Shown]:
        """Take an uploaded picture (None: it was removed), which starts a new conversation.

        Gradio cannot receive or show a picture that is no file. What was sent, with its EXIF data and name, is
        deleted when the browser has fetched its preview. The returned path is of a copy for the page that
        has neither; it is deleted with the conversation.
        """
        visit = visit or Visit()
        visit.forget()
        if upload is None:
            return visit, None, Shown([], note("Picture and conversation are deleted."))
        try:
            sent = Path(upload["path"])
            try:
                picture = open_image(sent, "The picture")
            finally:
                threading.Timer(PREVIEW_SECONDS, sent.unlink, (True,)).start()
            session = self.new_session()
            session.add_image(picture)
            picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
            visit.picture = Path(folder) / "picture.png"
            picture.save(visit.picture)
            visit.session = session
        except Exception as error:
            visit.forget()
            return visit, None, Shown([], _failure(error))
        text = "New picture: a new conversation begins. Earlier questions and answers are gone."
        return visit, str(visit.picture), Shown([], note(text))

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
                    return  # the page shows another picture by now
                said += piece
                visit.messages = [*visit.messages[: len(before) + 1], {"role": "assistant", "content": said}]
                yield Shown(visit.messages, wait, True)
            if visit.session is not session:
                return
            ended = "Stopped. What was written stays in the conversation." if visit.stopped else ""
            yield Shown(visit.messages, note(ended if said.strip() else "The model wrote nothing."))
        except Exception as error:
            if visit.session is session:
                visit.messages = before
                yield Shown(before, _failure(error), False, box)
        finally:
            session.stop()  # nothing more is computed, also when the page was closed meanwhile
            if visit.answering is session:
                visit.answering = None

    def stop(self, visit: Visit | None) -> None:
        """End the answer that is being written; what is there stays."""
        if visit is not None and visit.answering is not None:
            visit.stopped = True
            visit.answering.stop()


def _ready(visit: Visit, question: str, settings: Sequence[float | None]) -> tuple[ChatSession, Generation]:
    """The session and settings of a question that can be asked now; PageError or ChatError otherwise."""
    if visit.session is None:
        raise PageError("There is no picture yet: add one first, then ask.")
    if visit.answering is not None:
        raise PageError("An answer is being written: wait for it, or stop it first.")
    if not question.strip():
        raise PageError("The question is empty: type one, or choose one of those offered.")
    if None in settings:
        raise PageError("A setting is empty: temperature, beams, answer length and seed are numbers.")
    temperature, beams, max_new_tokens, seed = (float(value or 0) for value in settings)
    generation = Generation(int(max_new_tokens), temperature, num_beams=int(beams), seed=int(seed))
    generation.options()
    return visit.session, generation


def build(desk: Desk, about: About, local: bool = True) -> gr.Blocks:
    """Lay the page out and connect its controls; `local` says that it is served to this machine alone."""
    with gr.Blocks(title="SkinGPT-4", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(_head(about))
        gr.HTML(_disclaimer(local), elem_id="disclaimer")
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
                    label="Conversation", placeholder="Add a picture, then choose a question or type your own.",
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
        clear.click(show, visit, [visit, picture, *shown], **QUIET)
    return blocks


def _updates(step: Shown, num_offered: int) -> list[Any]:
    """`Shown` as values of the components it goes to. The chat takes its text for HTML, so it is escaped."""
    chat = [message | {"content": html.escape(message["content"], quote=False)} for message in step.messages]
    question = gr.skip() if step.question is None else step.question
    idle, busy = gr.Button(interactive=not step.busy), gr.Button(interactive=step.busy)
    return [chat, step.note, question, idle, busy, *[idle] * num_offered]


def _head(about: About) -> str:
    """Title and what is loaded."""
    caution = ""
    if about.untrained:
        caution = "Untrained projection: the answers have nothing to do with the picture."
    elif about.demonstration:
        caution = "Demonstration: trained on computer-drawn pictures. Its answers have no clinical meaning."
    facts = {"Checkpoint": about.checkpoint, "Trained": about.step, "Language model": about.language_model}
    items = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    title = "<h1>SkinGPT-4 <span>open re-implementation</span></h1>"
    below = f'<p class="caution" role="note">{caution}</p>' if caution else ""
    return f"<header>{title}<dl>{items}</dl></header>{below}"


def _disclaimer(local: bool) -> str:
    where = "this machine" if local else "the machine that serves this page"
    return f'<p role="note">{DISCLAIMER} <strong>Pictures stay on {where}.</strong></p>'


def _offered(about: About) -> list[tuple[gr.Button, str]]:
    """The one-click questions as (button, question)."""
    offered = []
    trained = [(question, question) for question in about.questions[:3]]
    study = list(zip(STUDY_LABELS, CLINICAL_PROMPTS, strict=True))
    for title, pairs in (("Questions of the published study", study), ("Trained questions", trained)):
        gr.HTML(f'<p class="group">{title}</p>', visible=bool(pairs))
        with gr.Row(elem_classes="offered", visible=bool(pairs)):
            offered += [
                (gr.Button(label, size="sm", min_width=min(220, 130 + len(label))), text)
                for label, text in pairs
            ]
    return offered


def _settings() -> list[gr.components.Component]:
    """Temperature, beams, answer length and seed, in the order that `Desk.ask` takes them."""
    start = Generation()
    length, count = "Longest answer, in tokens", "A token is about three quarters of a word."
    warm = "0: always the likeliest words. Above: varied, and repeatable by the seed."
    wide = "Above 1: slower, temperature has no effect, the answer comes at one go."
    with gr.Accordion("Settings", open=False):
        return [
            gr.Slider(0, 1.5, start.temperature, step=0.1, label="Temperature", info=warm),
            gr.Slider(1, 8, start.num_beams, step=1, label="Beams", info=wide),
            gr.Slider(16, 512, start.max_new_tokens, step=16, label=length, info=count),
            gr.Number(start.seed, label="Seed", precision=0, minimum=0),
        ]


def theme() -> gr.themes.Base:
    """Gradio's default in calm colours, with the system's own fonts."""
    calm = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("monospace",)
    )
    deep = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    return calm.set(**deep, **{f"{name}_dark": value for name, value in deep.items()})


HINT = """<p class="hint">Sharp, evenly lit, the lesion in the middle. Leave out faces and names.
Another picture starts a new conversation.</p>"""
CSS = """
.gradio-container { max-width: 1240px !important; overflow: visible !important; }
.gradio-container main { padding-top: 10px !important; } .gradio-container .html-container { padding: 0; }
.gradio-container main .gap, .gradio-container main .row { gap: 10px; }
header { display: flex; flex-wrap: wrap; gap: 2px 24px; align-items: baseline; font-size: .9rem; }
header h1 { font-size: 1.3rem; margin: 0; } header h1 span { font-weight: 400; font-size: 1rem; }
header dl { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 0; } header dl div { display: flex; gap: 6px; }
header dt { font-weight: 600; white-space: nowrap; } header dd { margin: 0; overflow-wrap: anywhere; }
#disclaimer { position: sticky; top: 0; z-index: 40; background: var(--body-background-fill); padding: 4px 0; }
#disclaimer p { border: 2px solid #d92d20; border-radius: 6px; padding: 5px 12px; margin: 0; font-size: .95rem; }
.caution { border-left: 5px solid #b54708; padding: 0 10px; margin: 6px 0 0; font-weight: 600; }
.group { font-size: .85rem; font-weight: 600; margin: 0 0 -6px; } .hint { font-size: .9rem; margin: 0; }
.note { margin: 0; padding: 0 10px; } .note.failure { border-left: 5px solid #d92d20; font-weight: 600; }
#note { min-height: 1.6em; } #actions { align-items: flex-end; } #stop:not(:disabled) { border: 2px solid #d92d20; }
.offered button, #actions button { min-height: 42px; font-size: .9rem; font-weight: 500; }
#chat button[aria-label="Clear"] { display: none; } /* it would empty the view, not the conversation */
.offered { align-items: stretch; } .toast-wrap { top: auto !important; bottom: 12px; } /* not over the disclaimer */
button:focus-visible { outline: 3px solid #0f766e; outline-offset: 2px; }
"""
