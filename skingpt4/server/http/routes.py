"""The routes of the HTTP API: GET /health, GET /v1/models, POST /v1/chat/completions (`make_app` lists them).

A request goes through stages, each of which holds only what it needs: memory for its body, before any of it is read;
a turn at preparation, where JSON is parsed and pictures are decoded; a place among the answers. The event loop itself
computes nothing, and no thread beside it holds Python's lock for long, so it always answers.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from skingpt4.server.address import Address
from skingpt4.server.decoding.turns import LARGE
from skingpt4.server.guard import Guard
from skingpt4.server.http.admission import Hold, LineFull, Pool
from skingpt4.server.http.body import Parsers, declared_bytes, read_body
from skingpt4.server.http.connections import MAX_CONNECTIONS
from skingpt4.server.http.failures import ApiError, as_api_error
from skingpt4.server.http.messages import ConversationLimits
from skingpt4.server.http.request import MODEL, ChatRequest
from skingpt4.server.http.response import Reply, event
from skingpt4.server.http.work import in_thread, while_connected
from skingpt4.support.memory import return_freed_memory

if TYPE_CHECKING:
    from skingpt4.server.http.answering import Answer, Answerer

LOCAL = Address()
# What a stage takes, roughly; see `Pool` for what it is used for.
BODY_BYTES_PER_SECOND = 200_000
PIXELS_PER_SECOND = 10_000_000
RETURN_SECONDS = 5.0  # after which freed memory is given back; other threads wait meanwhile


@dataclass(frozen=True)
class Limits:
    """How much one request may contain and take, and how much all of them together."""

    max_body_bytes: int = 20 * 2**20
    max_images: int = 8
    max_requests: int = 64  # answered at once; as many wait
    max_wait_seconds: float = 60.0  # in one line
    max_seconds: float = 600.0  # for an answer
    max_bytes_held: int = 160 * 2**20  # of all bodies, until their pictures are encoded
    max_prepared: int = 2  # requests whose JSON is parsed or pictures are decoded at once


@dataclass
class Api:
    """One method a route, in front of an `Answerer`."""

    answerer: Answerer
    limits: Limits = field(default_factory=Limits)
    key: str | None = None

    def __post_init__(self) -> None:
        limits = self.limits
        num = limits.max_requests
        self.bodies = Pool(max(limits.max_bytes_held, limits.max_body_bytes), MAX_CONNECTIONS)
        self.turns, self.large_turns = Pool(limits.max_prepared, num), Pool(1, num)
        self.places = Pool(num, num)
        self._is_trimming = False
        self.parsers = Parsers(ConversationLimits.of_context(self.answerer.context, limits.max_images))

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return self.places.capacity - self.places.free

    async def health(self, request: Request) -> Response:
        """Whether the server answers, and its engine, without a key; only who has one learns the checkpoint."""
        engine = self.answerer.engine
        state = {}
        if engine is not None:
            state = {"engine": "ok" if await asyncio.wrap_future(engine.is_up()) else "away"}
        checkpoint = {} if self.key else {"checkpoint": self.answerer.identity["checkpoint"]}
        return JSONResponse({"status": "ok"} | checkpoint | state)

    async def models(self, request: Request) -> Response:
        """The only model, with what it is and what it was trained on."""
        self._authorise(request)
        model = {
            "id": MODEL, "object": "model", "created": 0, "owned_by": "local", "skingpt4": self.answerer.about
        }  # fmt: skip
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [model]})
        if request.path_params["name"] != MODEL:
            raise ApiError(f"this server has the model {MODEL!r} alone", "model", 404, "model_not_found")
        return JSONResponse(model)

    async def completions(self, request: Request) -> Response:
        """Answer a conversation, in one object or as a stream."""
        self._authorise(request)
        try:
            return await self._completions(request)
        finally:
            self._return_memory_soon()

    async def _completions(self, request: Request) -> Response:
        num_bytes = declared_bytes(request, self.limits.max_body_bytes)
        if self.places.num_waiting >= self.limits.max_requests:
            raise self._busy()
        with await self._admitted(self.bodies, num_bytes, num_bytes / BODY_BYTES_PER_SECOND) as memory:
            body = await read_body(request, self.limits.max_body_bytes)
            answer = self.answerer.new_answer(await self._parsed(request, body))
            del body
            timer = asyncio.get_running_loop().call_later(self.limits.max_seconds, answer.time_out)
            course = _Course(answer, timer)
            try:
                await self._prepare(request, answer)
                memory.release()
                course.place = await while_connected(request, self._admitted(self.places))
                return await self._response(request, course)
            except BaseException:
                await course.end()
                raise

    async def _parsed(self, request: Request, body: bytearray) -> ChatRequest:
        with await while_connected(request, self._admitted(self.turns)):
            # It ends by itself.
            return await while_connected(request, in_thread(lambda: self.parsers.read(body)), lambda: None)

    async def _prepare(self, request: Request, answer: Answer) -> None:
        """Encode the pictures. Large ones wait for each other, so that they never keep ordinary ones waiting."""
        with await while_connected(request, self._admitted(self.turns)):
            sizes = await while_connected(request, in_thread(answer.num_pixels), lambda: None)
        turns = self.large_turns if max(sizes, default=0) > LARGE else self.turns
        with await while_connected(request, self._admitted(turns, 1, sum(sizes) / PIXELS_PER_SECOND)):
            await while_connected(request, in_thread(answer.prepare), answer.stop)

    async def _response(self, request: Request, course: _Course) -> Response:
        answer, reply = course.answer, Reply(self.answerer.fingerprint)
        pieces = await while_connected(request, in_thread(answer.start), answer.stop)
        answer.check_time()
        if answer.stream:
            return _Events(_events(answer, pieces, reply), answer.stop, course.end)
        text = await while_connected(request, in_thread(lambda: "".join(pieces)), answer.stop)
        answer.check_time()
        extension = await while_connected(request, in_thread(answer.extension), answer.stop)
        response = JSONResponse(reply.complete(text, answer.finish_reason, answer.usage, extension))
        await course.end()
        return response

    def _return_memory_soon(self) -> None:
        """Give what bodies and pictures took back to the system, once for all requests of some seconds."""
        if not self._is_trimming:
            self._is_trimming = True
            asyncio.get_running_loop().call_later(RETURN_SECONDS, self._return_memory)

    def _return_memory(self) -> None:
        self._is_trimming = False
        threading.Thread(target=return_freed_memory, daemon=True).start()

    async def _admitted(self, pool: Pool, amount: int = 1, expected_seconds: float = 0.0) -> Hold:
        try:
            with anyio.fail_after(self.limits.max_wait_seconds):
                return await pool.hold(amount, expected_seconds)
        except (LineFull, TimeoutError):
            raise self._busy() from None

    def _busy(self) -> ApiError:
        return ApiError(
            f"{self.num_running} requests are under way; try again in a moment", None, 429, "busy"
        )

    def _authorise(self, request: Request) -> None:
        """Refuse clients without the key.

        Raises:
            ApiError: 401.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self.key and not (
            scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key.encode())
        ):
            raise ApiError(
                "the API key is missing or wrong; send Authorization: Bearer KEY",
                None,
                401,
                "invalid_api_key",
            )


