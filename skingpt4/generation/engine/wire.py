"""What is sent to a vLLM server for an answer, and what is read from what it sends back."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skingpt4.generation.engine.client import EngineError
from skingpt4.generation.row import Row
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import without_controls

MAX_TOKENS = 128  # whose log-probabilities vLLM gives in one request
MAX_ID = 2**31  # of a token; tokenizers take no larger ones


def embedded(model: SkinGPT4, ids: Sequence[int], queries: Tensor | None) -> Tensor:
    """A prompt (t, width) on the CPU, in the language model's precision; arguments as of `SkinGPT4.embed`."""
    return model.embed(torch.tensor([list(ids)]), queries)[0].detach().cpu()


def encoded(embeds: Tensor) -> str:
    """A tensor as vLLM reads it: torch's own file, in base64."""
    buffer = io.BytesIO()
    torch.save(embeds.clone(), buffer)  # a slice would bring all of its storage
    return base64.b64encode(buffer.getvalue()).decode()


def request_of(row: Row, prompt: str, served: str, repetition_penalty: float) -> dict[str, Any]:
    """The body of the request for one answer.

    Args:
        row: the answer.
        prompt: of `encoded`.
        served: the model's name at the server.
        repetition_penalty: the language model's own rule.
    """
    generation = row.generation
    body: dict[str, Any] = {
        "model": served,
        "prompt": [],  # which vllm-router asks for
        "prompt_embeds": prompt,
        "max_tokens": generation.max_new_tokens,
        "temperature": generation.temperature,
        "repetition_penalty": repetition_penalty,
        "stop": list(row.spelled_stops),
        "stop_token_ids": sorted(row.end_ids),
        "ignore_eos": True,  # all that end an answer are in `stop_token_ids`
        "skip_special_tokens": False,
        "stream": True,
        "return_token_ids": True,
        "cache_salt": row.cache.token,  # what is cached of a conversation serves no other
    }
    if generation.temperature > 0:
        body |= {"top_p": generation.top_p, "top_k": generation.top_k or -1, "seed": generation.seed}
    return body


def scoring_request(embeds: Tensor, tokens: Sequence[int], served: str, conversation: str) -> dict[str, Any]:
    """The body of the request for the log-probabilities of tokens after a prompt.

    Args:
        embeds: (t, width) of the prompt.
        tokens: at most MAX_TOKENS.
        served: the model's name at the server.
        conversation: a random name; what is cached of its prompts serves no other.
    """
    return {
        "model": served,
        "prompt": [],
        "prompt_embeds": encoded(embeds),
        "max_tokens": 1,
        "temperature": 0.0,
        "ignore_eos": True,
        "logprobs": 1,
        "logprob_token_ids": list(tokens),
        "return_tokens_as_token_ids": True,
        "cache_salt": conversation,
    }


def scores_of(answer: Mapping[str, Any], tokens: Sequence[int], url: str) -> list[float]:
    """The log-probabilities of the tokens that were asked for.

    Raises:
        EngineError: the server does not give them.
    """
    try:
        given = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return [float(given[f"token_id:{token}"]) for token in tokens]
    except (LookupError, TypeError, ValueError):
        raise EngineError(
            f"{url} gives no log-probabilities of tokens that are named (logprob_token_ids of vLLM); set "
            "engine.closed_sets: in_process"
        ) from None


class Served(NamedTuple):
    """The model at a server: its name, and how many tokens a conversation may have there (None: no limit)."""

    name: str
    max_tokens: int | None


def served_model(answer: Mapping[str, Any], wanted: str | None, url: str) -> Served:
    """The model that a server has.

    Args:
        answer: to GET /models.
        wanted: `engine.model`; None takes the only one.
        url: for the message.

    Raises:
        EngineError: the server does not have it.
    """
    listed = answer.get("data")
    models = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    limits = {str(model.get("id")): model.get("max_model_len") for model in models}
    name = wanted or (next(iter(limits)) if len(limits) == 1 else None)
    if name is None or name not in limits:
        have = without_controls(", ".join(limits)[:200]) or "none"
        raise EngineError(
            f"engine.model {wanted or 'null'}: {url} serves {have}; name the one that was exported"
        )
    limit = limits[name]
    return Served(name, limit if type(limit) is int and limit > 0 else None)


def tokens_of(item: Mapping[str, Any], url: str) -> list[int]:
    """The token ids of one piece of a stream.

    Raises:
        EngineError: the server reports a failure, or gives no token ids.
    """
    if error := item.get("error"):
        message = error.get("message", error) if isinstance(error, dict) else error
        text = without_controls(" ".join(str(message).split())[:200])
        raise EngineError(f"{url} reports a failure in its answer: {text}")
    tokens: list[int] = []
    choices = item.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        ids = choice.get("token_ids") if isinstance(choice, dict) else None
        if not isinstance(ids, list) or not all(type(n) is int and 0 <= n < MAX_ID for n in ids):
            raise EngineError(
                f"{url} gives no token ids (return_token_ids); an engine has to be vLLM 0.11 or newer"
            )
        tokens += ids
    return tokens
