"""What one open page holds, and what the rest of the project gives to the page."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from skingpt4.chat.record import Consultation, ShownPicture, data_url
from skingpt4.chat.session import ChatSession
from skingpt4.chat.texts import Texts
from skingpt4.records.images import MAX_PIXELS, ImageError
from skingpt4.server.gradio_app import note
from skingpt4.support.errors import UserError

MAX_PICTURES = 6
VIEWS = ("far", "middle", "close")


def ignore(event: str, **facts: Any) -> None:
    """Log nothing."""


def as_json(record: Consultation, with_pictures: bool) -> bytes:
    """A case as a JSON file."""
    return record.to_json(with_pictures).encode()


@dataclass(frozen=True)
class Tools:
    """What stands behind the page. All pages share them; what is None is not offered.

    Attributes:
        new_session: starts a conversation with the loaded model.
        model: what `consultation.model_identity` says of it.
        questions: those it was trained on.
        assess: the quality gate, a `quality.Quality` of a picture.
        differential: the 15 classes for a session's pictures, with advice in a language; a
            `differential.Differential`.
        heatmap: an overlay of a picture that shows where the encoder looked.
        exports: by kind (html, pdf, json) what writes a case as a file, with its pictures or without.
        render_history: a `history.History` as plain words.
        trained_history: whether the model was trained with histories.
        log: takes an event and its facts; see `audit.AuditLog`.
    """

    new_session: Callable[[], ChatSession]
    model: dict[str, Any]
    questions: tuple[str, ...] = ()
    assess: Callable[[Image.Image], Any] | None = None
    differential: Callable[[ChatSession, str], Any] | None = None
    heatmap: Callable[[Image.Image], Image.Image] | None = None
    exports: Mapping[str, Callable[[Consultation, bool], bytes]] = field(
        default_factory=lambda: {"json": as_json}
    )
    render_history: Callable[[Any], str] | None = None
    trained_history: bool = False
    log: Callable[..., object] = ignore


@dataclass
class View:
    """A picture of the case. `held`: not good enough, waits for a decision; `sent`: a question showed it."""

    shown: ShownPicture
    problems: tuple[str, ...] = ()
    score: float | None = None
    held: bool = False
    sent: bool = False
    url: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Make the copy that the page shows, once."""
        if not self.url and self.shown.picture is not None:
            self.url = data_url(self.shown.picture)


@dataclass
class Visit:
    """What one open page holds; nobody else's page sees it. `answering` is the session that is at work."""

    record: Consultation
    session: ChatSession
    views: list[View] = field(default_factory=list)
    answering: ChatSession | None = None
    stopped: bool = False
    editing: bool = False
    said: str = ""  # the note about the last answer
    history: Any = None  # a `history.History` once something was entered
    scored: Any = None  # the `differential.Differential`
    scored_views: int = 0  # how many pictures it is about
    maps: list[str] = field(default_factory=list)  # heat maps as data: addresses
    ended: bool = False

    def messages(self) -> list[dict[str, str]]:
        """The conversation as the page's chat takes it."""
        pairs = (
            (("user", turn.question), ("assistant", turn.answer))
            if turn.answer
            else (("user", turn.question),)
            for turn in self.record.turns
        )
        return [{"role": role, "content": content} for pair in pairs for role, content in pair]

    def forget(self) -> None:
        """Drop conversation and pictures; an answer that is being written is stopped and dropped."""
        self.ended = True
        self.session.stop()
        self.session.reset()
        close = getattr(self.session, "close", None)
        if close is not None:
            close()
        for view in self.views:
            view.shown.picture = None
            view.url = ""
        self.views, self.maps, self.record.turns, self.record.pictures = [], [], [], []
        self.answering = self.history = self.scored = self.record.differential = self.record.history = None


class Shown(NamedTuple):
    """What the page shows next. None leaves that part as it is."""

    messages: list[dict[str, str]] | None = None
    note: str | None = None
    busy: bool | None = None
    question: str | None = None
    views: bool = False  # the pictures and what can be done with them changed
    scores: bool = False  # the differential changed
    full: bool | None = None  # the conversation is full: a summary is offered


def cause(error: Exception, texts: Texts) -> str:
    """Why something failed, in one sentence; what nobody expected goes to the terminal too."""
    if isinstance(error, ImageError):
        return texts(f"errors.picture_{error.reason}", megapixels=MAX_PIXELS // 10**6)
    if type(error).__name__ == "ContextFull":
        return texts("errors.context_full", why=str(error).rstrip("."))
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return texts["errors.out_of_memory"]
    traceback.print_exception(error)
    return texts("errors.unexpected", what=f"{type(error).__name__}: {error}")


def failure(error: Exception, texts: Texts) -> str:
    """The cause of a failure as the page's note."""
    return note(cause(error, texts), failed=True)


def waiting(views: Sequence[View]) -> View | None:
    """The picture that waits for a decision."""
    return next((view for view in views if view.held), None)
