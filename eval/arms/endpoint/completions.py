"""Reads chat completions: the text of an answer, complete or in pieces, and the probabilities of its first token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.arms.closed_sets import LETTERS
from eval.arms.endpoint.http_client import Received
from eval.arms.respondent import RespondentError

NUM_LOGPROBS = 20  # the most that OpenAI's API gives for one token


def text_of(objects: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """The first text under a key of some objects."""
    return next((value for item in objects if isinstance(value := item.get(key), str)), None)


def _choice(item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = item.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def first_choice(received: Received, host: str) -> Mapping[str, Any]:
    """The choice of a complete answer.

    Raises:
        RespondentError: it has none.
    """
    choice = _choice(received.objects[0]) if received.objects else None
    if choice is None:
        raise RespondentError(f"{host} answers without 'choices'; is it a server of chat completions?")
    return choice


def answer_of(received: Received, host: str) -> tuple[str, str | None]:
    """(the text, why it ended) of a complete answer or of the pieces of a stream.

    Raises:
        RespondentError: there is none, or the server reports a failure in it.
    """
    text, reason, num_choices = "", None, 0
    for item in received.objects:
        error = item.get("error")
        if error:
            message = error.get("message", error) if isinstance(error, dict) else error
            raise RespondentError(
                f"{host} reports a failure in its answer: {' '.join(str(message).split())[:200]}"
            )
        choice = _choice(item)
        if choice is None:
            continue
        num_choices += 1
        part = choice.get("delta") if "delta" in choice else choice.get("message")
        content = part.get("content") if isinstance(part, dict) else None
        if content is not None and not isinstance(content, str):
            raise RespondentError(f"{host} answers with something that is not text under 'content'")
        text += content or ""
        if isinstance(choice.get("finish_reason"), str):
            reason = choice["finish_reason"]
    if not num_choices:
        raise RespondentError(f"{host} answers without 'choices'; is it a server of chat completions?")
    return text, reason


def letter_scores(choice: Mapping[str, Any], count: int, host: str) -> list[float]:
    """Log-probabilities of the first `count` letters as the first token.

    Raises:
        RespondentError: the server gives none, or the answer does not begin with a letter.
    """
    try:
        first = choice["logprobs"]["content"][0]
        likeliest = {str(each["token"]): float(each["logprob"]) for each in first["top_logprobs"]}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise RespondentError(f"{host} gives no probabilities of tokens (logprobs)") from None
    likeliest = {token: value for token, value in likeliest.items() if math.isfinite(value) and value <= 1e-3}
    mass = {letter: 0.0 for letter in LETTERS[:count]}
    for token, value in likeliest.items():
        letter = token.strip("▁Ġ \t\n").rstrip(".):")
        if letter in mass:
            mass[letter] += math.exp(value)
    if not any(mass.values()):
        raise RespondentError(f"{host} does not begin its answer with a letter of the list")
    left = max(1.0 - sum(map(math.exp, likeliest.values())), 1e-9)
    bound = min(left, min(map(math.exp, likeliest.values())))
    return [math.log(value or bound) for value in mass.values()]
