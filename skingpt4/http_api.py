"""Chat over HTTP in the shape of OpenAI's API: python -m skingpt4.http_api --config configs/tiny/step2.yaml.

Existing clients work with their base_url set to http://127.0.0.1:8000/v1 (see docs/api.md). The server keeps nothing
between requests: earlier messages become turns, and a request's pictures and text are forgotten with its answer.
It fetches nothing, writes nothing to disk and logs no content. Answers of several requests are decoded together.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from skingpt4.chat_request import MODEL, ApiError, ChatRequest, read_request
from skingpt4.chat_response import Reply, event
from skingpt4.errors import UserError, reported
from skingpt4.serving import Address, AddressError, stay_local

if TYPE_CHECKING:
    from skingpt4.answering import Answer, Answerer

KEY = "SKINGPT4_API_KEY"
GRACE_SECONDS = 5  # for answers under way when the server is asked to end
THREADS = 400  # so that no request waits for a thread
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What one request may bring, and how many may be under way."""

    max_body_bytes: int = 20 * 2**20
    max_pictures: int = 8
    max_requests: int = 64


@dataclass
class Api:
    """The HTTP side of an `Answerer`."""

    answerer: Answerer
    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    under_way: int = 0

    async def health(self, request: Request) -> Response:
        """Whether the server answers, without a key."""
        return JSONResponse({"status": "ok", "checkpoint": self.answerer.identity["checkpoint"]})

    async def models(self, request: Request) -> Response:
        """The one model, with what it is and was trained on."""
        self._let_in(request)
        one = {"id": MODEL, "object": "model", "created": 0, "owned_by": "local", "skingpt4": self._about()}
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [one]})
        if request.path_params["name"] != MODEL:
            raise ApiError(f"this server has the model {MODEL!r} alone", "model", 404, "model_not_found")
        return JSONResponse(one)

    async def completions(self, request: Request) -> Response:
        """Answer a conversation, whole or streamed."""
        self._let_in(request)
        asked = read_request(await self._json(request), self.limits.max_pictures)
        if self.under_way >= self.limits.max_requests:
            raise ApiError(
                f"{self.under_way} requests are under way; try again in a moment", None, 429, "busy"
            )
        self.under_way += 1
        answer = self.answerer.begin(asked)
        try:
            pieces = await self._while_connected(request, answer, answer.start)
            if asked.stream:
                return _Events(self._events(asked, answer, pieces), lambda: self._end(answer))
            text = await self._while_connected(request, answer, lambda: "".join(pieces))
            extension = await self._while_connected(request, answer, lambda: self._extension(asked, answer))
            reply = Reply(self.answerer.fingerprint)
            response = JSONResponse(reply.whole(text, answer.finish, answer.usage, extension))
        except BaseException:
            self._end(answer)
            raise
        self._end(answer)
        return response

    async def _events(self, asked: ChatRequest, answer: Answer, pieces: Iterator[str]) -> AsyncIterator[str]:
        """Server-sent events; a failure after the first is one of them."""
        reply, first = Reply(self.answerer.fingerprint), True
        try:
            while (piece := await _in_thread(lambda: next(pieces, None))) is not None:
                yield reply.piece(piece, first)
                first = False
            if first:
                yield reply.piece("", True)
            extension = await _in_thread(lambda: self._extension(asked, answer))
            yield reply.end(answer.finish, extension, answer.usage if asked.include_usage else None)
        except Exception as error:
            yield event(as_api_error(error).to_dict())

    async def _while_connected(self, request: Request, answer: Answer, work: Callable[[], Result]) -> Result:
        """Do blocking work; the answer is stopped when the client leaves."""
        found: list[Result] = []
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                answer.stop()

            group.start_soon(watch)
            try:
                found.append(await _in_thread(work))
            except Exception as error:  # out of the group as it is, not as a group of one
                failure: Exception | None = error
            else:
                failure = None
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return found[0]

    def _end(self, answer: Answer) -> None:
        if not answer.ended:
            self.under_way -= 1
            answer.end()

    def _extension(self, asked: ChatRequest, answer: Answer) -> dict[str, Any]:
        return self._about() | answer.extension(asked.wants)

    def _about(self) -> dict[str, Any]:
        return self.answerer.standing

    def _let_in(self, request: Request) -> None:
        """Refuse whoever lacks the key, and pages of other sites in a browser of this machine.

        Raises:
            ApiError: 401 or 403.
        """
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in LOCAL_NAMES:
            raise ApiError("pages of other sites may not ask this server", None, 403, "foreign_origin")
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
        most, body = self.limits.max_body_bytes, bytearray()
        too_large = ApiError(
            f"the body is larger than {most} bytes; send smaller pictures", None, 413, "too_large"
        )
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise too_large
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise ApiError("the body is no JSON") from None


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
    """Blocking work in a thread that is left to itself when the request is cancelled."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = max(limiter.total_tokens, THREADS)
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


def as_api_error(error: Exception) -> ApiError:
    """Any failure in OpenAI's terms; what nobody expected goes to the terminal too, without the request."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        kind = type(error).__name__
        codes = {"ContextFull": "context_length_exceeded", "ImageError": "invalid_image"}
        return ApiError(str(error), "messages", 400, codes.get(kind))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ApiError(
            "out of memory: ask for a shorter answer, or try again later", None, 503, "out_of_memory"
        )
    traceback.print_exception(error)
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
            found = as_api_error(error)
            headers = {"retry-after": "2"} if found.status_code in (429, 503) else {}
            return JSONResponse(found.to_dict(), found.status_code, headers)

    return answer