@dataclass
class _Course:
    """What is to be given back when an answer ends, however it ends."""

    answer: Answer
    timer: asyncio.TimerHandle
    place: Hold | None = None

    async def end(self) -> None:
        """Forget the answer, then let another take its place. The audit log is a file: it may take time."""
        self.timer.cancel()
        with anyio.CancelScope(shield=True):
            try:
                await in_thread(self.answer.end)
            finally:
                if self.place is not None:
                    self.place.release()


async def _events(answer: Answer, pieces: Iterator[str], reply: Reply) -> AsyncIterator[str]:
    """Server-sent events; a failure after the first is one of them."""
    first = True
    try:
        while (piece := await in_thread(lambda: next(pieces, None))) is not None:
            yield reply.piece(piece, first)
            first = False
        answer.check_time()
        if first:
            yield reply.piece("", True)
        extension = await in_thread(answer.extension)
        usage = answer.usage if answer.include_usage else None
        yield reply.end(answer.finish_reason, extension, usage)
    except Exception as error:
        yield event(as_api_error(error).to_dict())


class _Events(StreamingResponse):
    """Server-sent events. If the client leaves, the answer is stopped; at the end it is ended, however it ends."""

    def __init__(
        self, events: AsyncIterator[str], on_leave: Callable[[], None], on_end: Callable[[], Awaitable[None]]
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.on_leave, self.on_end = on_leave, on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await while_connected(Request(scope, receive), self.stream_response(send), self.on_leave)
        except ClientDisconnect:
            pass
        finally:
            await self.on_end()


def _reported(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose failures are OpenAI's error objects."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            failure = as_api_error(error)
            return JSONResponse(failure.to_dict(), failure.status_code, failure.headers)

    return answer


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "there is no such address" if status == 404 else str(getattr(error, "detail", error))
    return JSONResponse(
        ApiError(f"{what}; see /v1/models and /v1/chat/completions", None, status).to_dict(), status
    )


def make_app(api: Api, address: Address = LOCAL) -> Starlette:
    """The ASGI application for a server at this address."""
    return Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", _reported(api.models)),
            Route("/v1/models/{name:path}", _reported(api.models)),
            Route("/v1/chat/completions", _reported(api.completions), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, address=address)],
        exception_handlers={404: _not_found, 405: _not_found},
    )
