"""A model behind a server as a respondent: what is sent for a question, and what becomes of the answer."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from eval.arms.closed_sets import letters_question
from eval.arms.endpoint.completions import NUM_LOGPROBS, answer_of, first_choice, letter_scores, text_of
from eval.arms.endpoint.http_client import HttpClient, Received
from eval.arms.images import MEAN_COLOUR, SIZE
from eval.arms.respondent import LIST, LOGPROBS, Reply, RespondentError, RespondentGone
from eval.tasks import Task
from skingpt4.generation.questions import DIAGNOSIS_QUESTION
from skingpt4.support.remote.address import is_loopback

logger = logging.getLogger(__name__)


class Endpoint:
    """A model behind a server, as a `Respondent` and `Sender`."""

    def __init__(
        self, client: HttpClient, model: str, temperature: float = 0.0, max_new_tokens: int = 300,
        max_side: int = 1024, image_format: str = "jpeg", stream: bool = True,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.client, self.model, self.temperature = client, model, temperature
        self.max_new_tokens, self.max_side, self.image_format = max_new_tokens, max_side, image_format
        self.stream, self.extra_body = stream, dict(extra_body or {})
        self.turns, self.scores = True, False
        self.is_remote = not is_loopback(client.host)
        encrypted = client.url.startswith("https:") or not self.is_remote
        self.destination = client.url + ("" if encrypted else " (NOT ENCRYPTED)")
        self.card: dict[str, Any] = {
            "kind": "endpoint",
            "model": model,
            "served_model": None,
            "revision": None,  # a server does not say
            "url": client.url,
            "decoding": {
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "extra_body": self.extra_body,
            },
            "images": {"max_side": max_side, "format": image_format},
            "stream": stream,
            "precision": None,
            "closed_set": None,
            "capabilities": {"turns": True, "scores": False, "concept_scores": False},
            "device": f"server at {client.host}",
        }

    def choose(self, closed_set: str) -> None:
        """Decide how a class is taken."""
        self.scores = closed_set == LOGPROBS
        self.card["closed_set"], self.card["capabilities"]["scores"] = closed_set, self.scores
        if self.scores:
            self.card["closed_set_form"] = (
                "log-probability of each letter as the first token of the answer to a lettered list in the task's "
                f"order; a letter outside the {NUM_LOGPROBS} likeliest tokens has the probability that these leave"
            )

    def examine(self, closed_set: str | None, task: Task) -> None:
        """Ask about an empty picture: is the server there, which model answers, does it give probabilities.

        Args:
            closed_set: how a class is to be taken; None: by probabilities where there are any, else by a list.
            task: whose labels are listed.

        Raises:
            RespondentError: it does not answer, or gives no probabilities where they are demanded.
        """
        question = letters_question(task.question or DIAGNOSIS_QUESTION, task.classes[:NUM_LOGPROBS])
        messages = self._messages([Image.new("RGB", SIZE, MEAN_COLOUR)], [], question)
        if closed_set in (None, LOGPROBS) and 0 < len(task.classes) <= NUM_LOGPROBS:
            try:
                received = self._ask(messages, 0, max_tokens=1, letters=True)
                letter_scores(first_choice(received, self.client.host), len(task.classes), self.client.host)
                closed_set = LOGPROBS
            except RespondentGone:
                raise
            except RespondentError as error:
                if closed_set == LOGPROBS:
                    raise RespondentError(f"--closed-set logprobs: {error}") from None
        if closed_set != LOGPROBS:
            received = self._ask(messages, 0, max_tokens=1)
            answer_of(received, self.client.host)
        self.card["served_model"] = served = text_of(received.objects, "model")
        if served and served != self.model:
            logger.warning(
                "note: the server answers as the model %r although %r was asked for; both are recorded",
                served[:100], self.model,
            )  # fmt: skip
        self.choose(closed_set or LIST)
        logger.warning("note: closed set by: %s", self.card["closed_set"])

    def num_bytes(self, images: Sequence[Image.Image]) -> int:
        """Bytes of these images as data URLs."""
        return sum(len(self._data_url(image)) for image in images)

    def reply(
        self, images: Sequence[Image.Image], conversation: Sequence[tuple[str, str]], question: str, seed: int
    ) -> Reply:
        """The answer of the server's model; see `Respondent`."""
        received = self._ask(self._messages(images, conversation, question), seed)
        text, finish_reason = answer_of(received, self.client.host)
        usage = next((u for item in received.objects if isinstance(u := item.get("usage"), dict)), {})
        count = usage.get("completion_tokens")
        fields = {
            "served_model": text_of(received.objects, "model"),
            "system_fingerprint": text_of(received.objects, "system_fingerprint"),
            "finish_reason": finish_reason,
            "num_attempts": received.num_attempts,
        }
        return Reply(
            text,
            count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None,
            received.seconds_to_first,
            received.seconds,
            {name: value for name, value in fields.items() if value is not None},
        )

    def score(
        self, images: Sequence[Image.Image], question: str, options: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Log-probability of each option's letter; see `Respondent`."""
        messages = self._messages(images, [], letters_question(question, list(options)))
        received = self._ask(messages, 0, max_tokens=1, letters=True)
        scores = letter_scores(first_choice(received, self.client.host), len(options), self.client.host)
        return dict(zip(options, scores, strict=True))

    def _ask(
        self, messages: list[dict[str, Any]], seed: int, max_tokens: int | None = None, letters: bool = False
    ) -> Received:
        body: dict[str, Any] = {
            **self.extra_body,
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens or self.max_new_tokens,
            "temperature": 0.0 if letters else self.temperature,
            "seed": seed,
        }
        if letters:
            body |= {"logprobs": True, "top_logprobs": NUM_LOGPROBS}
        elif self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        received = self.client.post("/chat/completions", body)
        expected, served = self.card["served_model"], text_of(received.objects, "model")
        if expected and served != expected:
            raise RespondentError(
                f"{self.client.host} answered as the model {str(served)[:100]!r}, and this arm is "
                f"{expected[:100]!r}; put that model back, or begin an arm of another --name"
            )
        return received

    def _messages(
        self, images: Sequence[Image.Image], conversation: Sequence[tuple[str, str]], question: str
    ) -> list[dict[str, Any]]:
        pictures = [{"type": "image_url", "image_url": {"url": self._data_url(image)}} for image in images]
        messages: list[dict[str, Any]] = []
        for asked, answer in [*conversation, (question, None)]:
            content = [*pictures, {"type": "text", "text": asked}] if not messages else asked
            messages.append({"role": "user", "content": content})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages

    def _data_url(self, image: Image.Image) -> str:
        image = image.convert("RGB") if image.mode != "RGB" else image.copy()
        image.info.clear()  # Pillow writes some of it again
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        options = {"quality": 95, "subsampling": 0} if self.image_format == "jpeg" else {}
        image.save(buffer, self.image_format, **options)
        return f"data:image/{self.image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"
