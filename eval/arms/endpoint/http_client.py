"""Posts JSON to one server and reads its answer, complete or streamed; whatever goes wrong is one sentence.

Nothing follows a redirect, unpacks a compressed answer, or reads more than MAX_BYTES or for longer than the time-out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from skingpt4.support.remote.address import is_loopback
from skingpt4.support.remote.http import (
    EventReader,
    Limits,
    Options,
    RemoteError,
    Retryable,
    headers,
    kind_of,
    read_object,
    refusal,
    require_plain,
    too_slow,
    transport_failure,
)

MAX_BYTES = 4 * 2**20  # of an answer
OPTIONS = Options()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Received:
    """An answer's JSON objects (one, or the pieces of a stream) and its times in seconds from the request on."""

    objects: list[dict[str, Any]]
    seconds_to_first: float | None  # until the first piece of a stream
    seconds: float
    num_attempts: int


class HttpClient:
    """One server; its methods may be called from several threads."""

    def __init__(
        self, url: str, key: str | None, limits: Limits, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url, self.limits = url.rstrip("/"), limits
        self.host = urlsplit(url).hostname or ""
        self._client = httpx.Client(
            headers=headers(key, "skingpt4-eval"),
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
                pause = self.limits.pause(error, attempt, self.host)
                if str(error) not in self._noted:
                    self._noted.add(str(error))
                    logger.warning("note: %s %s; it is asked again", self.host, error)
                time.sleep(pause)

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
                    content = b"".join(piece for _, piece in pieces)
                    raise refusal(response.status_code, response.headers, content, self.host, OPTIONS)
                kind = kind_of(response.headers)
                if kind == "text/event-stream":
                    objects, first = events_of(pieces, self.host)
                else:
                    content = b"".join(piece for _, piece in pieces)
                    objects, first = [read_object(content, kind, self.host, OPTIONS)], None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_failure(error, self.url, self.limits.timeout, OPTIONS) from None
        return Received(objects, first and first - start, time.monotonic() - start, attempt)

    def _pieces(self, response: httpx.Response, start: float) -> Iterator[tuple[float, bytes]]:
        """(when, bytes) of an answer's body, within the limits."""
        require_plain(response.headers, self.host)
        size = 0
        for piece in response.iter_raw():
            now, size = time.monotonic(), size + len(piece)
            if size > MAX_BYTES:
                raise RemoteError(f"{self.host} sends more than {MAX_BYTES // 2**20} MB as one answer")
            if now - start > self.limits.timeout:
                raise too_slow(self.limits.timeout, OPTIONS)
            yield now, piece


def events_of(pieces: Iterator[tuple[float, bytes]], host: str) -> tuple[list[dict[str, Any]], float | None]:
    """(the objects of a stream of server-sent events, when the first came).

    Raises:
        RespondentError: the stream holds something else.
        Retryable: it ends before its end mark.
    """
    objects: list[dict[str, Any]] = []
    first, reader = None, EventReader(host)
    for now, piece in pieces:
        for item in reader.feed(piece):
            first = first or now
            objects.append(item)
    reader.end()
    return objects, first
