"""ASGI middleware between `Guard` and a Gradio page: few routes, log-ins, and nobody in another's page.

Gradio takes the name of a session and the path of an upload from the request that names them. So this gives every
browser a random cookie, records which of them began which session and uploaded which file, and reads a request that
runs a function before Gradio does. Uploads are received here, since Gradio puts equal files under one path.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from skingpt4.chat.texts import Texts
from skingpt4.server.access.peer import request_is_https
from skingpt4.server.access.sessions import Owner, SessionRefused, Sessions
from skingpt4.server.access.visitors import Refused, Visitors
from skingpt4.server.guard import refusal
from skingpt4.server.uploads import NAMED, ForeignFileError, UploadRefused, Uploads

BROWSER = "skingpt4-browser"
BROWSER_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
USER = "skingpt4.server.user"  # the key in a request's scope under which the logged-in user's name stands
# The browser itself must load nothing from elsewhere, whatever Gradio's scripts may try.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'; form-action 'self'"
)
# What a page of ours asks Gradio for. All its other routes (files, links to a saved state, recordings, an editor of
# its own source, monitoring) do not exist here.
STATIC = re.compile(r"/(?:assets|static)/.{1,200}|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt")
OPEN = re.compile(r"/health|/gradio_api/startup-events")  # to everybody, also where others log in
READ = re.compile(r"/config|/gradio_api/app_id")
HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([^/]+)")
RUN = re.compile(r"/gradio_api/(?:queue/join|run/[^/]+|cancel)")
QUEUE, DATA, UPLOAD = "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/upload"
MAX_BODY = 256 * 2**10  # bytes of what runs a function: texts and settings
BODY_SECONDS, UPLOAD_SECONDS = 30, 120
MAX_PENDING = 16  # results of one page that it has not fetched yet


@dataclass(frozen=True)
class GradioServer:
    """What the guard needs to know of the server behind it.

    Attributes:
        pages: the paths of its pages.
        texts: in which refusals are said.
        sessions: the open pages.
        uploads: the uploaded files.
        takes_uploads: whether its pages have a control for files.
        visitors: who may use them; None where nobody logs in.
        functions: the numbers of what its pages can call.
        num_pending: how many results of a session wait to be fetched.
    """

    pages: Collection[str]
    texts: Texts
    sessions: Sessions
    uploads: Uploads
    takes_uploads: bool
    visitors: Visitors | None
    functions: Collection[int]
    num_pending: Callable[[str], int]


class GradioGuard:
    """The browser loads nothing from elsewhere and caches no image, and gets only what is its own."""

    def __init__(self, app: Any, server: GradioServer) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        send = self._with_headers(request, send)
        try:
            await self._answer(request, send)
        except Refused as refused:
            await refused.response(scope, receive, send)
        except SessionRefused as refused:
            await self._refusal(refused.status, refused.key).response(scope, receive, send)
        except ClientDisconnect:
            return

    def _refusal(self, status: int, key: str) -> Refused:
        return Refused(refusal(status, self.server.texts[f"server.{key}"], key))

    def _browser(self, request: Request) -> str:
        value = request.cookies.get(BROWSER, "")
        return value if BROWSER_VALUE.fullmatch(value) else ""

    def _with_headers(self, request: Request, send: Any) -> Any:
        path = request.scope["path"]
        extra = [
            (b"content-security-policy", POLICY.encode()),
            (b"referrer-policy", b"same-origin"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if not STATIC.fullmatch(path):
            extra.append((b"cache-control", b"no-store"))
        if path == DATA:
            # nginx would hold an answer back until it is complete.
            extra.append((b"x-accel-buffering", b"no"))
        if (path in self.server.pages or READ.fullmatch(path)) and not self._browser(request):
            # Lax: a strict one is not sent where a link of another site opens the page. The new one that this would
            # then get would take the open pages away from the browser.
            root = request.scope.get("root_path", "")
            cookie = f"{BROWSER}={secrets.token_urlsafe(32)}; Path={root}/; HttpOnly; SameSite=Lax"
            cookie += "; Secure" if request_is_https(request.scope) else ""
            extra.append((b"set-cookie", cookie.encode()))
        names = {name for name, _ in extra} - {b"set-cookie"}

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*others, *extra]}
            await send(message)

        return sent

    async def _answer(self, request: Request, send: Any) -> None:
        """Answer, or let Gradio answer, what this browser may ask.

        Raises:
            Refused, SessionRefused: it may not.
        """
        path, reads = request.scope["path"], request.method in ("GET", "HEAD")
        user, browser, visitors = "", self._browser(request), self.server.visitors
        if visitors is not None and not (reads and OPEN.fullmatch(path)):
            if (path, request.method) == ("/login", "POST") and visitors.has_form:
                answer = await visitors.log_in(request, await self._body(request), browser)
                await answer(request.scope, request.receive, send)
                return
            user = await visitors.user(request, browser, reads)
            request.scope[USER] = user
        owner = user, browser
        if reads:
            await self._read(request, send, owner)
        elif request.method != "POST":
            raise self._refusal(405, "no_such_address")
        elif path == "/logout" and visitors is not None:
            await (await visitors.log_out(request, owner))(request.scope, request.receive, send)
        elif not owner[1]:
            raise self._refusal(403, "no_cookie")
        elif path == UPLOAD and self.server.takes_uploads:
            await (await self._upload(request, owner))(request.scope, request.receive, send)
        elif RUN.fullmatch(path):
            await self._run(request, send, owner)
        else:
            raise self._refusal(404, "no_such_address")

    # ---- what only reads

    async def _read(self, request: Request, send: Any, owner: Owner) -> None:
        path = request.scope["path"]
        if path in self.server.pages or any(known.fullmatch(path) for known in (STATIC, OPEN, READ)):
            if any(request.query_params.getlist("deep_link")):  # a state that Gradio would read from a file
                raise self._refusal(404, "no_such_address")
            await self.app(request.scope, request.receive, send)
        elif request.method == "GET" and (heartbeat := HEARTBEAT.fullmatch(path)):
            await self._connect(request, send, owner, [heartbeat[1]], while_open=True)
        elif request.method == "GET" and path == DATA:
            await self._connect(request, send, owner, request.query_params.getlist("session_hash"))
        else:
            raise self._refusal(404, "no_such_address")

    async def _connect(
        self, request: Request, send: Any, owner: Owner, names: list[str], while_open: bool = False
    ) -> None:
        if not owner[1]:  # another site's page may ask too where a browser does not say who asks
            raise self._refusal(403, "no_cookie")
        name = names[0] if len(names) == 1 else ""
        self.server.sessions.use(name, owner)
        with self.server.sessions.connected(name, while_open):
            await self._while_allowed(request, send, owner)

    async def _while_allowed(self, request: Request, send: Any, owner: Owner) -> None:
        """Let Gradio send for as long as the user may use the page; a pulse a quarter of a minute looks at least."""
        visitors, ended = self.server.visitors, False

        async def checked(message: Any) -> None:
            nonlocal ended
            ended = ended or (visitors is not None and not visitors.may_go_on(request, owner[1]))
            if ended:
                raise OSError("the user may not use the page any more")  # what a closed connection raises
            await send(message)

        try:
            await self.app(request.scope, request.receive, checked)
        except Exception:
            if not ended:
                raise

    # ---- what does something

    async def _body(self, request: Request) -> bytes:
        """The body of a request that has no file.

        Raises:
            Refused: it is too long, or comes too slowly.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MAX_BODY:
                        raise self._refusal(413, "too_long")
        except TimeoutError:
            raise self._refusal(408, "too_slow") from None
        return bytes(body)

    async def _upload(self, request: Request, owner: Owner) -> Response:
        """Receive a file. What fails is said in plain text, as Gradio's script shows it."""
        try:
            return JSONResponse([await self._receive(request, owner)])
        except UploadRefused as refused:
            status, key = refused.status, refused.key
        except MultiPartException as error:
            too_large = "maximum allowed size" in error.message
            status, key = (413, "upload_too_large") if too_large else (400, "one_file")
        except TimeoutError:
            status, key = 408, "too_slow"
        except OSError:
            status, key = 507, "uploads_full"
        except (LookupError, TypeError, ValueError):
            status, key = 400, "one_file"
        return PlainTextResponse(self.server.texts[f"server.{key}"], status)

    async def _receive(self, request: Request, owner: Owner) -> str:
        """Write one file into a folder of its own, without its name; returns its path."""
        from gradio.route_utils import GradioMultiPartParser, GradioUploadFile

        length, uploads = request.headers.get("content-length", ""), self.server.uploads
        if not length.isdecimal() or "transfer-encoding" in request.headers:
            raise UploadRefused(411, "no_length")
        with uploads.arriving(owner, int(length)) as place:
            # Each file of a form is open until the last has come, so that a thousand would be all that a process may
            # have open, and nobody else could connect.
            parser = GradioMultiPartParser(
                request.headers, request.stream(), max_files=1, max_fields=1, upload_dir=place,
                max_file_size=uploads.max_bytes,
            )  # fmt: skip
            async with asyncio.timeout(UPLOAD_SECONDS):
                form = await parser.parse()
            file = form.get("files")
            if not isinstance(file, GradioUploadFile):
                raise UploadRefused(400, "one_file")
            file.file.close()
            path = str(file.file.name)
            uploads.arrived(place, path)
        return path

    async def _run(self, request: Request, send: Any, owner: Owner) -> None:
        """Let Gradio see a request only if its session and all files that it names are its sender's."""
        try:
            body = json.loads(await self._body(request) or b"null")
            hosts = {request.headers.get("host", ""), urlsplit(request.headers.get("origin", "")).netloc} - {
                ""
            }
            request.scope[NAMED] = self.server.uploads.named(body, owner, hosts)
        except ForeignFileError:
            raise self._refusal(403, "foreign_file") from None
        except (ValueError, RecursionError):
            raise self._refusal(400, "no_json") from None
        function = body.get("fn_index") if isinstance(body, dict) else None
        if not isinstance(function, int) or function not in self.server.functions:
            raise self._refusal(400, "no_json")
        session = body.get("session_hash")
        self.server.sessions.use(session, owner)
        if request.scope["path"] == QUEUE and self.server.num_pending(str(session)) >= MAX_PENDING:
            raise self._refusal(429, "queue_full_here")
        # Written again, so that Gradio reads what was checked, however it reads.
        unread = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            return unread.pop() if unread else await request.receive()

        await self.app(request.scope, receive, send)
