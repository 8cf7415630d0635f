"""What the page's controls do with the conversation: ask, stop, answer again, change a question, score."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skingpt4.chat.record import Exchange, data_url
from skingpt4.chat.session import ChatSession
from skingpt4.chat.texts import Texts
from skingpt4.generation.sampling import Generation
from skingpt4.server.gradio_app import note
from skingpt4.server.page.desk import PageError
from skingpt4.server.page.visit import Shown, Tools, Visit, failure, waiting

Settings = Sequence[float | None]


@dataclass(frozen=True)
class Talk:
    """The conversation's controls, for all pages of one language; each brings its own `Visit`."""

    tools: Tools
    texts: Texts

    def ask(
        self, visit: Visit | None, question: str, settings: Settings, typed: bool = False
    ) -> Iterator[Shown]:
        """Answer, yielding what to show after each piece.

        A failed question leaves the conversation as it was; one that was typed goes back to its box.

        Args:
            visit: the case.
            question: what to ask.
            settings: temperature, beams, longest answer in tokens and seed, as the page's controls give them.
            typed: whether it comes from the text box; only then a question under change is replaced.
        """
        box = question if typed else None
        try:
            visit, generation = self._ready(visit, question, settings)
        except Exception as error:
            busy = visit is not None and visit.answering is not None
            yield Shown(note=failure(error, self.texts), busy=busy, question=box)
            return
        replaced = self._take_back(visit) if typed and visit.editing else None
        visit.editing = False
        yield from self._answer(visit, question.strip(), generation, box, replaced)

    def again(self, visit: Visit | None, settings: Settings) -> Iterator[Shown]:
        """Answer the last question once more; where answers are drawn, with the next seed."""
        try:
            if visit is None or not visit.record.turns:
                raise PageError(self.texts["errors.no_turn"])
            last = visit.record.turns[-1]
            visit, generation = self._ready(visit, last.question, settings)
        except Exception as error:
            yield Shown(note=failure(error, self.texts))
            return
        if generation.temperature > 0 and generation.num_beams == 1:
            before = int(last.generation.get("seed", generation.seed))
            generation = Generation(**{**asdict(generation), "seed": max(generation.seed, before + 1)})
        same = asdict(generation) == last.generation
        visit.editing = False
        yield from self._answer(visit, last.question, generation, None, self._take_back(visit))
        if same and not visit.ended:
            yield Shown(note=note(self.texts["chat.same_again"]))

    def edit(self, visit: Visit | None) -> Shown:
        """Put the last question into the box; asking replaces it and its answer."""
        if visit is None or not visit.record.turns:
            return Shown(note=note(self.texts["errors.no_turn"], failed=True))
        if visit.answering is not None:
            return Shown(note=note(self.texts["errors.busy"], failed=True))
        visit.editing = True
        return Shown(note=note(self.texts["chat.editing"]), question=visit.record.turns[-1].question)

    def condense(self, visit: Visit | None) -> Shown:
        """Go on from a summary of a conversation that is full."""
        try:
            if visit is None or not visit.record.turns:
                raise PageError(self.texts["errors.no_turn"])
            if visit.answering is not None:
                raise PageError(self.texts["errors.busy"])
            kept = visit.session.condense()
        except Exception as error:
            return Shown(note=failure(error, self.texts))
        self.tools.log("conversation_condensed", id=visit.record.id)
        return Shown(note=note(self.texts("chat.condensed", kept=kept)), full=False)

    def stop(self, visit: Visit | None) -> None:
        """End the answer that is being written; what is there stays."""
        if visit is not None and visit.answering is not None:
            visit.stopped = True
            visit.answering.stop()

    def score(self, visit: Visit | None) -> Iterator[Shown]:
        """The differential and heat maps, once after the first answer and again when a question showed more."""
        yield Shown()  # Gradio empties what a step without any result could change
        if visit is None or visit.ended or not visit.record.turns or visit.answering is not None:
            return
        sent = [view for view in visit.views if view.sent]
        if not sent or visit.scored_views == len(sent) or self.tools.differential is None:
            return
        pictures = [
            view.shown.picture for view in sent
        ]  # which are dropped when the page is closed meanwhile
        yield Shown(note=note(self.texts["differential.working"]))
        try:
            scored = self.tools.differential(visit.session, self.texts.code)
            heatmap = self.tools.heatmap
            maps = [
                data_url(heatmap(picture)) for picture in pictures if heatmap and picture and not visit.ended
            ]
        except Exception as error:
            if not visit.ended:
                yield Shown(note=failure(error, self.texts))
            return
        if visit.ended:
            return
        visit.scored, visit.maps, visit.scored_views = scored, maps, len(sent)
        visit.record.differential = scored.to_dict()
        self.tools.log("differential", id=visit.record.id, confident=scored.confident)
        yield Shown(note=visit.said, scores=True)  # whether it was stopped or cut is still to be read

    def _ready(
        self, visit: Visit | None, question: str, settings: Sequence[float | None]
    ) -> tuple[Visit, Generation]:
        """The case and the settings of a question that can be asked now; PageError or ChatError otherwise."""
        if visit is None or visit.ended:
            raise PageError(self.texts["errors.not_accepted"])
        if waiting(visit.views):
            raise PageError(self.texts["errors.held_picture"])
        if not visit.views:
            raise PageError(self.texts["errors.no_picture"])
        if visit.answering is not None:
            raise PageError(self.texts["errors.busy"])
        if not question.strip():
            raise PageError(self.texts["errors.no_question"])
        if None in settings:
            raise PageError(self.texts["errors.no_setting"])
        temperature, beams, length, seed = (float(value or 0) for value in settings)
        generation = Generation(int(length), temperature, num_beams=int(beams), seed=int(seed))
        generation.options()
        return visit, generation

    @staticmethod
    def _take_back(visit: Visit) -> tuple[Any, Exchange]:
        """Undo the last turn, so that another takes its place."""
        return visit.session.undo(), visit.record.turns.pop()

    def _answer(
        self,
        visit: Visit,
        question: str,
        generation: Generation,
        box: str | None,
        replaced: tuple[Any, Exchange] | None,
    ) -> Iterator[Shown]:
        session, texts, record = visit.session, self.texts, visit.record
        turn = Exchange(question, "", generation=asdict(generation), prompt=self._prompt(visit, question))
        visit.answering, visit.stopped, full = session, False, None
        wait = note(texts["chat.writing" if generation.num_beams == 1 else "chat.writing_beams"])
        record.turns.append(turn)
        yield Shown(visit.messages(), wait, True, "" if box is not None else None)
        started = time.monotonic()
        try:
            for view in [view for view in visit.views if not view.sent]:
                assert view.shown.picture is not None
                session.add_image(view.shown.picture)
                view.sent = True
                record.pictures.append(view.shown)
            for piece in session.stream(turn.prompt or question, generation):
                if visit.ended:
                    break
                turn.answer += piece
                yield Shown(visit.messages(), wait, True)
            turn.answer, turn.stopped = turn.answer.strip(), visit.stopped
            turn.seconds = round(time.monotonic() - started, 3)
            last = Shown(visit.messages(), self._ended(visit, session, turn), False, views=True, full=False)
        except Exception as error:
            if visit.ended:  # deleted or closed meanwhile, pictures and all: no failure, and nobody to tell
                return
            full = type(error).__name__ == "ContextFull"
            self._put_back(visit, session, turn, replaced)
            self.tools.log("answer_failed", id=record.id, kind=type(error).__name__)
            last = Shown(visit.messages(), failure(error, texts), False, box or question, True, full=full)
        finally:
            session.stop()  # nothing more is computed, also when the page was closed meanwhile
            visit.answering = None
        visit.said = last.note or ""
        # What was deleted meanwhile belongs to no page any more.
        if not visit.ended:
            yield last

    def _prompt(self, visit: Visit, question: str) -> str | None:
        """The question as the model reads it, where a history stands before it."""
        if visit.history is None or visit.session.turns or self.tools.render_history is None:
            return None
        return f"{self.tools.render_history(visit.history)} {question}".strip()

    def _ended(self, visit: Visit, session: ChatSession, turn: Exchange) -> str:
        timing = getattr(session, "last_timing", None)
        if timing is not None:
            turn.num_tokens = timing.num_tokens
        self.tools.log(  # which leaves the texts out unless it was told to keep them
            "answered", id=visit.record.id, seconds=turn.seconds, tokens=turn.num_tokens, stopped=turn.stopped,
            question=turn.question, answer=turn.answer,
        )  # fmt: skip
        if turn.stopped:
            return note(self.texts["chat.stopped"])
        if not turn.answer:
            return note(self.texts["chat.nothing"])
        if timing is None or not timing.num_tokens:
            return ""
        first, whole = f"{timing.seconds_to_first_token:.1f} s", f"{timing.seconds:.1f}"
        done = self.texts("chat.done", tokens=timing.num_tokens, seconds=whole, first=first)
        cut = timing.num_tokens >= turn.generation["max_new_tokens"]
        return note(f"{done} {self.texts['chat.cut']}" if cut else done)

    @staticmethod
    def _put_back(
        visit: Visit, session: ChatSession, turn: Exchange, replaced: tuple[Any, Exchange] | None
    ) -> None:
        """After a failure the conversation stands as before; pictures wait for the next question."""
        if visit.ended:
            return
        visit.record.turns = [kept for kept in visit.record.turns if kept is not turn]
        if replaced is not None:
            undone, exchange = replaced
            session.turns.append(undone)
            session.waiting -= undone.num_images
            visit.record.turns.append(exchange)
