"""Reads a request in the shape of OpenAI's chat completions into a `ChatRequest`; no model is needed here.

What is not supported (several choices, tools, remote images) is refused in a sentence, never silently left out. A key
whose value asks for nothing is taken: null everywhere, and the neutral values that clients send by default.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any

from skingpt4.server.http.failures import MAX_ECHO, ApiError, brief
from skingpt4.server.http.messages import DEFAULT_LIMITS, ConversationLimits, RequestTurn, read_messages

MODEL = "skingpt4"
# Keys without effect here; some clients send them by default.
IGNORED_KEYS = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort",
    "verbosity")  # fmt: skip
# Keys that are not supported, with the values, beside null, that are accepted because they ask for nothing.
UNSUPPORTED_KEYS: dict[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,),
    "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "audio": (), "prediction": (), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "moderation": (), "web_search_options": (),
}  # fmt: skip
SUPPORTED_KEYS = ("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop",
    "stream", "stream_options", "skingpt4")  # fmt: skip
EXTENSIONS = ("differential", "quality")
STREAM_OPTIONS = ("include_usage", "include_obfuscation")  # the second pads events; it has no effect here
MIN_TEMPERATURE = 1e-6  # a smaller one divides logits beyond what a float holds; it is greedy
MAX_STOPS, MAX_STOP_CHARACTERS = 4, 200


@dataclass(frozen=True)
class ChatRequest:
    """The conversation so far, its last turn without an answer, and how the answer is generated."""

    turns: tuple[RequestTurn, ...]
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 0.9
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    extensions: frozenset[str] = field(default_factory=frozenset)  # of EXTENSIONS

    @property
    def images(self) -> list[bytes]:
        """All images in order."""
        return [image for turn in self.turns for image in turn.images]


def read_request(body: Any, limits: ConversationLimits = DEFAULT_LIMITS) -> ChatRequest:
    """Check a request's JSON.

    Args:
        body: the parsed JSON.
        limits: of the complete conversation.

    Raises:
        ApiError: the first thing that is wrong.
    """
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object with 'messages'")
    body = {key: value for key, value in body.items() if value is not None}
    for key, value in body.items():
        _check_key(key, value)
    name = body.get("model", MODEL)
    if name != MODEL:
        raise ApiError(
            f"the model {brief(name)} is not here; this server has {MODEL!r}", "model", 404, "model_not_found"
        )
    longest_key = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    longest = body.get(longest_key)
    temperature = float(_number(body.get("temperature", 0), "temperature", 0, 2))
    return ChatRequest(
        read_messages(body.get("messages"), limits),
        None if longest is None else int(_number(longest, longest_key, 1, 100_000, integer=True)),
        temperature if temperature >= MIN_TEMPERATURE else 0.0,
        float(_number(body.get("top_p", 0.9), "top_p", 1e-6, 1)),
        int(_number(body.get("seed", 0), "seed", -(2**63), 2**63 - 1, integer=True)),
        _stops(body.get("stop")),
        _flag(body.get("stream"), "stream"),
        "include_usage" in _flags(body.get("stream_options", {}), "stream_options", STREAM_OPTIONS),
        _flags(body.get("skingpt4", {}), "skingpt4", EXTENSIONS),
    )


def _check_key(key: str, value: Any) -> None:
    if key in UNSUPPORTED_KEYS and not any(_same(value, neutral) for neutral in UNSUPPORTED_KEYS[key]):
        if key == "n":
            raise ApiError("'n' must be 1: one request gets one answer", key)
        raise ApiError(f"'{key}' is not supported; leave it out", key, code="unsupported_parameter")
    if key not in (*SUPPORTED_KEYS, *UNSUPPORTED_KEYS, *IGNORED_KEYS):
        short = key[:MAX_ECHO]
        near = difflib.get_close_matches(short, SUPPORTED_KEYS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ApiError(f"unknown key {brief(key)}{hint}", short, code="unknown_parameter")


def _same(value: Any, neutral: Any) -> bool:
    """Whether a JSON value is the neutral one: 0.0 is 0, but false is not."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _number(value: Any, key: str, low: float, high: float, integer: bool = False) -> float | int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (integer and value != int(value)):
        kind = "a whole number" if integer else "a number"
        raise ApiError(f"'{key}' must be {kind} from {low:g} to {high:g}", key)
    return value


def _flag(value: Any, key: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ApiError(f"'{key}' must be true or false", key)
    return bool(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(s, str) and s for s in stops)
    ):
        raise ApiError("'stop' must be a text or up to four texts, none of them empty", "stop")
    if any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise ApiError(f"a text in 'stop' has more than {MAX_STOP_CHARACTERS} characters", "stop")
    return tuple(stops)


def _flags(value: Any, key: str, names: tuple[str, ...]) -> frozenset[str]:
    """Those of the names that an object sets to true."""
    if not isinstance(value, dict) or not set(value) <= set(names):
        raise ApiError(f"'{key}' must be an object with {' or '.join(names)}: true or false", key)
    return frozenset(name for name, flag in value.items() if _flag(flag, f"{key}.{name}"))
