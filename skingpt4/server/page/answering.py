"""Writes one answer of the conversation: streams it into the record, and undoes everything where it fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from skingpt4.chat.exporting.record import Exchange
from skingpt4.chat.session import ContextFull
from skingpt4.chat.texts import Texts
from skingpt4.generation.sampling import Generation
from skingpt4.model.prompts import Turn
from skingpt4.server.gradio_app import note
from skingpt4.server.page.failures import failure
from skingpt4.server.page.state import PageState, Update
from skingpt4.server.page.tools import Tools


@dataclass(frozen=True)
class AnswerWriter:
    """Writes answers for all pages of one language."""

    tools: Tools
    texts: Texts

    def write(
        self, state: PageState, question: str, generation: Generation, typed: bool, replace: bool
    ) -> Iterator[Update]:
        """Answer a question, yielding what the page shows after each piece.

        A failed question leaves the conversation as it was and goes into the text box.

        Args:
            state: of the page, whose `begin_answer` was true.
            question: not empty.
            generation: how the answer is drawn.
            typed: the question comes from the text box, which is emptied.
            replace: the answer takes the place of the last turn.
        """
        session, record = state.session, state.record
        turn, replaced = Exchange(question, "", generation=asdict(generation)), None
        state.stopped = state.editing = False
        writing = note(self.texts["chat.writing" if generation.num_beams == 1 else "chat.writing_beams"])
        started = time.monotonic()
        try:
            replaced = (session.undo(), record.turns.pop()) if replace else None
            turn.prompt = self._prompt(state, question)
            record.turns.append(turn)
            yield Update(writing, state.messages(), busy=True, question="" if typed else None)
            state.log("asked", question=question)
            _show_images(state)
            for piece in session.stream(turn.prompt or question, generation):
                if state.ended:
                    break
                turn.answer += piece
                yield Update(writing, state.messages(), busy=True)
            turn.answer, turn.stopped = turn.answer.strip(), state.stopped
            turn.seconds = round(time.monotonic() - started, 3)
            last = Update(self._finish(state, turn), state.messages(), busy=False, images=True, full=False)
        except Exception as error:
            if state.ended:  # deleted or closed meanwhile, with its images: that is not a failure
                return
            _put_back(state, turn, replaced)
            state.log("answer_failed", kind=type(error).__name__)
            last = Update(
                failure(error, self.texts), state.messages(), busy=False, question=question,
                full=isinstance(error, ContextFull), images=True,
            )  # fmt: skip
        finally:
            session.stop()  # nothing more is computed, also when the page was closed meanwhile
            state.answering = False
        state.answer_note = last.note or ""
        if not state.ended:  # a deleted case no longer belongs to any page
            yield last

    def _prompt(self, state: PageState, question: str) -> str | None:
        """The question as the model reads it, if a history comes before it."""
        if state.history is None or state.session.turns or self.tools.render_history is None:
            return None
        return f"{self.tools.render_history(state.history)} {question}".strip()

    def _finish(self, state: PageState, turn: Exchange) -> str:
        """Log the answer; returns the note about it."""
        timing = state.session.last_timing
        if timing is not None:
            turn.num_tokens = timing.num_tokens
        state.log(  # the audit log leaves the texts out unless free text was asked for
            "answered", seconds=turn.seconds, tokens=turn.num_tokens, stopped=turn.stopped,
            question=turn.question, answer=turn.answer,
        )  # fmt: skip
        if turn.stopped:
            return note(self.texts["chat.stopped"])
        if not turn.answer:
            return note(self.texts["chat.nothing"])
        if timing is None or not timing.num_tokens:
            return ""
        first, total = f"{timing.seconds_to_first_token:.1f} s", f"{timing.seconds:.1f}"
        done = self.texts("chat.done", tokens=timing.num_tokens, seconds=total, first=first)
        cut = timing.num_tokens >= turn.generation["max_new_tokens"]
        return note(f"{done} {self.texts['chat.cut']}" if cut else done)


def _show_images(state: PageState) -> None:
    """Show the model the images that no question has shown yet."""
    for image in state.images:
        if image.set_aside:
            image.shown.asked = False
            if not any(shown is image.shown for shown in state.record.pictures):
                state.record.pictures.append(image.shown)
        elif not image.sent:
            assert image.pixels is not None
            state.session.add_image(image.pixels)
            image.sent = True
            state.record.pictures.append(image.shown)


def _put_back(state: PageState, turn: Exchange, replaced: tuple[Turn, Exchange] | None) -> None:
    """After a failure the conversation stands as before; its images wait for the next question."""
    state.record.turns = [other for other in state.record.turns if other is not turn]
    if replaced is not None:
        session_turn, exchange = replaced
        state.session.turns.append(session_turn)
        state.session.waiting -= session_turn.num_images
        state.record.turns.append(exchange)
