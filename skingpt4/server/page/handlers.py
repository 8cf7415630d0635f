"""What each control of the page does, one method a control; layout.py connects them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from skingpt4.chat import history
from skingpt4.chat.exporting.record import Consultation, ShownPicture, data_url
from skingpt4.chat.session import ChatSession
from skingpt4.chat.texts import Texts
from skingpt4.generation.sampling import Generation
from skingpt4.server import uploads
from skingpt4.server.decoding.turns import decoded
from skingpt4.server.gradio_app import note
from skingpt4.server.page.answering import AnswerWriter
from skingpt4.server.page.failures import PageError, failure
from skingpt4.server.page.state import (
    MAX_IMAGES,
    VIEWS,
    CaseImage,
    HistoryEntry,
    PageState,
    Settings,
    Update,
)
from skingpt4.server.page.tools import Tools
from skingpt4.support.errors import UserError

# Of each kind of export: its type, and how its file is called behind the number of the consultation.
FILES = {
    "html": ("text/html", ".html"),
    "pdf": ("application/pdf", ".pdf"),
    "json": ("application/json", ".json"),
    "fhir": ("application/fhir+json", ".fhir.json"),
    "letter": ("application/pdf", "-letter.pdf"),
    "letter_text": ("text/plain;charset=utf-8", "-letter.txt"),
}


@dataclass(frozen=True)
class Handlers:
    """The controls of all pages of one language. Each page brings its own state, None before it has begun a case."""

    tools: Tools
    texts: Texts

    def _say(self, key: str, failed: bool = False, **values: object) -> Update:
        """Only a note."""
        return Update(note(self.texts(key, **values), failed))

    # ---- the case and its images

    def begin(self, user: str | None = None) -> PageState:
        """A new case, after the disclaimer was accepted; `user` is who is logged in, if anybody has to be."""
        record = Consultation(
            model=self.tools.model, language=self.texts.code, disclaimer=self.texts["record.disclaimer"]
        )
        state = PageState(record, self.tools.new_session(), user, self.tools.log)
        state.log("consultation_started", language=self.texts.code)
        return state

    def add_image(self, state: PageState | None, upload: dict[str, Any] | None, view: str) -> Update:
        """Add an image to the case; it takes the place of one that waits for a decision.

        Gradio can only receive an image as a file. The file as it was sent, with its EXIF data and name, is read and
        deleted at once, or deleted unread before the disclaimer is accepted; the page shows a copy from memory.
        """
        if upload is None:
            return Update()
        view = view if view in VIEWS else VIEWS[-1]  # a request may say anything
        data = uploads.take(upload["path"], read=state is not None and not state.ended)
        if data is None:
            return self.image_missing()
        try:
            if state is None or state.ended:
                raise PageError(self.texts["errors.not_accepted"])
            if state.is_opened:
                raise PageError(self.texts["errors.opened"])
            held = state.held_image
            if len(state.images) - (held is not None) >= MAX_IMAGES:
                raise PageError(self.texts("pictures.too_many", count=MAX_IMAGES))
            added = self._assessed(state.session, data, view)
        except Exception as error:
            return Update(failure(error, self.texts), images=True)
        if held is not None:
            state.images.remove(held)
        state.images.append(added)
        state.log(
            "picture_added",
            sha256=added.shown.sha256,
            quality=added.score,
            held=added.held,
        )
        key = "pictures.held" if added.held else "pictures.added"
        known = [self.texts[f"pictures.remarks.{name}"] for name in added.shown.remarks]
        shown = " ".join([self.texts(key, number=len(state.images)), *known])
        return Update(note(shown, failed=added.held or bool(known)), images=True)

    def image_missing(self) -> Update:
        """There is no such upload, or it is somebody else's."""
        return self._say("errors.picture_missing", failed=True)

    def _assessed(self, session: ChatSession, data: bytes, view: str) -> CaseImage:
        """Everything that is needed of an image; the case holds no copy of its full size."""
        with decoded(data) as (image, known):
            shown = ShownPicture.of(data, view, image=image, known=known)
            pixels = session.pixels(image)
            quality = self.tools.assess(image) if self.tools.assess else None
        if quality is None:
            return CaseImage(shown, pixels=pixels)
        shown.quality = quality.to_dict()
        kinds = tuple(problem.kind for problem in quality.problems)
        return CaseImage(shown, kinds, quality.score, held=not quality.acceptable, pixels=pixels)

    def use_anyway(self, state: PageState | None) -> Update:
        """Use the image that failed the quality gate; that is recorded."""
        held = state.held_image if state else None
        if state is None or held is None:
            return Update(images=True)
        held.held, held.shown.overridden = False, True
        state.log("quality_overridden", sha256=held.shown.sha256, kinds=held.problems)
        number = state.images.index(held) + 1
        return replace(self._say("pictures.override_done", number=number), images=True)

    def remove_image(self, state: PageState | None) -> Update:
        """Remove the last image, unless a question has shown it."""
        if state is None or not state.images:
            return Update(images=True)
        if state.images[-1].sent:
            return replace(self._say("pictures.cannot_remove", failed=True), images=True)
        removed = state.images.pop().shown.part_of or {}
        for image in state.images:
            image.set_aside = image.set_aside and image.shown.sha256 != removed.get("sha256")
        return replace(self._say("pictures.removed"), images=True)

    def set_history(self, state: PageState | None, entry: HistoryEntry) -> None:
        """Put the history into the case's record; the model reads it before the first question only if `entry.use`.

        Raises:
            HistoryError: a field that cannot be used.
        """
        if state is None or state.ended or state.is_opened:
            return
        entered = history.from_fields(**entry.fields)
        state.history = entered if entered and entry.use else None
        use = {"trained": self.tools.trained_history, "read_by_the_model": entry.use}
        state.record.history = entered.to_dict() | use if entered else None

    def save(
        self, state: PageState | None, entry: HistoryEntry | None, kind: str, with_images: bool
    ) -> tuple[list[str] | None, str]:
        """Export the case, in memory.

        Args:
            state: of the page.
            entry: the history form.
            kind: a key of FILES.
            with_images: whether the export carries the images.

        Returns:
            [file name, data: address], None if there is nothing to save; and a note.
        """
        try:
            if entry is not None:
                self.set_history(state, entry)
            if state is None or not (state.images or state.is_opened):
                raise PageError(self.texts["export.nothing"])
            data = self.tools.exports[kind](state.record, with_images)
        except Exception as error:
            return None, failure(error, self.texts)
        state.log("exported", kind=kind, with_pictures=with_images)
        mime_type, suffix = FILES[kind]
        name = f"consultation-{state.record.id}{suffix}"
        url = f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
        return [name, url], note(self.texts("export.saved", name=name))

    def delete(self, state: PageState | None) -> tuple[PageState, Update]:
        """Forget everything; a new, empty case takes its place."""
        if state is not None:
            state.log("consultation_deleted")
            state.forget()
        deleted = note(self.texts["export.deleted"])
        return self.begin(state.user if state else None), Update(
            deleted, messages=[], busy=False, question="", full=False, images=True, differential=True
        )

    # ---- the conversation

    def ask(
        self,
        state: PageState | None,
        question: str,
        settings: Settings,
        entry: HistoryEntry | None = None,
        typed: bool = False,
    ) -> Iterator[Update]:
        """Answer a question, yielding what the page shows after each piece.

        Args:
            state: of the page.
            question: what to ask.
            settings: how the answer is drawn.
            entry: the history form.
            typed: the question comes from the text box; only then it replaces one that is being edited.
        """
        try:
            if entry is not None:
                self.set_history(state, entry)
        except UserError as error:
            yield Update(failure(error, self.texts))
            return
        try:
            state, generation = self._ready(state, question, settings)
        except Exception as error:
            busy = state is not None and state.answering
            yield Update(failure(error, self.texts), busy=busy, question=question if typed else None)
            return
        writer = AnswerWriter(self.tools, self.texts)
        yield from writer.write(state, question.strip(), generation, typed, replace=typed and state.editing)

    def regenerate(self, state: PageState | None, settings: Settings) -> Iterator[Update]:
        """Answer the last question again; with the next seed if answers are sampled."""
        try:
            if state is None or not state.record.turns:
                raise PageError(self.texts["errors.no_turn"])
            last = state.record.turns[-1]
            state, generation = self._ready(state, last.question, settings)
        except Exception as error:
            yield Update(failure(error, self.texts))
            return
        if generation.temperature > 0 and generation.num_beams == 1:
            seed = int(last.generation.get("seed", generation.seed))
            generation = replace(generation, seed=max(generation.seed, seed + 1))
        same = asdict(generation) == last.generation
        writer = AnswerWriter(self.tools, self.texts)
        yield from writer.write(state, last.question, generation, typed=False, replace=True)
        if same and not state.ended:
            yield self._say("chat.same_again")

    def _ready(
        self, state: PageState | None, question: str, settings: Settings
    ) -> tuple[PageState, Generation]:
        """The state and the generation settings of a question that can be asked now; the answer has begun then.

        Raises:
            PageError, ChatError: why it cannot be asked.
        """
        if state is None or state.ended:
            raise PageError(self.texts["errors.not_accepted"])
        if state.is_opened:
            raise PageError(self.texts["errors.opened"])
        if state.held_image:
            raise PageError(self.texts["errors.held_picture"])
        if not state.images:
            raise PageError(self.texts["errors.no_picture"])
        if state.answering:
            raise PageError(self.texts["errors.busy"])
        if not question.strip():
            raise PageError(self.texts["errors.no_question"])
        values = asdict(settings)
        if None in values.values():
            raise PageError(self.texts["errors.no_setting"])
        integers = {name: int(float(values[name])) for name in ("num_beams", "max_new_tokens", "seed")}
        generation = Generation(temperature=float(values["temperature"]), **integers)
        generation.options()
        if not state.begin_answer():
            raise PageError(self.texts["errors.busy"])
        return state, generation

    def edit(self, state: PageState | None) -> Update:
        """Put the last question into the text box; the next typed question replaces it and its answer."""
        try:
            state = self._idle_with_turns(state)
        except PageError as error:
            return Update(failure(error, self.texts))
        state.editing = True
        return replace(self._say("chat.editing"), question=state.record.turns[-1].question)

    def condense(self, state: PageState | None) -> Update:
        """Continue a full conversation from its summary."""
        try:
            state = self._idle_with_turns(state)
            summary = state.session.condense()
        except Exception as error:
            return Update(failure(error, self.texts))
        state.log("conversation_condensed")
        return replace(self._say("chat.condensed", kept=summary), full=False)

    def _idle_with_turns(self, state: PageState | None) -> PageState:
        if state is None or not state.record.turns:
            raise PageError(self.texts["errors.no_turn"])
        if state.is_opened:
            raise PageError(self.texts["errors.opened"])
        if state.answering:
            raise PageError(self.texts["errors.busy"])
        return state

    def stop(self, state: PageState | None) -> None:
        """End the answer that is being written; what is there stays."""
        if state is not None and state.answering:
            state.stopped = True
            state.session.stop()

    def score(self, state: PageState | None) -> Iterator[Update]:
        """The differential and heat maps: after the first answer, and again when a question showed more images."""
        yield Update()  # Gradio empties whatever an event without any result could change
        if state is None or state.ended or state.is_opened or not state.record.turns or state.answering:
            return
        # Taken now, since the images are dropped if the page is closed meanwhile.
        images = [(image.shown.picture, image.pixels) for image in state.images if image.sent]
        rank, heatmap = self.tools.differential, self.tools.heatmap
        if rank is None or not images or state.num_scored_images == len(images):
            return
        yield self._say("differential.working")
        try:
            ranked = rank(state.session, self.texts.code)
            heatmaps = [
                data_url(heatmap(image, pixels))
                for image, pixels in images
                if heatmap and image and pixels is not None and not state.ended
            ]
        except Exception as error:
            if not state.ended:
                yield Update(failure(error, self.texts))
            return
        if state.ended:
            return
        state.differential, state.heatmaps, state.num_scored_images = ranked, heatmaps, len(images)
        state.record.differential = ranked.to_dict()
        state.log("differential", confident=ranked.confident)
        # The note about the answer, such as that it was cut, comes back.
        yield Update(state.answer_note, differential=True)
