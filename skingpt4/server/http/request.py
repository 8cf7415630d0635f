"""Reads a request in the shape of OpenAI's chat completions into a `ChatRequest`; no model is needed here.

What is not supported (several choices, tools, remote images) is refused in a sentence, never silently left out. A key
whose value asks for nothing is taken: null everywhere, and the neutral values that clients send by default.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from skingpt4.model.prompts import PromptError, refuse_placeholder
from skingpt4.support.errors import UserError

MODEL = "skingpt4"
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
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
# Clients that do not know a file's type, HEIC for one, send application/octet-stream; the bytes tell.
DATA_URL = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.=+-]+)*;base64,", re.IGNORECASE
)


class ApiError(UserError):
    """A request that is refused, in the terms of OpenAI's error object.

    Args:
        message: a sentence.
        param: the key of the request that it is about.
        status_code: of the HTTP response.
        code: for programs.
    """

    def __init__(
        self, message: str, param: str | None = None, status_code: int = 400, code: str | None = None
    ):
        super().__init__(message)
        self.param, self.status_code, self.code = param, status_code, code

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error"
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class RequestTurn:
    """A question with its images as files' bytes, and its answer (None: it has not been answered yet)."""

    question: str
    images: tuple[bytes, ...] = ()
    answer: str | None = None


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


def read_request(body: Any, max_images: int = 8) -> ChatRequest:
    """Check a request's JSON.

    Args:
        body: the parsed JSON.
        max_images: in the complete conversation.

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
            f"the model {name!r} is not here; this server has {MODEL!r}", "model", 404, "model_not_found"
        )
    longest_key = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    longest = body.get(longest_key)
    options = body.get("stream_options", {})
    if not isinstance(options, dict):
        raise ApiError("'stream_options' must be an object", "stream_options")
    request = ChatRequest(
        read_messages(body.get("messages")),
        None if longest is None else int(_number(longest, longest_key, 1, 100_000, integer=True)),
        float(_number(body.get("temperature", 0), "temperature", 0, 2)),
        float(_number(body.get("top_p", 0.9), "top_p", 1e-6, 1)),
        int(_number(body.get("seed", 0), "seed", -(2**63), 2**63 - 1, integer=True)),
        _stops(body.get("stop")),
        _flag(body.get("stream"), "stream"),
        _flag(options.get("include_usage"), "stream_options.include_usage"),
        _extensions(body.get("skingpt4")),
    )
    if len(request.images) > max_images:
        raise ApiError(
            f"the conversation has {len(request.images)} pictures; at most {max_images} are read", "messages"
        )
    return request


def _check_key(key: str, value: Any) -> None:
    if key in UNSUPPORTED_KEYS and not any(_same(value, neutral) for neutral in UNSUPPORTED_KEYS[key]):
        if key == "n":
            raise ApiError("'n' must be 1: one request gets one answer", key)
        raise ApiError(f"'{key}' is not supported; leave it out", key, code="unsupported_parameter")
    if key not in (*SUPPORTED_KEYS, *UNSUPPORTED_KEYS, *IGNORED_KEYS):
        near = difflib.get_close_matches(key, SUPPORTED_KEYS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ApiError(f"unknown key '{key}'{hint}", key, code="unknown_parameter")


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
    if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
        raise ApiError(f"'{key}' must be true or false", key)
    return bool(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise ApiError("'stop' must be a text or up to four texts, none of them empty", "stop")
    return tuple(stops)


def _extensions(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, dict) or not set(value) <= set(EXTENSIONS):
        raise ApiError(
            f"'skingpt4' must be an object with {' or '.join(EXTENSIONS)}: true or false", "skingpt4"
        )
    return frozenset(key for key, flag in value.items() if _flag(flag, f"skingpt4.{key}"))


def read_messages(messages: Any) -> tuple[RequestTurn, ...]:
    """The conversation. A system message is put before the first question; consecutive questions become one.

    Raises:
        ApiError: names the message that does not fit.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError("'messages' must be a list of messages, at least one", "messages")
    turns: list[RequestTurn] = []
    system: list[str] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, text, images = _message(message, where)
        if role == "system":
            if turns:
                raise ApiError(f"{where}: a system message must come before the first question", where)
            system.append(text)
        elif role == "user":
            turns = _with_question(turns, text, images)
        elif not turns or turns[-1].answer is not None:
            raise ApiError(f"{where}: an answer follows a question", where)
        else:
            turns[-1] = replace(turns[-1], answer=text)
    if not turns or turns[-1].answer is not None:
        raise ApiError("the last message must be of the role 'user'", "messages")
    for number, turn in enumerate(turns, 1):
        if not turn.question:
            raise ApiError(f"question {number} has no text; add what you want to know", "messages")
    if system:
        turns[0] = replace(turns[0], question="\n".join(filter(None, [*system, turns[0].question])))
    return tuple(turns)


def _message(message: Any, where: str) -> tuple[str, str, tuple[bytes, ...]]:
    """A message's role (system, user or assistant), text and images."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise ApiError(f"{where}: 'role' must be one of {', '.join(ROLES)}", f"{where}.role")
    role = ROLES[message["role"]]
    if role == "assistant" and any(message.get(key) for key in ("tool_calls", "function_call", "audio")):
        raise ApiError(f"{where}: tools are not supported", where)
    content = message.get("content")
    if content is None and role != "user":  # only a question must say something
        content = message.get("refusal") or ""
    return role, *_content(content, f"{where}.content", role == "user")


def _with_question(turns: Sequence[RequestTurn], text: str, images: tuple[bytes, ...]) -> list[RequestTurn]:
    if not turns or turns[-1].answer is not None:
        return [*turns, RequestTurn(text, images)]
    last = turns[-1]
    question = "\n".join(filter(None, [last.question, text]))
    return [*turns[:-1], RequestTurn(question, (*last.images, *images))]


def _content(content: Any, where: str, images_allowed: bool) -> tuple[str, tuple[bytes, ...]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ApiError(f"{where}: must be a text or a list of parts", where)
    texts, images = [], []
    for number, part in enumerate(content):
        place = f"{where}[{number}]"
        part = part if isinstance(part, Mapping) else {}
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str | None):
            texts.append((part.get("text") or "").strip())
        elif kind == "image_url" and images_allowed:
            images.append(_image(part.get("image_url"), place))
        else:
            known = "text or image_url" if images_allowed else "text"
            raise ApiError(f"{place}: a part here is of type {known}, found {kind!r}", place)
    text = "\n".join(filter(None, texts))
    try:
        refuse_placeholder(text)
    except PromptError as error:
        raise ApiError(f"{where}: {error}", where) from None
    return text, tuple(images)


def _image(source: Any, where: str) -> bytes:
    """An image file's bytes out of a `data:` address."""
    url = source.get("url") if isinstance(source, Mapping) else source
    if not isinstance(url, str):
        raise ApiError(f"{where}: 'image_url' must be an object with 'url'", where)
    head = DATA_URL.match(url)
    if head is None:
        what = "a remote address" if re.match(r"https?:", url, re.IGNORECASE) else "no such address"
        raise ApiError(
            f"{where}: 'url' is {what}; nothing is fetched here, so send the picture itself as "
            "data:image/jpeg;base64,...",
            where,
            code="invalid_image_url",
        )
    try:
        return base64.b64decode(
            "".join(url[head.end() :].split()), validate=True
        )  # some encoders break lines
    except (binascii.Error, ValueError):
        raise ApiError(f"{where}: 'url' holds no valid base64", where, code="invalid_image_url") from None
