"""Reads the messages of a request into turns: their texts, and their pictures out of `data:` URLs.

The number of messages, their characters and pictures are bounded before any of them is decoded or tokenized.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skingpt4.model.prompts import PromptError, refuse_placeholder
from skingpt4.server.http.failures import ApiError, brief

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# Clients that do not know a file's type, HEIC for one, send application/octet-stream; the bytes tell.
DATA_URL = re.compile(
    r"data:(?:image/[\w.+-]+|application/octet-stream|application/dicom)?(?:;[\w.=+-]+)*;base64",
    re.IGNORECASE,
)
MAX_DATA_URL_HEAD = 200  # characters before the comma
LINE_BREAKS = b" \t\r\n"  # some encoders break lines


@dataclass(frozen=True)
class RequestTurn:
    """A question with its images as files' bytes, and its answer (None: it has not been answered yet)."""

    question: str
    images: tuple[bytes, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class ConversationLimits:
    """How long a conversation may be; what exceeds it could not fit into the model's context."""

    max_messages: int = 1000  # and so many parts in all of them together
    max_characters: int = 2_000_000
    max_images: int = 8

    @classmethod
    def of_context(cls, num_tokens: int | None, max_images: int) -> ConversationLimits:
        """The limits for a model that reads so many tokens (None: unknown).

        Each message takes more than one token for its role. A token of real text has about four characters.
        """
        num_tokens = min(num_tokens or 2**17, 2**17)
        return cls(min(cls.max_messages, num_tokens // 2), 16 * num_tokens, max_images)

    @property
    def max_values(self) -> int:
        """JSON values that such a conversation can have, together with the commas in its texts."""
        return self.max_characters + 50 * self.max_messages


DEFAULT_LIMITS = ConversationLimits()


@dataclass
class _Turn:
    texts: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    answer: str | None = None


def read_messages(messages: Any, limits: ConversationLimits = DEFAULT_LIMITS) -> tuple[RequestTurn, ...]:
    """The conversation. A system message is put before the first question; consecutive questions become one.

    Raises:
        ApiError: names the message that does not fit.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError("'messages' must be a list of messages, at least one", "messages")
    reader = _Reader(limits)
    if len(messages) > limits.max_messages:
        raise _too_long(f"{len(messages)} messages; at most {limits.max_messages} can be read")
    for number, message in enumerate(messages):
        reader.add(message, f"messages[{number}]")
    return reader.turns()


class _Reader:
    """Adds messages to a conversation, and counts what they hold."""

    def __init__(self, limits: ConversationLimits) -> None:
        self.limits = limits
        self.num_parts = self.num_characters = self.num_images = 0
        self.system: list[str] = []
        self.open_turns: list[_Turn] = []

    def add(self, message: Any, where: str) -> None:
        """Add one message of the request."""
        role, content = _role_and_content(message, where)
        texts, images = self._content(content, f"{where}.content", role)
        turns = self.open_turns
        if role == "system":
            if turns:
                raise ApiError(f"{where}: a system message must come before the first question", where)
            self.system += texts
        elif role == "user":
            if not turns or turns[-1].answer is not None:
                turns.append(_Turn())
            turns[-1].texts += texts
            turns[-1].images += images
        elif not turns or turns[-1].answer is not None:
            raise ApiError(f"{where}: an answer follows a question", where)
        else:
            turns[-1].answer = "\n".join(texts)

    def turns(self) -> tuple[RequestTurn, ...]:
        """All turns, once all messages were added."""
        turns = self.open_turns
        if not turns or turns[-1].answer is not None:
            raise ApiError("the last message must be of the role 'user'", "messages")
        for number, turn in enumerate(turns, 1):
            if not turn.texts:
                raise ApiError(f"question {number} has no text; add what you want to know", "messages")
        turns[0].texts[:0] = self.system
        return tuple(RequestTurn("\n".join(t.texts), tuple(t.images), t.answer) for t in turns)

    def _content(self, content: Any, where: str, role: str) -> tuple[list[str], list[bytes]]:
        """Texts that are not empty, and images."""
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise ApiError(f"{where}: must be a text or a list of parts", where)
        self.num_parts += len(content)
        if self.num_parts > self.limits.max_messages:
            raise _too_long(f"more than {self.limits.max_messages} parts")
        texts, images = [], []
        text_kinds = ["text", "refusal"] if role == "assistant" else ["text"]
        for number, part in enumerate(content):
            place = f"{where}[{number}]"
            part = part if isinstance(part, Mapping) else {}
            kind = part.get("type")
            if kind in text_kinds and isinstance(part.get(kind), str | None):
                texts.append(self._text(part.get(kind) or "", where))
            elif kind == "image_url" and role == "user":
                images.append(self._image(part.get("image_url"), place))
            else:
                known = "text or image_url" if role == "user" else "text"
                raise ApiError(f"{place}: a part here is of type {known}, found {brief(kind)}", place)
        return list(filter(None, texts)), images

    def _text(self, text: str, where: str) -> str:
        self.num_characters += len(text)
        if self.num_characters > self.limits.max_characters:
            raise _too_long(f"more than {self.limits.max_characters} characters")
        try:
            refuse_placeholder(text)
        except PromptError as error:
            raise ApiError(f"{where}: {error}", where) from None
        return text.strip()

    def _image(self, source: Any, where: str) -> bytes:
        self.num_images += 1
        if self.num_images > self.limits.max_images:
            raise ApiError(
                f"the conversation has more than {self.limits.max_images} pictures; at most "
                f"{self.limits.max_images} are read",
                "messages",
            )
        return _image(source, where)


def _too_long(what: str) -> ApiError:
    return ApiError(
        f"the conversation has {what}; start a new one", "messages", code="context_length_exceeded"
    )


def _role_and_content(message: Any, where: str) -> tuple[str, Any]:
    """A message's role (system, user or assistant), and what it holds."""
    given = message.get("role") if isinstance(message, Mapping) else None
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise ApiError(f"{where}: 'role' must be one of {', '.join(ROLES)}", f"{where}.role")
    if role == "assistant" and any(message.get(key) for key in ("tool_calls", "function_call", "audio")):
        raise ApiError(f"{where}: tools are not supported", where)
    content = message.get("content")
    if content is None and role != "user":  # only a question must say something
        content = message.get("refusal") or ""
    return role, content


def _image(source: Any, where: str) -> bytes:
    """An image file's bytes out of a `data:` URL."""
    url = source.get("url") if isinstance(source, Mapping) else source
    if not isinstance(url, str):
        raise ApiError(f"{where}: 'image_url' must be an object with 'url'", where)
    head, comma, _ = url[:MAX_DATA_URL_HEAD].partition(",")
    if not comma or DATA_URL.fullmatch(head) is None:
        what = "a remote address" if re.match(r"https?:", url, re.IGNORECASE) else "no such address"
        raise ApiError(
            f"{where}: 'url' is {what}; nothing is fetched here, so send the picture itself as "
            "data:image/jpeg;base64,...",
            where,
            code="invalid_image_url",
        )
    try:
        encoded = url[len(head) + 1 :].encode("ascii").translate(None, LINE_BREAKS)
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(f"{where}: 'url' holds no valid base64", where, code="invalid_image_url") from None
