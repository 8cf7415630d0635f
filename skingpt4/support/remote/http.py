"""What becomes of a server's answer: its JSON objects, or one sentence about what went wrong.

Nothing follows a redirect or unpacks a compressed answer. The clients above read the bytes, one with threads and one
in an event loop; here is what they have in common.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from skingpt4.support.errors import UserError, reason_of, without_controls
from skingpt4.support.parse import ParseError, parse_json

MAX_WAIT = 120.0  # seconds between two attempts
AGAIN = (408, 429, 500, 502, 503, 504)  # what may go better later
NUM_SHOWN = 200  # characters of a server's own message
MAX_LINE = 2**20  # bytes of a line in a stream; one holds the text of a few tokens


class RemoteError(UserError):
    """A question that a server did not answer; the message says why."""


class RemoteGone(RemoteError):
    """No further question can be answered; the message says why."""


class Retryable(Exception):
    """An attempt that failed in a way that may go better later; `wait` is what the server asks for, in seconds."""

    def __init__(self, message: str, wait: float | None = None, gone: bool = False, max_attempts: int = 99):
        super().__init__(message)
        self.wait, self.gone, self.max_attempts = wait, gone, max_attempts


@dataclass(frozen=True)
class Limits:
    """How often, how long and how fast a server is asked."""

    timeout: float = 300.0  # seconds for an answer
    retries: int = 4
    requests_per_minute: float = 0.0  # 0: no limit
    first_wait: float = 1.0  # seconds before the second attempt; doubled each time
    longest_wait: float = MAX_WAIT  # whatever the server asks for

    def pause(self, error: Retryable, attempt: int, host: str) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            error: of the attempt.
            attempt: its number, from 1.
            host: for the message.

        Raises:
            RemoteError, RemoteGone: that was the last one.
        """
        if attempt > min(self.retries, error.max_attempts - 1):
            kind = RemoteGone if error.gone else RemoteError
            times = f" ({attempt} attempts)" if attempt > 1 else ""
            raise kind(f"{host} {error}{times}") from None
        pause = self.first_wait * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311
        return min(self.longest_wait, max(pause, error.wait or 0.0))


@dataclass(frozen=True)
class Options:
    """How a program's own settings are called in messages."""

    url: str = "--url"
    key: str = "--key-env"
    timeout: str = "--timeout"


def headers(key: str | None, agent: str) -> dict[str, str]:
    """Of every request."""
    shared = {"Accept-Encoding": "identity", "User-Agent": agent}
    return shared | ({"Authorization": f"Bearer {key}"} if key else {})


def too_slow(seconds: float, options: Options) -> Retryable:
    """The failure of a server that hangs; it is asked once more, no more often: each attempt takes all the time."""
    return Retryable(f"did not answer within {seconds:g} seconds ({options.timeout})", max_attempts=2)


def transport_failure(error: Exception, url: str, seconds: float, options: Options) -> Exception:
    """What an exception of httpx means, as a `Retryable` or as the sentence that ends the questions."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Retryable(f"cannot be reached ({reason_of(error)}); is it running?", gone=True)
    if isinstance(error, httpx.TimeoutException):
        return too_slow(seconds, options)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return RemoteGone(f"{url}: is not an address ({error})")
    return Retryable(f"broke off the connection ({reason_of(error)})")


def refusal(status: int, sent: Mapping[str, str], content: bytes, host: str, options: Options) -> Exception:
    """What an answer with another status than 200 means.

    Args:
        status: of the answer.
        sent: its headers.
        content: its body.
        host: for the message.
        options: for the message.
    """
    if 300 <= status < 400:
        place = urlsplit(sent.get("location", "")).hostname or "another address"
        return RemoteGone(
            f"{host} redirects to {without_controls(place)}, which is not followed; if that is the server, "
            f"name it with {options.url}"
        )
    own = _message(content)
    own = f": {own}" if own else ""
    gone = {
        401: f"wants a key; name the environment variable that holds it with {options.key}",
        403: "refuses access",
        404: "does not have this model or path",
    }
    if status in gone:
        return RemoteGone(f"{host} {gone[status]} (HTTP {status}{own})")
    text = f"answers with the failure HTTP {status}{own}"
    if status in AGAIN:
        return Retryable(text, _seconds(sent.get("retry-after")))
    return RemoteError(f"{host} {text}")


def require_plain(sent: Mapping[str, str], host: str) -> None:
    """Refuse a compressed answer, whose size nobody knows before it is unpacked.

    Raises:
        RemoteError: it is compressed.
    """
    if sent.get("content-encoding", "identity") != "identity":
        raise RemoteError(f"{host} sends a compressed answer, which was not asked for")


def kind_of(sent: Mapping[str, str]) -> str:
    """The media type of an answer."""
    return sent.get("content-type", "").partition(";")[0].strip().lower()


def read_object(content: bytes, kind: str, host: str, options: Options) -> dict[str, Any]:
    """The one JSON object of a complete answer.

    Raises:
        RemoteError: it is something else.
    """
    if kind in ("text/html", "application/xhtml+xml") or content.lstrip()[:1] == b"<":
        raise RemoteError(
            f"{host} answers with a web page and not with JSON; is {options.url} right (most end in /v1)?"
        )
    return _json_object(content, host)


class EventReader:
    """The JSON objects of a stream of server-sent events, from its bytes as they come."""

    def __init__(self, host: str) -> None:
        self._host, self._rest = host, bytearray()
        self._ended = self._finished = False

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects that are complete with these bytes.

        Raises:
            RemoteError: the stream holds something else, or a line without end.
        """
        self._rest += piece
        if len(self._rest) - len(piece) > MAX_LINE:
            raise RemoteError(f"{self._host} sends a line of more than {MAX_LINE} bytes in a stream")
        if b"\n" not in piece:  # looked for in what is new: a server may send a long line byte by byte
            return
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                self._ended = True
            elif data and not self._ended:
                item = _json_object(data, self._host)
                self._finished = self._finished or _has_finished(item)
                yield item

    def end(self) -> None:
        """Call it after the last bytes.

        Raises:
            Retryable: the stream ended before its end mark.
        """
        if not (self._ended or self._finished):
            raise Retryable("ended its answer in the middle")


def _json_object(content: bytes | str, host: str) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except ParseError as error:
        raise RemoteError(f"{host} answers with something that is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise RemoteError(f"{host} answers with JSON that is not an object")
    return value


def _has_finished(item: Mapping[str, Any]) -> bool:
    choices = item.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and bool(first.get("finish_reason"))


def _message(content: bytes) -> str:
    """A server's own message, as one short line."""
    text = content[:20_000].decode("utf-8", "replace")
    try:
        value = json.loads(text)
        error = value.get("error", value.get("detail", value.get("message", text)))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        text = "a web page" if text.lstrip()[:1] == "<" else text
    text = without_controls(" ".join(text.split()))
    return text if len(text) <= NUM_SHOWN else f"{text[:NUM_SHOWN]} ..."


def _seconds(text: str | None) -> float | None:
    try:
        return min(MAX_WAIT, max(0.0, float(text or "")))
    except ValueError:
        return None
