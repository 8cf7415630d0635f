"""The routes of the HTTP API: GET /health, GET /v1/models, POST /v1/chat/completions (`make_app` lists them)."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from skingpt4.server.address import Address
from skingpt4.server.guard import Guard
from skingpt4.server.http.request import MODEL, ApiError, read_request
from skingpt4.server.http.response import Reply, event
from skingpt4.support.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from skingpt4.server.http.answering import Answer, Answerer

logger = logging.getLogger(__name__)
NUM_THREADS = 400  # so that no request waits for a thread
LOCAL = Address()
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How much one request may contain, and how many are answered at once."""

    max_body_bytes: int = 20 * 2**20
    max_images: int = 8
    max_requests: int = 64


@dataclass
class Api:
    """One method a route, in front of an `Answerer`."""

    answerer: Answerer
    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    num_running: int = 0

    async def health(self, request: Request) -> Response:
        """Whether the server answers, without a key."""
        return JSONResponse({"status": "ok", "checkpoint": self.answerer.identity["checkpoint"]})

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
        chat_request = read_request(await self._json(request), self.limits.max_images)
        if self.num_running >= self.limits.max_requests:
            raise ApiError(
                f"{self.num_running} requests are under way; try again in a moment", None, 429, "busy"
            )
        self.num_running += 1
        answer = self.answerer.new_answer(chat_request)
        try:
            pieces = await self._while_connected(request, answer, answer.start)
            if chat_request.stream:
                return _Events(self._events(answer, pieces), lambda: self._end(answer))
            text = await self._while_connected(request, answer, lambda: "".join(pieces))
            extension = await self._while_connected(request, answer, answer.extension)
            reply = Reply(self.answerer.fingerprint)
            response = JSONResponse(reply.complete(text, answer.finish_reason, answer.usage, extension))
        except BaseException:
            self._end(answer)
            raise
        self._end(answer)
        return response

    async def _events(self, answer: Answer, pieces: Iterator[str]) -> AsyncIterator[str]:
        """Server-sent events; a failure after the first is one of them."""
        reply, first = Reply(self.answerer.fingerprint), True
        try:
            while (piece := await _in_thread(lambda: next(pieces, None))) is not None:
                yield reply.piece(piece, first)
                first = False
            if first:
                yield reply.piece("", True)
            extension = await _in_thread(answer.extension)
            usage = answer.usage if answer.request.include_usage else None
            yield reply.end(answer.finish_reason, extension, usage)
        except Exception as error:
            yield event(as_api_error(error).to_dict())

    async def _while_connected(self, request: Request, answer: Answer, work: Callable[[], Result]) -> Result:
        """Do blocking work; the answer is stopped when the client leaves."""
        results: list[Result] = []
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                answer.stop()

            group.start_soon(watch)
            try:
                results.append(await _in_thread(work))
            except Exception as error:  # raised below: a task group would wrap it into an ExceptionGroup
                failure: Exception | None = error
            else:
                failure = None
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return results[0]

    def _end(self, answer: Answer) -> None:
        if not answer.ended:
            self.num_running -= 1
            answer.end()

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

    async def _json(self, request: Request) -> Any:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError("send the body as application/json", None, 415)
        limit, body = self.limits.max_body_bytes, bytearray()
        too_large = ApiError(
            f"the body is larger than {limit} bytes; send smaller pictures", None, 413, "too_large"
        )
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise too_large
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise ApiError("the body is not JSON") from None


class _Events(StreamingResponse):
    """Server-sent events that end their answer however the response ends, also when nobody listens any more."""

    def __init__(self, events: AsyncIterator[str], on_end: Callable[[], None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.on_end()


async def _in_thread(work: Callable[[], Result]) -> Result:
    """Do blocking work in a thread; it is left running when the request is cancelled."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = max(limiter.total_tokens, NUM_THREADS)
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


def as_api_error(error: Exception) -> ApiError:
    """Any failure in OpenAI's terms; an unexpected one is logged with its traceback, without the request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        kind = type(error).__name__
        codes = {"ContextFull": "context_length_exceeded", "ImageError": "invalid_image"}
        return ApiError(str(error), "messages", 400, codes.get(kind))
    if is_out_of_memory(error):
        return ApiError(
            "out of memory: ask for a shorter answer, or try again later", None, 503, "out_of_memory"
        )
    logger.error("unexpected failure of a request", exc_info=error)
    return ApiError(
        f"something unexpected failed ({type(error).__name__}); the server's terminal shows where", None, 500
    )


def _reported(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose failures are OpenAI's error objects."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            failure = as_api_error(error)
            headers = {"retry-after": "2"} if failure.status_code in (429, 503) else {}
            return JSONResponse(failure.to_dict(), failure.status_code, headers)

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
