"""What one open page holds (`PageState`), and what it shows next (`Update`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from skingpt4.chat.differential import Differential
from skingpt4.chat.exporting.record import Consultation, ShownPicture, data_url
from skingpt4.chat.exporting.sections import export_texts
from skingpt4.chat.history import History
from skingpt4.chat.session import ChatSession
from skingpt4.chat.texts import cautions

MAX_IMAGES = 6
VIEWS = ("far", "middle", "close")


@dataclass
class CaseImage:
    """An image of the case."""

    shown: ShownPicture
    problems: tuple[str, ...] = ()
    score: float | None = None
    held: bool = False  # it failed the quality gate and waits for a decision
    sent: bool = False  # a question showed it to the model
    set_aside: bool = False  # only a part of it is shown to the model
    pixels: Tensor | None = field(default=None, repr=False)  # what the encoder sees of it, (3, h, w)
    url: str = field(default="", repr=False)  # a copy without metadata, which the page shows

    def __post_init__(self) -> None:
        if not self.url and self.shown.picture is not None:
            self.url = data_url(self.shown.picture)


@dataclass
class PageState:
    """The case that one open page works on; no other page sees it."""

    record: Consultation
    session: ChatSession
    user: str | None = None  # who is logged in; None where nobody has to be
    write_log: Callable[..., object] | None = field(default=None, repr=False)  # see `AuditLog.append`
    images: list[CaseImage] = field(default_factory=list)
    history: History | None = None  # what the model reads before the first question
    answering: bool = False  # an answer is being written
    stopped: bool = False  # the user stopped it
    editing: bool = False  # the next typed question replaces the last one
    answer_note: str = ""  # the note about the last answer
    differential: Differential | None = None
    num_scored_images: int = 0  # how many images the differential is about
    heatmaps: list[str] = field(default_factory=list)  # as data: addresses
    ended: bool = False
    is_opened: bool = False  # a saved consultation, to be read and exported

    @property
    def held_image(self) -> CaseImage | None:
        """The image that waits for a decision."""
        return next((image for image in self.images if image.held), None)

    def log(self, event: str, **facts: Any) -> None:
        """Write what the user did with this case into the audit log, if there is one."""
        if self.write_log is not None:
            who = {} if self.user is None else {"user": self.user}
            self.write_log(event, id=self.record.id, **who, **facts)

    def messages(self) -> list[dict[str, str]]:
        """The conversation in the form that `gr.Chatbot` takes, with what is to be said beside an answer."""
        messages, texts = [], export_texts(self.record.language)
        for turn in self.record.turns:
            messages.append({"role": "user", "content": turn.question})
            if turn.answer:
                messages.append({"role": "assistant", "content": turn.answer})
            for caution in cautions(turn.answer, texts):
                messages.append({"role": "assistant", "content": f"\u26a0 {caution}"})
        return messages

    def forget(self) -> None:
        """Drop conversation and images; an answer that is being written is stopped and dropped."""
        self.ended = True
        self.session.stop()
        self.session.reset()
        self.session.close()
        for image in self.images:
            image.shown.picture = image.pixels = None
            image.url = ""
        self.images, self.heatmaps, self.record.turns, self.record.pictures = [], [], [], []
        self.history = self.differential = self.record.differential = self.record.history = None
        self.answering = False


@dataclass(frozen=True)
class Update:
    """What the page shows next. None leaves that part as it is."""

    note: str | None = None  # HTML
    messages: list[dict[str, str]] | None = None
    busy: bool | None = None
    question: str | None = None  # the text in the question box
    full: bool | None = None  # the conversation is full: a summary is offered
    images: bool = False  # the images, or what can be done with them, changed
    differential: bool = False  # the differential changed


@dataclass(frozen=True)
class Settings:
    """How an answer is drawn, as the page's controls give it; None is an emptied field."""

    temperature: float | None
    num_beams: float | None
    max_new_tokens: float | None
    seed: float | None


@dataclass(frozen=True)
class HistoryEntry:
    """What the history form holds: the arguments of `history.from_fields`, and whether the model reads them."""

    fields: dict[str, Any]
    use: bool