async def _no_such(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "there is no such address" if status == 404 else str(getattr(error, "detail", error))
    return JSONResponse(
        ApiError(f"{what}; see /v1/models and /v1/chat/completions", None, status).to_dict(), status
    )


def make_app(api: Api, local: bool = True) -> Starlette:
    """The ASGI application; `local` lets only this machine's names through as Host."""
    names = list(LOCAL_NAMES) if local else ["*"]
    return Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", _reported(api.models)),
            Route("/v1/models/{name:path}", _reported(api.models)),
            Route("/v1/chat/completions", _reported(api.completions), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)],
        exception_handlers={404: _no_such, 405: _no_such},
    )


@contextlib.contextmanager
def served(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of its own; gives the address, ends what is under way at the end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.should_exit = True
            thread.join(GRACE_SECONDS + 10)


def until_ended(app: Starlette, address: Address) -> None:
    """Serve until SIGINT or SIGTERM."""
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with served(app, address.host, address.port) as url:
        print(f"listening on {url}/v1; Ctrl-C ends", flush=True)
        ended.wait()
    print("stopped", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m skingpt4.http_api",
        description="Chat about pictures of skin over HTTP, in the shape of OpenAI's chat completions.",
        epilog="Research software, no medical device; the answers are no diagnosis. See docs/api.md.",
    )
    add = result.add_argument
    add("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    add("--checkpoint", help="a checkpoint or a run's folder")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    add("--port", type=int, default=8000, help="default: %(default)s")
    add(
        "--api-key-env",
        default=KEY,
        metavar="NAME",
        help="environment variable with a key (default: %(default)s)",
    )
    add("--max-body-mb", type=int, default=20, help="largest request (default: %(default)s)")
    add(
        "--max-requests",
        type=int,
        default=64,
        help="under way at once; more are refused (default: %(default)s)",
    )
    add(
        "--audit-log", metavar="FILE", help="append each request to this audit log, without pictures and text"
    )
    add("--audit-text", action="store_true", help="with --audit-log: also keep questions and answers")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, then serve until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    stay_local()
    with reported() as status:
        address = Address(args.host, args.port, args.max_body_mb)
        key = os.environ.get(args.api_key_env) or None
        if not address.local and not key:
            raise AddressError(
                f"--host {args.host} opens the API to other machines: set a key in {args.api_key_env} first"
            )
        address.check(password=bool(key))
        if args.max_requests < 1:
            raise AddressError("--max-requests must be at least 1")
        if args.audit_text and not args.audit_log:
            raise UserError("--audit-text says what goes into the audit log; add --audit-log FILE")

        from skingpt4.answering import load_answerer

        answerer = load_answerer(args.config, args.checkpoint, args.audit_log, args.audit_text)
        limits = Limits(args.max_body_mb * 2**20, max_requests=args.max_requests)
        until_ended(make_app(Api(answerer, limits, key), address.local), address)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
