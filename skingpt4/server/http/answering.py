"""Requests answered one by one with fresh state: what the HTTP API does with `ChatSession`, without HTTP."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from skingpt4.chat import calibration
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints.load import model_source
from skingpt4.config.schema import Config
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn
from skingpt4.records.images import open_image
from skingpt4.server.audit import AuditLog
from skingpt4.server.http.request import ChatRequest
from skingpt4.server.http.response import Usage
from skingpt4.support.cli import DISCLAIMER


@dataclass
class Answerer:
    """A loaded model and what is said of it; used by any number of requests at once."""

    model: SkinGPT4
    config: Config
    identity: dict[str, Any]
    audit: AuditLog | None = None
    calibration: Any = None  # of the differential's probabilities; see skingpt4/chat/calibration.py

    @property
    def fingerprint(self) -> str | None:
        """Of the weights that answer: the beginning of the checkpoint's hash."""
        sha256 = self.identity.get("sha256")
        return f"fp_{sha256[:16]}" if sha256 else None

    @property
    def standing(self) -> dict[str, Any]:
        """What stands beside every answer."""
        return {"disclaimer": DISCLAIMER, "not_a_diagnosis": True, "model": self.identity}

    def begin(self, asked: ChatRequest) -> Answer:
        """An answer that has not started yet."""
        return Answer(self, asked)


@dataclass
class Answer:
    """One request's own session; `end` forgets it. `stop` may come from another thread at any time."""

    answerer: Answerer
    asked: ChatRequest
    finish: str = "stop"
    ended: bool = False
    hashes: list[str] = field(default_factory=list)
    quality: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open the session and read the settings."""
        self.session = ChatSession(self.answerer.model, self.answerer.config)
        self.session.further_stops = self.asked.stop
        longest, default = self.asked.max_new_tokens, Generation()
        self.generation = Generation(
            default.max_new_tokens if longest is None else longest,
            self.asked.temperature,
            self.asked.top_p,
            seed=self.asked.seed % 2**32,
        )
        self.num_prompt_tokens = 0
        self.said: list[str] = []
        self.stopped = False

    def start(self) -> Iterator[str]:
        """See the pictures and begin; the pieces come from the returned iterator.

        Raises:
            ImageError, ChatError: what they say, before anything was answered.
        """
        for number, data in enumerate(self.asked.pictures, 1):
            picture = open_image(data, f"picture {number}")
            self.hashes.append(hashlib.sha256(data).hexdigest())
            if "quality" in self.asked.wants:
                from skingpt4.chat.quality import assess

                self.quality.append(assess(picture).to_dict())
            self.session.add_image(picture)
        *before, last = self.asked.talk
        self.session.turns = [Turn(said.question, said.answer, len(said.pictures)) for said in before]
        self.session.waiting = len(last.pictures)
        turns = [*self.session.turns, Turn(last.question.strip(), None, len(last.pictures))]
        self.num_prompt_tokens = len(self.session.encode(turns).input_ids)
        pieces = self.session.stream(last.question, self.generation)
        first = next(pieces, "")  # what is wrong with the conversation is known now, before a response begins
        return self._pieces(first, pieces)

    def _pieces(self, first: str, rest: Iterator[str]) -> Iterator[str]:
        if first and not self.stopped:
            self.said.append(first)
            yield first
        for piece in rest:
            if self.stopped:
                return
            self.said.append(piece)
            yield piece
        timing = self.session.last_timing
        if timing is not None and timing.num_tokens >= self.generation.max_new_tokens:
            self.finish = "length"

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt, pictures included, and of the answer with its end token."""
        timing = self.session.last_timing
        return Usage(self.num_prompt_tokens, timing.num_tokens if timing else 0)

    def extension(self, wants: frozenset[str]) -> dict[str, Any]:
        """What was asked for beside the answer: quality of the pictures, the differential, how long it took.

        Raises:
            UserError: the differential cannot be made, e.g. without a picture.
        """
        timing = self.session.last_timing
        found: dict[str, Any] = {"picture_sha256": self.hashes}
        if timing is not None:
            found["seconds_to_first_token"] = round(timing.seconds_to_first_token, 4)
            found["seconds"] = round(timing.seconds, 4)
        if "quality" in wants:
            found["quality"] = self.quality
        if "differential" in wants:
            found["differential"] = self._differential()
        return found

    def _differential(self) -> dict[str, Any]:
        from skingpt4.chat.differential import differential

        answerer = self.answerer
        found = differential(answerer.model, answerer.config, self.session.queries, answerer.calibration)
        return found.to_dict()

    def stop(self) -> None:
        """Nobody listens any more: end after the present token."""
        self.stopped = True
        self.session.stop()

    def end(self) -> None:
        """Forget pictures and turns; note the request in the audit log."""
        if self.ended:
            return
        self.ended = True
        timing = self.session.last_timing
        finish = self.finish if timing else "stopped" if self.stopped else "failed"
        self.stop()
        self.session.reset()
        if self.answerer.audit is not None:
            self.answerer.audit.append(
                "asked",
                pictures=self.hashes,
                generation=asdict(self.generation),
                num_prompt_tokens=self.num_prompt_tokens,
                num_tokens=timing.num_tokens if timing else None,
                seconds=round(timing.seconds, 3) if timing else None,
                finish=finish,
                checkpoint_sha256=self.answerer.identity.get("sha256"),
                question=self.asked.talk[-1].question,
                answer="".join(self.said),
            )


def load_answerer(
    config: str | None, checkpoint_path: str | None, audit: str | None = None, audit_text: bool = False
) -> Answerer:
    """Load what `--config` and `--checkpoint` name, saying so on stderr.

    Raises:
        UserError: something is missing or does not fit.
    """
    log = AuditLog(audit, audit_text) if audit else None  # before anything heavy
    source = model_source(config, checkpoint_path)
    identity = source.identity
    caution = f" {identity['caution']}" if identity["caution"] else ""
    print(f"{DISCLAIMER}{caution}\nloading {identity['checkpoint']} ...", file=sys.stderr, flush=True)
    fitted = calibration.load(source.checkpoint_path)
    answerer = Answerer(source.load(), source.config, identity, log, fitted)
    if log is not None:
        log.append("started", checkpoint=identity["checkpoint"], checkpoint_sha256=identity["sha256"])
    return answerer
