"""ASGI middleware before a Gradio page: security headers, and no file but a caller's own upload.

Gradio takes the path of an upload from the request that names it. So the guard gives every browser a random cookie,
records in `Uploads` which of them uploaded which file, and reads a request that runs a function before Gradio does.
"""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from skingpt4.server.uploads import NAMED, ForeignFileError, Uploads

COOKIE = "skingpt4-uploads"
# The browser itself must load nothing from elsewhere, whatever Gradio's scripts may try.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)
# Never answered: Gradio would write a session's state to a file, or serve files. Uploads are deleted as soon as they
# are read, and a browser that asks for one at that moment would put its name into the terminal.
REFUSED = ("/deep_link", "/file=", "/file/", "/proxy=")


class Guard:
    """The browser loads nothing from elsewhere and caches no image; no file is served.

    No function gets a file that is not its caller's own upload.
    """

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI request."""
        if any(part in scope.get("path", "") for part in REFUSED):
            await _refusal(404, "not here")(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        sender, path = request.cookies.get(COOKIE, ""), scope["path"].rstrip("/")

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                if "/assets/" not in scope["path"] and "/static/" not in scope["path"]:
                    extra.append((b"cache-control", b"no-store"))
                names = {name for name, _ in extra}
                if not sender:
                    cookie = f"{COOKIE}={secrets.token_urlsafe(32)}; Path=/; HttpOnly; SameSite=Strict"
                    extra.append((b"set-cookie", cookie.encode()))
                others = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*others, *extra]}
            await send(message)

        if scope["method"] != "POST" or path.endswith("/login"):
            await self.app(scope, receive, guarded)
        elif path.endswith("/upload"):
            await self._upload(scope, receive, guarded, sender)
        else:
            await self._run(request, guarded, sender)

    async def _upload(self, scope: Any, receive: Any, send: Any, sender: str) -> None:
        """Let Gradio write an upload, and record its sender before the response gives its path away."""
        if not sender:
            await _refusal(403, "load the page first; it needs its cookie")(scope, receive, send)
            return
        status, answer = 0, b""

        async def recorded(message: Any) -> None:
            nonlocal status, answer
            status = message.get("status", status)
            answer += message.get("body", b"")
            if status == 200 and message["type"] == "http.response.body" and not message.get("more_body"):
                self.uploads.add(sender, json.loads(answer))
            await send(message)

        await self.app(scope, receive, recorded)

    async def _run(self, request: Request, send: Any, sender: str) -> None:
        """Let Gradio see a request only if all files that it names are its sender's; forms are refused."""
        try:
            body, headers = await request.body(), request.headers
        except ClientDisconnect:
            return
        try:
            hosts = {headers.get("host", ""), urlsplit(headers.get("origin", "")).netloc} - {""}
            named = self.uploads.named(json.loads(body or b"null"), sender, hosts)
        except ForeignFileError as error:
            await _refusal(403, str(error))(request.scope, request.receive, send)
            return
        except (ValueError, RecursionError):
            await _refusal(400, "no JSON, or no such origin")(request.scope, request.receive, send)
            return
        request.scope[NAMED] = named
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return unread.pop() if unread else await request.receive()

        await self.app(request.scope, receive, send)


def _refusal(status: int, why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, status)
