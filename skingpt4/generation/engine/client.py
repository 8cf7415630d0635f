"""Asks a vLLM server from an event loop: a JSON object, or the pieces of a stream as they come.

Whoever leaves a stream, or cancels the task that reads it, closes its connection, and the server stops the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import httpx

from skingpt4.config.schema import EngineConfig
from skingpt4.support.remote.address import checked_host, is_loopback, read_key
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

LONGEST_WAIT = 10.0  # seconds between two attempts; somebody sits before the page
OPTIONS = Options("engine.url", "engine.key_env", "engine.timeout_seconds")
MAX_BYTES = 16 * 2**20  # of an answer
MAX_MESSAGE = 64 * 2**10  # bytes that are read of a refusal
CONNECT_SECONDS, HEALTH_SECONDS = 5.0, 2.0
STREAM_TIMES = 10  # a stream lasts at most so many times `engine.timeout_seconds`, which bounds each silence
AGENT = "skingpt4"

logger = logging.getLogger(__name__)


class EngineError(RemoteError):
    """An engine that cannot be used; the message says why."""


def require_safe(config: EngineConfig) -> str | None:
    """The engine's key, if it is safe to send patients' data to it.

    Raises:
        RemoteAddressError: its address cannot be used, or its environment variable holds no key.
        EngineError: it is on another machine, without encryption or without a key.
    """
    host = checked_host(config.url, "engine.url", "engine.key_env")
    key = read_key(config.key_env, "engine.key_env")
    if is_loopback(host) or config.allow_insecure:
        return key
    lacks = [] if config.url.startswith("https:") else ["encryption (https)"]
    lacks += [] if key else ["a key (engine.key_env)"]
    if lacks:
        raise EngineError(
            f"engine.url {config.url}: {host} is another machine, and what is sent there can be turned back into the "
            f"patient's question; it needs {' and '.join(lacks)}, or engine.allow_insecure: true"
        )
    return key


class EngineClient:
    """One server. Made and used in one event loop.

    Args:
        config: its address, key and limits.

    Raises:
        EngineError, RemoteAddressError: as of `require_safe`.
    """

    def __init__(self, config: EngineConfig) -> None:
        key = require_safe(config)
        self.url, self.seconds = config.url.rstrip("/"), config.timeout_seconds
        self.host = checked_host(config.url, OPTIONS.url, OPTIONS.key)
        self.limits = Limits(
            config.timeout_seconds, config.retries, first_wait=0.5, longest_wait=LONGEST_WAIT
        )
        self._client = httpx.AsyncClient(
            headers=headers(key, AGENT),
            timeout=httpx.Timeout(self.seconds, connect=min(CONNECT_SECONDS, self.seconds), pool=None),
            follow_redirects=False,
            trust_env=not is_loopback(self.host),
            limits=httpx.Limits(max_connections=None),
        )
        self._noted = set[str]()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, conversation: str | None = None
    ) -> dict[str, Any]:
        """The JSON object that the server answers with; a failed attempt is repeated where that may help.

        Args:
            method: of HTTP.
            path: after /v1.
            body: JSON.
            conversation: as of `stream`.

        Raises:
            RemoteError, RemoteGone: there is none.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                kind, content = "", bytearray()
                async with (
                    asyncio.timeout(self.seconds),  # httpx measures the time between two pieces alone
                    aclosing(self._pieces(method, path, body, conversation)) as pieces,
                ):
                    async for media, piece in pieces:
                        kind = media
                        content += piece
                return read_object(bytes(content), kind, self.host, OPTIONS)
            except TimeoutError:
                await self._pause(too_slow(self.seconds, OPTIONS), attempt)
            except Retryable as error:
                await self._pause(error, attempt)

    async def is_up(self) -> bool:
        """Whether the server says that it is well, within seconds; what else it says is not read."""
        url = f"{self.url.removesuffix('/v1')}/health"
        try:
            async with asyncio.timeout(HEALTH_SECONDS), self._client.stream("GET", url) as response:
                return response.status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return False

    async def stream(self, path: str, body: bytes, conversation: str) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of a stream. Until the first has come, a failed attempt is repeated where that may help.

        Args:
            path: after /v1.
            body: JSON.
            conversation: a random name; a router sends all prompts of one conversation to the same server.

        Raises:
            RemoteError, RemoteGone: there is no answer, or it broke off.
        """
        attempt, begun = 0, False
        while True:
            attempt += 1
            try:
                reader = EventReader(self.host)
                async with aclosing(self._pieces("POST", path, body, conversation)) as pieces:
                    async for kind, piece in pieces:
                        if kind != "text/event-stream":
                            raise EngineError(
                                f"{self.host} does not stream its answers; is {OPTIONS.url} right?"
                            )
                        for item in reader.feed(piece):
                            begun = True
                            yield item
                reader.end()
                return
            except Retryable as error:
                if begun:
                    raise RemoteError(f"the engine at {self.host} {error}; ask again") from None
                await self._pause(error, attempt)

    async def _pause(self, error: Retryable, attempt: int) -> None:
        """Wait before the next attempt; a failure is logged once, without what was asked.

        Raises:
            RemoteError, RemoteGone: there is no next one.
        """
        pause = self.limits.pause(error, attempt, f"the engine at {self.host}")
        if str(error) not in self._noted:
            self._noted.add(str(error))
            logger.warning("note: the engine at %s %s; it is asked again", self.host, error)
        await asyncio.sleep(pause)

    async def _pieces(
        self, method: str, path: str, body: bytes | None, conversation: str | None
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """(media type, bytes) of an answer's body, within the limits.

        Raises:
            Retryable, RemoteError, RemoteGone: there is no usable answer.
        """
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {"X-Session-Id": conversation} if conversation else {}
        size, now = 0, asyncio.get_running_loop().time
        deadline = now() + STREAM_TIMES * self.seconds
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(deadline):
                    opened = self._client.stream(method, self.url + path, content=body, headers=sent)
                    response = await stack.enter_async_context(opened)
                    require_plain(response.headers, self.host)
                    kind = kind_of(response.headers)
                    if response.status_code != 200:
                        raise await self._refusal(response)
                async for piece in response.aiter_raw():
                    size += len(piece)
                    if size > MAX_BYTES:
                        raise RemoteError(
                            f"{self.host} sends more than {MAX_BYTES // 2**20} MB as one answer"
                        )
                    if (
                        now() > deadline
                    ):  # looked at here, since a timeout around `yield` would end its caller
                        raise TimeoutError
                    yield kind, piece
        except httpx.ConnectTimeout:
            raise Retryable(f"cannot be reached within {CONNECT_SECONDS:g} seconds", gone=True) from None
        except httpx.TimeoutException:
            raise too_slow(self.seconds, OPTIONS) from None
        except TimeoutError:
            raise RemoteError(
                f"{self.host} did not end its answer within {STREAM_TIMES * self.seconds:g} seconds, "
                f"{STREAM_TIMES} times {OPTIONS.timeout}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_failure(error, self.url, self.seconds, OPTIONS) from None

    async def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer of another status than 200 means; no more of it is read than the message."""
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > MAX_MESSAGE:
                break
        return refusal(response.status_code, response.headers, bytes(content), self.host, OPTIONS)
