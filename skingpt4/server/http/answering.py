"""Answers each request of the HTTP API with a `ChatSession` of its own; knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from skingpt4.chat import calibration
from skingpt4.chat.calibration import Calibration
from skingpt4.chat.differential import differential
from skingpt4.chat.quality import assess
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

logger = logging.getLogger(__name__)


@dataclass
class Answerer:
    """A loaded model and what every response says about it; shared by all requests."""

    model: SkinGPT4
    config: Config
    identity: dict[str, Any]
    audit: AuditLog | None = None
    calibration: Calibration | None = None  # of the differential's probabilities

    @property
    def fingerprint(self) -> str | None:
        """Identifies the weights that answer: the beginning of the checkpoint's hash."""
        sha256 = self.identity.get("sha256")
        return f"fp_{sha256[:16]}" if sha256 else None

    @property
    def about(self) -> dict[str, Any]:
        """What every response says."""
        return {"disclaimer": DISCLAIMER, "not_a_diagnosis": True, "model": self.identity}

    def new_answer(self, request: ChatRequest) -> Answer:
        """An answer that has not started yet."""
        return Answer(self, request)


class Answer:
    """The answer to one request, in a session of its own; `stop` may be called from another thread at any time."""

    def __init__(self, answerer: Answerer, request: ChatRequest) -> None:
        self.answerer, self.request = answerer, request
        self.session = ChatSession(answerer.model, answerer.config)
        self.session.further_stops = request.stop
        self.generation = Generation(
            tokens
            if (tokens := request.max_new_tokens) is not None
            else answerer.config.data.max_text_tokens,
            request.temperature,
            request.top_p,
            seed=request.seed % 2**32,
        )
        self.finish_reason = "stop"
        self.num_prompt_tokens = 0
        self.pieces: list[str] = []
        self.image_sha256: list[str] = []
        self.quality: list[dict[str, Any]] = []
        self.stopped = self.ended = False

    def start(self) -> Iterator[str]:
        """Show the images and begin; the returned iterator yields the answer's pieces.

        Raises:
            ImageError, ChatError: an unusable image or conversation, before anything was answered.
        """
        for number, data in enumerate(self.request.images, 1):
            image = open_image(data, f"picture {number}")
            self.image_sha256.append(hashlib.sha256(data).hexdigest())
            if "quality" in self.request.extensions:
                self.quality.append(assess(image).to_dict())
            self.session.add_image(image)
        *before, last = self.request.turns
        self.session.turns = [Turn(turn.question, turn.answer, len(turn.images)) for turn in before]
        self.session.waiting = len(last.images)
        turns = [*self.session.turns, Turn(last.question.strip(), None, len(last.images))]
        self.num_prompt_tokens = len(self.session.encode(turns).input_ids)
        pieces = self.session.stream(last.question, self.generation)
        # A conversation that cannot be answered fails here, before a response begins.
        first = next(pieces, "")
        return self._recorded(first, pieces)

    def _recorded(self, first: str, rest: Iterator[str]) -> Iterator[str]:
        if first and not self.stopped:
            self.pieces.append(first)
            yield first
        for piece in rest:
            if self.stopped:
                return
            self.pieces.append(piece)
            yield piece
        timing = self.session.last_timing
        if timing is not None and timing.num_tokens >= self.generation.max_new_tokens:
            self.finish_reason = "length"

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt with its images, and of the answer with its end token."""
        timing = self.session.last_timing
        return Usage(self.num_prompt_tokens, timing.num_tokens if timing else 0)

    def extension(self) -> dict[str, Any]:
        """The response's field `skingpt4`: about the model, durations, and the extensions that were requested.

        Raises:
            UserError: the differential cannot be made, e.g. without a picture.
        """
        timing = self.session.last_timing
        fields = self.answerer.about | {"picture_sha256": self.image_sha256}
        if timing is not None:
            fields["seconds_to_first_token"] = round(timing.seconds_to_first_token, 4)
            fields["seconds"] = round(timing.seconds, 4)
        if "quality" in self.request.extensions:
            fields["quality"] = self.quality
        if "differential" in self.request.extensions:
            fields["differential"] = self._differential()
        return fields

    def _differential(self) -> dict[str, Any]:
        answerer = self.answerer
        ranked = differential(answerer.model, answerer.config, self.session.queries, answerer.calibration)
        return ranked.to_dict()

    def stop(self) -> None:
        """End after the present token; nobody is listening any more."""
        self.stopped = True
        self.session.stop()

    def end(self) -> None:
        """Forget images and turns; write the request into the audit log."""
        if self.ended:
            return
        self.ended = True
        timing = self.session.last_timing
        finish = self.finish_reason if timing else "stopped" if self.stopped else "failed"
        self.stop()
        self.session.reset()
        if self.answerer.audit is not None:
            self.answerer.audit.append(
                "asked",
                pictures=self.image_sha256,
                generation=asdict(self.generation),
                num_prompt_tokens=self.num_prompt_tokens,
                num_tokens=timing.num_tokens if timing else None,
                seconds=round(timing.seconds, 3) if timing else None,
                finish=finish,
                checkpoint_sha256=self.answerer.identity.get("sha256"),
                question=self.request.turns[-1].question,
                answer="".join(self.pieces),
            )


def load_answerer(
    config: str | None, checkpoint_path: str | None, audit: str | None = None, audit_text: bool = False
) -> Answerer:
    """Load what `--config` and `--checkpoint` name.

    Raises:
        UserError: something is missing or does not fit.
    """
    log = AuditLog(audit, audit_text) if audit else None  # before anything heavy
    source = model_source(config, checkpoint_path)
    identity = source.identity
    caution = f" {identity['caution']}" if identity["caution"] else ""
    logger.info("%s%s\nloading %s ...", DISCLAIMER, caution, identity["checkpoint"])
    fitted = calibration.load(source.checkpoint_path)
    answerer = Answerer(source.load(), source.config, identity, log, fitted)
    if log is not None:
        log.append("started", checkpoint=identity["checkpoint"], checkpoint_sha256=identity["sha256"])
    return answerer
