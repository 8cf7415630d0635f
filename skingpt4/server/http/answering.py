"""Answers each request of the HTTP API with a `ChatSession` of its own; knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from skingpt4.chat.checks import flags
from skingpt4.chat.checks.quality import assess
from skingpt4.chat.differential import Ranker, Rule
from skingpt4.chat.session import ChatSession, context_limit
from skingpt4.checkpoints.load import model_source
from skingpt4.config.schema import Config
from skingpt4.generation.engine.decoder import EngineDecoder, decoder_of, require_engine
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn
from skingpt4.server.audit import AuditLog
from skingpt4.server.decoding.turns import decoded, num_pixels
from skingpt4.server.http.failures import ApiError
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
    rule: Rule | None = None  # of the differential's probabilities

    def __post_init__(self) -> None:
        """Prepare what ranks the classes of every request that asks for it."""
        self.ranker = Ranker(self.model, self.config, self.rule)

    @property
    def engine(self) -> EngineDecoder | None:
        """The server that writes the answers; None where this program does."""
        decoder = decoder_of(self.model, self.config.engine)
        return decoder if isinstance(decoder, EngineDecoder) else None

    @property
    def fingerprint(self) -> str | None:
        """Identifies the weights that answer: the beginning of the checkpoint's hash."""
        sha256 = self.identity.get("sha256")
        return f"fp_{sha256[:16]}" if sha256 else None

    @property
    def about(self) -> dict[str, Any]:
        """What every response says."""
        return {"disclaimer": DISCLAIMER, "not_a_diagnosis": True, "model": self.identity}

    @property
    def context(self) -> int | None:
        """Tokens that the model can read; None if it sets no limit."""
        return context_limit(self.model)

    def new_answer(self, request: ChatRequest) -> Answer:
        """An answer that has not started yet."""
        return Answer(self, request)


class Answer:
    """The answer to one request, in a session of its own; `stop` may be called from another thread at any time."""

    def __init__(self, answerer: Answerer, request: ChatRequest) -> None:
        self.answerer = answerer
        self.stream, self.include_usage = request.stream, request.include_usage
        self.extensions = request.extensions
        self.images = [image for turn in request.turns for image in turn.images]  # until they are encoded
        *before, last = request.turns
        self.question, self.num_new_images = last.question, len(last.images)
        self.session = ChatSession(answerer.model, answerer.config)
        self.session.further_stops = request.stop
        self.session.turns = [Turn(turn.question, turn.answer, len(turn.images)) for turn in before]
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
        self.remarks: list[tuple[str, ...]] = []  # of each image; see `records.images.REMARKS`
        self.stopped = threading.Event()
        self.timed_out = self.ended = False

    def num_pixels(self) -> list[int]:
        """Of each image, by its header.

        Raises:
            ImageError: an unusable image.
        """
        return [num_pixels(data, f"picture {number}") for number, data in enumerate(self.images, 1)]

    def prepare(self) -> None:
        """Check that the conversation fits, then encode the images and forget them.

        Raises:
            ChatError: it does not fit into the model's context.
            ImageError: an unusable image.
        """
        self.session.waiting = self.num_new_images
        self.num_prompt_tokens = len(self.session.prompt(self.question, self.generation).input_ids)
        self.images.reverse()
        for number in range(1, len(self.images) + 1):
            if self.stopped.is_set():
                return
            self._encode(self.images.pop(), f"picture {number}")
        self.session.waiting = self.num_new_images

    def _encode(self, data: bytes, name: str) -> None:
        with decoded(data, name) as (image, known):
            self.image_sha256.append(hashlib.sha256(data).hexdigest())
            self.quality.append(assess(image).to_dict())
            self.remarks.append(known)
            self.session.add_image(image)

    def start(self) -> Iterator[str]:
        """Begin to answer; the returned iterator yields the answer's pieces.

        Raises:
            UserError: the answer cannot be given.
        """
        if self.stopped.is_set():
            return iter(())
        pieces = self.session.stream(self.question, self.generation, self.stopped)
        # What cannot be answered fails here, before a response begins.
        first = next(pieces, "")
        return self._recorded(first, pieces)

    def _recorded(self, first: str, rest: Iterator[str]) -> Iterator[str]:
        if first and not self.stopped.is_set():
            self.pieces.append(first)
            yield first
        for piece in rest:
            if self.stopped.is_set():
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
        fields["flags"] = flags.to_rows("".join(self.pieces))
        if timing is not None:
            fields["seconds_to_first_token"] = round(timing.seconds_to_first_token, 4)
            fields["seconds"] = round(timing.seconds, 4)
        fields["acceptable"] = all(quality["acceptable"] for quality in self.quality)
        if any(self.remarks):
            fields["picture_remarks"] = self.remarks
        if "quality" in self.extensions:
            fields["quality"] = self.quality
        if "differential" in self.extensions:
            fields["differential"] = self._differential()
        return fields

    def _differential(self) -> dict[str, Any]:
        return self.answerer.ranker.rank(self.session.queries).to_dict()

    def stop(self) -> None:
        """End after the present token; nobody is listening any more."""
        self.stopped.set()

    def time_out(self) -> None:
        """End after the present token; the answer took too long."""
        self.timed_out = True
        self.stop()

    def check_time(self) -> None:
        """Raise ApiError if the answer took too long."""
        if self.timed_out:
            raise ApiError("the answer took too long; ask for a shorter one", None, 504, "timeout")

    def end(self) -> None:
        """Forget images and turns; write the request into the audit log."""
        if self.ended:
            return
        self.ended = True
        timing = self.session.last_timing
        finish = self.finish_reason if timing else "stopped" if self.stopped.is_set() else "failed"
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
                question=self.question,
                answer="".join(self.pieces),
            )


def load_answerer(
    config: str | None,
    checkpoint_path: str | None,
    audit: str | None = None,
    audit_text: bool = False,
    engine: str | None = None,
) -> Answerer:
    """Load what `--config`, `--checkpoint` and `--engine` name.

    Raises:
        UserError: something is missing or does not fit.
    """
    log = AuditLog(audit, audit_text) if audit else None  # before anything heavy
    source = model_source(config, checkpoint_path, engine)
    identity = source.identity
    caution = f" {identity['caution']}" if identity["caution"] else ""
    logger.info("%s%s\nloading %s ...", DISCLAIMER, caution, identity["checkpoint"])
    rule = Rule.of(source.checkpoint_path)
    answerer = Answerer(source.load(), source.config, identity, log, rule)
    require_engine(answerer.model, source.config.engine)
    if log is not None:
        log.append("started", checkpoint=identity["checkpoint"], checkpoint_sha256=identity["sha256"])
    return answerer
