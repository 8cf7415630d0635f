"""A Gradio page behind our own guard: local addresses, headers, uploads in memory, no calls to others."""

from __future__ import annotations

import html
import json
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.requests import Request

from skingpt4.server.address import Address, _refuse
from skingpt4.server.uploads import COOKIE, NAMED, ForeignFileError, Uploads

# The browser itself is told to load nothing from elsewhere, whatever Gradio's scripts may try.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)
# What all pages share; Gradio takes it when a page is launched.
CSS = """
.gradio-container { max-width: 1240px !important; overflow: visible !important; }
.gradio-container main { padding-top: 10px !important; } .gradio-container .html-container { padding: 0; }
.gradio-container main .gap, .gradio-container main .row { gap: 10px; }
header { display: flex; flex-wrap: wrap; gap: 2px 24px; align-items: baseline; font-size: .9rem; }
header h1 { font-size: 1.3rem; margin: 0; } header h1 span { font-weight: 400; font-size: 1rem; }
header dl { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 0; } header dl div { display: flex; gap: 6px; }
header dt { font-weight: 600; white-space: nowrap; } header dd { margin: 0; overflow-wrap: anywhere; }
#disclaimer { position: sticky; top: 0; z-index: 40; background: var(--body-background-fill); padding: 4px 0; }
#disclaimer p { border: 2px solid #d92d20; border-radius: 6px; padding: 5px 12px; margin: 0; font-size: .95rem; }
.note { margin: 0; padding: 0 10px; } .note.failure { border-left: 5px solid #d92d20; font-weight: 600; }
@media (max-width: 500px) { #disclaimer p { font-size: .85rem; padding: 3px 10px; } }
button:focus-visible { outline: 3px solid #0f766e; outline-offset: 2px; }
"""
MEMORY = Path("/dev/shm")  # a file system in memory, where there is one
MEMORY_NEEDED = 20  # times the largest upload must be free there
# Never answered: Gradio would write a session's state to a file, or serve files. Uploads are deleted as soon as they
# are read, and a browser that asks for one at that moment would put its name into the terminal.
REFUSED = ("/deep_link", "/file=", "/file/", "/proxy=")


class _Guard:
    """ASGI middleware: the browser loads nothing from elsewhere and caches no picture; no file is served.

    Nor does a function get a file that is not its caller's own upload; see `uploads`.
    """

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if any(part in scope.get("path", "") for part in REFUSED):
            await _refuse(404, "not here")(scope, receive, send)
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
                kept = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *extra]}
            await send(message)

        if scope["method"] != "POST" or path.endswith("/login"):
            await self.app(scope, receive, guarded)
        elif path.endswith("/upload"):
            await self._upload(scope, receive, guarded, sender)
        else:
            await self._run(request, guarded, sender)

    async def _upload(self, scope: Any, receive: Any, send: Any, sender: str) -> None:
        """Let Gradio write an upload, and note whose it is before its path is answered."""
        if not sender:
            await _refuse(403, "load the page first; it needs its cookie")(scope, receive, send)
            return
        status, answer = 0, b""

        async def noted(message: Any) -> None:
            nonlocal status, answer
            status = message.get("status", status)
            answer += message.get("body", b"")
            if status == 200 and message["type"] == "http.response.body" and not message.get("more_body"):
                self.uploads.add(sender, json.loads(answer))
            await send(message)

        await self.app(scope, receive, noted)

    async def _run(self, request: Request, send: Any, sender: str) -> None:
        """Let Gradio see a request only if the files that it names are its sender's; forms have no place here."""
        from starlette.requests import ClientDisconnect

        try:
            body, headers = await request.body(), request.headers
        except ClientDisconnect:
            return
        try:
            hosts = {headers.get("host", ""), urlsplit(headers.get("origin", "")).netloc} - {""}
            named = self.uploads.named(json.loads(body or b"null"), sender, hosts)
        except ForeignFileError as error:
            await _refuse(403, str(error))(request.scope, request.receive, send)
            return
        except (ValueError, RecursionError):
            await _refuse(400, "no JSON, or no such origin")(request.scope, request.receive, send)
            return
        request.scope[NAMED] = named
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return unread.pop() if unread else await request.receive()

        await self.app(request.scope, receive, send)


def _theme() -> gr.themes.Base:
    """Gradio's default in calm colours, with the system's own fonts."""
    import gradio as gr

    calm = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=("system-ui", "sans-serif"), font_mono=("monospace",)
    )
    deep = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
    }
    readable = {"block_info_text_color": "*neutral_600", "block_label_text_color": "*neutral_700"}
    return calm.set(**deep, **readable, **{f"{name}_dark": value for name, value in deep.items()})


def note(text: str, failed: bool = False) -> str:
    """A line of a page as HTML; screen readers speak it."""
    role, kind = ("alert", "failure") if failed else ("status", "plain")
    return f'<p class="note {kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def launch(blocks: gr.Blocks, address: Address, health: dict[str, str], **extra: Any) -> gr.Blocks:
    """Serve a page from a thread of its own; `close()` ends it.

    Pictures pass through the folder that the environment names as GRADIO_TEMP_DIR; see `until_ended`.

    Args:
        blocks: the page.
        address: where.
        health: what `/health` answers.
        extra: further arguments of Gradio's `launch`, e.g. `css` (put behind `CSS`) or `auth`.
    """
    from gradio.utils import get_upload_folder
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def answer(request: Any) -> JSONResponse:
        return JSONResponse(health)

    here = address.host in ("127.0.0.1", "localhost") and not address.share
    names = ["127.0.0.1", "localhost"] if here else ["*"]
    guard = Middleware(_Guard, uploads=Uploads(get_upload_folder()))
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=names), guard]
    blocks.launch(
        server_name=f"[{address.host}]" if ":" in address.host else address.host,
        server_port=address.port,
        max_file_size=f"{address.max_upload_mb}mb",
        theme=_theme(),
        css=CSS + extra.pop("css", ""),
        app_kwargs={"routes": [Route("/health", answer)], "middleware": middleware},
        share=address.share, inbrowser=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], show_error=True,
        **extra,
    )  # fmt: skip
    return blocks


def until_ended(launched: Callable[[], gr.Blocks]) -> None:
    """Serve a page until SIGINT or SIGTERM. What passes through files does so in a private folder deleted at the end.

    The folder is in memory where the machine has a file system for that with enough room; elsewhere a killed
    process or a power cut leaves it behind.
    """
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="skingpt4-", dir=_memory()) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = launched()
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends", flush=True)
        if blocks.share_url:
            print(f"public link: {blocks.share_url}", flush=True)
        ended.wait()
        blocks.close(verbose=False)
    print("stopped", flush=True)


def _memory() -> Path | None:
    """The file system in memory, if files of the usual limit can pass through it."""
    needed = MEMORY_NEEDED * Address().max_upload_mb * 2**20
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= needed:
        return MEMORY
    return None
