"""A request's body: its size is known before it is read, it must arrive in time, and its JSON is bounded.

Large ones are parsed in processes of their own. The JSON parser and the base64 decoder hold Python's lock for as long
as they run: a tenth of a second for 20 MB, in which the event loop, that needs the lock again after each call of the
system, answers nobody. anyio.to_process would send the bytes through the event loop, and the workers of
concurrent.futures outlive a server that was killed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import orjson
from starlette.requests import Request

from skingpt4.server.decoding.environment import environment
from skingpt4.server.http.failures import ApiError
from skingpt4.server.http.messages import ConversationLimits
from skingpt4.server.http.request import ChatRequest, read_request

MAX_SECONDS = 30.0  # for a complete body
STALL_SECONDS, STALL_BYTES = 5.0, 64 * 2**10  # in each such time so much must arrive, or the rest
LARGE_BODY = 128 * 2**10  # bytes; a smaller one holds the lock for a millisecond
NICENESS = 5  # of the processes: the event loop goes before them
ELSEWHERE = os.name == "posix"  # Windows hands no pipe on to a process in this way; all is parsed here then


def declared_bytes(request: Request, limit: int) -> int:
    """How many bytes the body has at most, by its headers.

    Raises:
        ApiError: not JSON, or too large.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError("send the body as application/json", None, 415)
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return limit
    if int(length) > limit:
        raise _too_large(limit)
    return int(length)


async def read_body(request: Request, limit: int) -> bytearray:
    """The body's bytes.

    Raises:
        ApiError: it is larger than `limit`, or comes too slowly.
    """
    body, num_before = bytearray(), 0
    now = asyncio.get_running_loop().time
    started = now()
    try:
        async with asyncio.timeout(STALL_SECONDS) as scope:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise _too_large(limit)
                if len(body) - num_before >= STALL_BYTES:
                    num_before = len(body)
                    scope.reschedule(min(now() + STALL_SECONDS, started + MAX_SECONDS))
    except TimeoutError:
        raise ApiError(
            f"the body came too slowly: {len(body)} bytes in {now() - started:.0f} seconds",
            None,
            408,
            "body_timeout",
        ) from None
    return body


def parse_json(body: bytes | bytearray, max_values: int) -> Any:
    """The body's JSON.

    Raises:
        ApiError: it is not JSON, or has more values than any conversation that the model can read.
    """
    # An empty list has two bytes in JSON and sixty in memory. Base64 holds none of these signs.
    num_values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if num_values > max_values:
        raise ApiError(
            f"the body has more than {max_values} values or commas; shorten the conversation",
            code="context_length_exceeded",
        )
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("the body is not JSON in UTF-8") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(f"the body is larger than {limit} bytes; send smaller pictures", None, 413, "too_large")


class Parsers:
    """Processes that parse, started when they are needed; any thread may use them."""

    def __init__(self, limits: ConversationLimits) -> None:
        self.limits = limits
        self._idle: list[_Parser] = []

    def read(self, body: bytes | bytearray) -> ChatRequest:
        """The request that a body holds.

        Raises:
            ApiError: it holds none.
        """
        if len(body) <= LARGE_BODY or not ELSEWHERE:
            return read(body, self.limits)
        with self._parser() as parser:
            result = parser.read(body)
        if isinstance(result, ApiError):
            raise result
        return result

    @contextmanager
    def _parser(self) -> Iterator[_Parser]:
        """One that nobody else uses; after a failure it is ended."""
        try:
            parser = self._idle.pop()
        except IndexError:
            parser = _Parser(self.limits)
        try:
            yield parser
        except (EOFError, OSError):
            parser.end()
            raise ApiError("the body could not be parsed; try again", None, 503, "parser_ended") from None
        except BaseException:
            parser.end()
            raise
        self._idle.append(parser)


class _Parser:
    """One process, which ends when this one does: its pipe is then closed."""

    def __init__(self, limits: ConversationLimits) -> None:
        self._pipe, other = Pipe()
        code = f"from {__name__} import parse_until_closed; parse_until_closed({other.fileno()})"
        with other:  # a session of its own: Ctrl-C is meant for the server, which still answers
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],  # -P: nothing of the folder that this runs in is imported
                pass_fds=[other.fileno()],
                env=environment(),
                start_new_session=True,
            )
        self._pipe.send(limits)

    def read(self, body: bytes | bytearray) -> ChatRequest | ApiError:
        """Let it parse a body."""
        self._pipe.send_bytes(body)
        result: ChatRequest | ApiError = self._pipe.recv()
        return result

    def end(self) -> None:
        """Stop it at once."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def read(body: bytes | bytearray, limits: ConversationLimits) -> ChatRequest:
    """Parse and check a body here.

    Raises:
        ApiError: the first thing that is wrong.
    """
    return read_request(parse_json(body, limits.max_values), limits)


def parse_until_closed(descriptor: int) -> None:
    """What such a process does: a body comes, a request or what is wrong with it goes."""
    with suppress(OSError):  # a service manager may forbid it, and then they are as the event loop is
        os.nice(NICENESS)
    with Connection(descriptor) as pipe:
        try:
            limits = pipe.recv()
            while True:
                try:
                    result: ChatRequest | ApiError = read(pipe.recv_bytes(), limits)
                except ApiError as refusal:
                    result = refusal
                pipe.send(result)
        except (EOFError, OSError):
            return  # the server ended
