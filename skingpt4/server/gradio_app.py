"""Serves a Gradio page behind `Guard`: no telemetry, nothing loaded from elsewhere, uploads in a private folder.

Gradio reads the environment when it is imported, so it is imported here only after `address.stay_local` has run.
"""

from __future__ import annotations

import html
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from skingpt4.server.address import Address

if TYPE_CHECKING:
    import gradio as gr
    from starlette.requests import Request
    from starlette.responses import JSONResponse

CSS = Path(__file__).with_name("shared.css").read_text(encoding="utf-8")
MEMORY = Path("/dev/shm")  # a file system in memory, on machines that have one
MEMORY_NEEDED = 20  # times the largest upload must be free there


def escape(value: object) -> str:
    """Text as HTML; placeholders of Gradio's own templates are escaped too."""
    escaped = html.escape(str(value))
    return escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def note(text: str, failed: bool = False) -> str:
    """One line of a page as HTML; screen readers speak it."""
    role, kind = ("alert", "failure") if failed else ("status", "plain")
    return f'<p class="note {kind}" role="{role}">{html.escape(text)}</p>' if text else ""


def launch(
    blocks: gr.Blocks,
    address: Address,
    health: dict[str, str],
    css: str = "",
    head: str | None = None,
    auth: Callable[[str, str], bool] | None = None,
    auth_message: str | None = None,
) -> gr.Blocks:
    """Serve a page from a thread of its own; `close()` ends it.

    Uploads pass through the folder that the environment names as GRADIO_TEMP_DIR; see `until_ended`.

    Args:
        blocks: the page.
        address: where it is served.
        health: what `/health` answers.
        css: the page's own style sheet, added to `CSS`.
        head: HTML for the page's head, e.g. its script.
        auth: whether a user name and a password may log in.
        auth_message: shown above the login.
    """
    from gradio.utils import get_upload_folder
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from skingpt4.server.guard import Guard
    from skingpt4.server.uploads import Uploads

    def answer_health(request: Request) -> JSONResponse:
        return JSONResponse(health)

    loopback = address.host in ("127.0.0.1", "localhost") and not address.share
    hosts = ["127.0.0.1", "localhost"] if loopback else ["*"]
    guard = Middleware(Guard, uploads=Uploads(get_upload_folder()))
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), guard]
    blocks.launch(
        server_name=f"[{address.host}]" if ":" in address.host else address.host,
        server_port=address.port,
        max_file_size=f"{address.max_upload_mb}mb",
        theme=_theme(),
        css=CSS + css,
        head=head,
        auth=auth,
        auth_message=auth_message,
        app_kwargs={"routes": [Route("/health", answer_health)], "middleware": middleware},
        share=address.share, inbrowser=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], show_error=True,
    )  # fmt: skip
    return blocks


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


def until_ended(launched: Callable[[], gr.Blocks]) -> None:
    """Serve a page until SIGINT or SIGTERM, with a private folder for uploads that is deleted at the end.

    The folder is in memory on machines that have a file system for that with enough room; elsewhere a killed
    process or a power cut leaves it behind.
    """
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="skingpt4-", dir=memory_dir()) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = launched()
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends", flush=True)
        if blocks.share_url:
            print(f"public link: {blocks.share_url}", flush=True)
        ended.wait()
        blocks.close(verbose=False)
    print("stopped", flush=True)


def memory_dir() -> Path | None:
    """The file system in memory, if uploads up to the usual limit fit into it."""
    needed = MEMORY_NEEDED * Address().max_upload_mb * 2**20
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= needed:
        return MEMORY
    return None
