"""What every foreign arm offers: answers to questions about images, and scores of a closed set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from skingpt4.support.remote.http import RemoteError, RemoteGone

# How a class is taken from an arm; `card["closed_set"]` of a respondent is one of them.
LOGPROBS, LIST, FREE_TEXT = "logprobs", "list in the prompt", "free text"
EMBEDDINGS, PROBE, IMPORTED = "embeddings", "probe", "imported scores"
CLOSED_SETS = (LOGPROBS, LIST, FREE_TEXT, EMBEDDINGS, PROBE, IMPORTED, None)


RespondentError = RemoteError  # the case is left for the next run
RespondentGone = RemoteGone  # the arm stops


@dataclass(frozen=True)
class Reply:
    """One answer; None where it is not known.

    `num_tokens` counts the answer's tokens; both times are in seconds from the submission of the question. `fields`
    (JSON) are put into the line of the answer.
    """

    text: str
    num_tokens: int | None = None
    seconds_to_first_token: float | None = None
    seconds: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class Respondent(Protocol):
    """A model, server or classifier that is asked about cases.

    `card` is JSON: kind, model, revision or sha256, prompts, decoding, precision, device, closed_set (one of
    CLOSED_SETS), capabilities, and everything else that the answers depend on. `turns`: it can answer the four
    prompts as one conversation, and single questions. `scores`: it can score a closed set.
    """

    card: dict[str, Any]
    turns: bool
    scores: bool

    def reply(
        self,
        images: Sequence[Image.Image],
        conversation: Sequence[tuple[str, str]],
        question: str,
        seed: int,
    ) -> Reply:
        """The answer to a question about images.

        Args:
            images: of the case, upright RGB; they stand in the conversation's first question.
            conversation: earlier questions with their answers, in order.
            question: what is asked now.
            seed: of sampling (31 bits), a function of the case, the repeat and the question.

        Raises:
            RespondentError: this question was not answered; other cases may be.
            RespondentGone: nothing more can be answered.
        """
        ...

    def score(
        self, images: Sequence[Image.Image], question: str, options: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Log score of each class (or concept), in the order of `options`.

        Args:
            images: of the case, upright RGB.
            question: which the closed set answers.
            options: class to the texts that stand for it.

        Raises:
            RespondentError, RespondentGone: as `reply`.
        """
        ...


@runtime_checkable
class Sender(Protocol):
    """A respondent whose questions leave this process: where they go, and how many bytes its pictures take there."""

    destination: str
    is_remote: bool  # another machine than this one

    def num_bytes(self, images: Sequence[Image.Image]) -> int:
        """Bytes of these images as they are sent with one question."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A respondent that knows what it has cost, and what it learned only while it was asked."""

    def usage(self) -> dict[str, Any]:
        """JSON for the meta file, e.g. `peak_memory_bytes`; answers do not depend on it."""
        ...
