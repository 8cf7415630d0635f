"""Posts JSON to one server and reads its answer, complete or streamed; whatever goes wrong is one sentence.

Nothing follows a redirect, unpacks a compressed answer, or reads more than MAX_BYTES or for longer than the time-out.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from eval.arms.respondent import RespondentError, RespondentGone
from skingpt4.support.errors import reason_of, without_controls
from skingpt4.support.parse import ParseError, parse_json

MAX_BYTES = 4 * 2**20  # of an answer
MAX_WAIT = 120.0  # seconds between two attempts
AGAIN = (408, 429, 500, 502, 503, 504)  # what may go better later
GONE = {
    401: "wants a key; name the environment variable that holds it with --key-env",
    403: "refuses access",
    404: "does not have this model or path",
}
NUM_SHOWN = 200  # characters of a server's own message

logger = logging.getLogger(__name__)


class Retryable(Exception):
    """An attempt that failed in a way that may go better later; `wait` is what the server asks for, in seconds."""

    def __init__(self, message: str, wait: float | None = None, gone: bool = False, max_attempts: int = 99):
        super().__init__(message)
        self.wait, self.gone, self.max_attempts = wait, gone, max_attempts


@dataclass(frozen=True)
class Received:
    """An answer's JSON objects (one, or the pieces of a stream) and its times in seconds from the request on."""

    objects: list[dict[str, Any]]
    seconds_to_first: float | None  # until the first piece of a stream
    seconds: float
    num_attempts: int


@dataclass(frozen=True)
class Limits:
    """How often, how long and how fast a server is asked."""

    timeout: float = 300.0  # seconds for an answer
    retries: int = 4
    requests_per_minute: float = 0.0  # 0: no limit
    first_wait: float = 1.0  # seconds before the second attempt; doubled each time


class HttpClient:
    """One server; its methods may be called from several threads."""

    def __init__(
        self, url: str, key: str | None, limits: Limits, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url, self.limits = url.rstrip("/"), limits
        self.host = urlsplit(url).hostname or ""
        headers = {"Accept-Encoding": "identity", "User-Agent": "skingpt4-eval"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(limits.timeout, connect=min(20.0, limits.timeout)),
            follow_redirects=False,
            trust_env=not is_loopback(self.host),  # a proxy of the environment is never asked about this machine
            limits=httpx.Limits(max_connections=None),
        )  # fmt: skip
        self._lock, self._next, self._noted = threading.Lock(), 0.0, set[str]()

    def post(self, path: str, body: Mapping[str, Any]) -> Received:
        """Post a JSON body; repeated with growing pauses where that may help.

        Raises:
            RespondentError: there is no usable answer to this body.
            RespondentGone: there will be none to any.
        """
        attempt = 0
        while True:
            self._wait_for_turn()
            attempt += 1
            try:
                return self._attempt(path, body, attempt)
            except Retryable as error:
                if attempt > min(self.limits.retries, error.max_attempts - 1):
                    kind = RespondentGone if error.gone else RespondentError
                    times = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise kind(f"{self.host} {error}{times}") from None
                if str(error) not in self._noted:
                    self._noted.add(str(error))
                    logger.warning("note: %s %s; it is asked again", self.host, error)
                pause = self.limits.first_wait * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)  # noqa: S311
                time.sleep(min(MAX_WAIT, max(pause, error.wait or 0.0)))

    def _wait_for_turn(self) -> None:
        if self.limits.requests_per_minute:
            with self._lock:
                now = time.monotonic()
                turn = max(now, self._next)
                self._next = turn + 60 / self.limits.requests_per_minute
            time.sleep(turn - now)

    def _attempt(self, path: str, body: Mapping[str, Any], attempt: int) -> Received:
        start = time.monotonic()
        try:
            with self._client.stream("POST", self.url + path, json=body) as response:
                pieces = self._pieces(response, start)
                if response.status_code != 200:
                    raise self._refusal(response, b"".join(piece for _, piece in pieces))
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind == "text/event-stream":
                    objects, first = events_of(pieces, self.host)
                else:
                    objects, first = [self._object(b"".join(piece for _, piece in pieces), kind)], None
        except httpx.TimeoutException:
            raise self._too_slow() from None
        except httpx.ConnectError as error:
            raise Retryable(f"cannot be reached ({reason_of(error)}); is it running?", gone=True) from None
        except httpx.TransportError as error:
            raise Retryable(f"broke off the connection ({reason_of(error)})") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise RespondentGone(f"{self.url}: is not an address ({error})") from None
        return Received(objects, first and first - start, time.monotonic() - start, attempt)

    def _pieces(self, response: httpx.Response, start: float) -> Iterator[tuple[float, bytes]]:
        """(when, bytes) of an answer's body, within the limits."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RespondentError(f"{self.host} sends a compressed answer, which was not asked for")
        size = 0
        for piece in response.iter_raw():
            now, size = time.monotonic(), size + len(piece)
            if size > MAX_BYTES:
                raise RespondentError(f"{self.host} sends more than {MAX_BYTES // 2**20} MB as one answer")
            if now - start > self.limits.timeout:
                raise self._too_slow()
            yield now, piece

    def _too_slow(self) -> Retryable:
        # A server that hangs is asked once more, no more often: every attempt takes the complete time.
        return Retryable(f"did not answer within {self.limits.timeout:g} seconds (--timeout)", max_attempts=2)

    def _refusal(self, response: httpx.Response, content: bytes) -> Exception:
        status = response.status_code
        if 300 <= status < 400:
            host = urlsplit(response.headers.get("location", "")).hostname or "another address"
            return RespondentGone(
                f"{self.host} redirects to {without_controls(host)}, which is not followed; if that is the server, "
                "name it with --url"
            )
        said = _message(content)
        said = f": {said}" if said else ""
        if status in GONE:
            return RespondentGone(f"{self.host} {GONE[status]} (HTTP {status}{said})")
        text = f"answers with the failure HTTP {status}{said}"
        if status in AGAIN:
            return Retryable(text, _seconds(response.headers.get("retry-after")))
        return RespondentError(f"{self.host} {text}")

    def _object(self, content: bytes, kind: str) -> dict[str, Any]:
        if kind in ("text/html", "application/xhtml+xml") or content.lstrip()[:1] == b"<":
            raise RespondentError(
                f"{self.host} answers with a web page and not with JSON; is --url right (most end in /v1)?"
            )
        return _json_object(content, self.host)


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _json_object(content: bytes | str, host: str) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except ParseError as error:
        raise RespondentError(f"{host} answers with something that is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise RespondentError(f"{host} answers with JSON that is not an object")
    return value


def events_of(pieces: Iterator[tuple[float, bytes]], host: str) -> tuple[list[dict[str, Any]], float | None]:
    """(the objects of a stream of server-sent events, when the first came).

    Raises:
        RespondentError: the stream holds something else.
        Retryable: it ends before its end mark.
    """
    objects: list[dict[str, Any]] = []
    first, rest, ended = None, b"", False
    for now, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                ended = True
            elif data and not ended:
                first = first or now
                objects.append(_json_object(data, host))
    if not (ended or any(_finish_reason(item) for item in objects)):
        raise Retryable("ended its answer in the middle")
    return objects, first


def _finish_reason(item: Mapping[str, Any]) -> Any:
    choices = item.get("choices")
    return (
        isinstance(choices, list)
        and choices
        and isinstance(choices[0], dict)
        and choices[0].get("finish_reason")
    )


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
