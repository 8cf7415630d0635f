"""Serves a Gradio page behind `Guard` and `GradioGuard`: no telemetry, nothing from elsewhere, private uploads.

Gradio reads the environment when it is imported, so it is imported here only after `address.stay_local` has run.
"""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skingpt4.chat.texts import Texts
from skingpt4.server.address import Address
from skingpt4.server.decoding.environment import leave_no_core
from skingpt4.server.http.ending import asked_to_end
from skingpt4.server.private_folder import private_folder
from skingpt4.server.uploads import Uploads, max_total_bytes
from skingpt4.support.memory import spare_loaded_objects

if TYPE_CHECKING:
    import gradio as gr
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    from skingpt4.server.access.logins import Access
    from skingpt4.server.gradio_guard import GradioServer

logger = logging.getLogger(__name__)
CSS = Path(__file__).with_name("shared.css").read_text(encoding="utf-8")
MAX_QUEUED = 64  # events of all pages that wait for their turn; Gradio's script says that the page is busy


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
    texts: Texts,
    css: str = "",
    head: str | None = None,
    access: Access | None = None,
    takes_uploads: bool = False,
) -> gr.Blocks:
    """Serve a page from a thread of its own; `close()` ends it.

    Uploads pass through the folder that the environment names as GRADIO_TEMP_DIR; see `until_ended`.

    Args:
        blocks: the page.
        address: where it is served.
        health: what `/health` answers.
        texts: the language in which requests are refused.
        css: the page's own style sheet, added to `CSS`.
        head: HTML for the page's head, e.g. its script.
        access: who may use the page; None if nobody has to log in.
        takes_uploads: whether the page has a control for files.
    """
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from skingpt4.server.gradio_guard import USER, GradioGuard
    from skingpt4.server.guard import Guard
    from skingpt4.server.http.connections import Connection

    def answer_health(request: Request) -> JSONResponse:
        return JSONResponse(health)

    _stay_quiet()
    server = _guarded_server(blocks, address, texts, access, takes_uploads)
    names = set(address.names)

    @contextlib.asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        # Around everything else: Gradio puts its own middleware, which lets other sites read, before any it is given.
        app.middleware_stack = Guard(GradioGuard(app.middleware_stack, server), address, server.pages, names)
        yield

    # What has to wait for its turn cannot be called directly.
    blocks.queue(max_size=MAX_QUEUED, api_open=False)
    blocks.launch(
        server_name=f"[{address.ip}]" if ":" in address.ip else address.ip,
        server_port=address.port,
        root_path=address.root_path,
        max_file_size=f"{address.max_upload_mb}mb",
        theme=_theme(),
        css=CSS + css,
        head=head,
        auth_dependency=(lambda request: request.scope.get(USER)) if access else None,
        app_kwargs={"routes": [Route("/health", answer_health)], "lifespan": guarded},
        share=address.share, inbrowser=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], show_error=True,
    )  # fmt: skip
    blocks.server.config.http_protocol_class = (
        Connection  # of the connections to come; Gradio asks for no other
    )
    if blocks.share_url:
        names.add(urlsplit(blocks.share_url).netloc)
    return blocks


class _NoTraceback:
    """Stands for `traceback` in Gradio, which prints what it refuses of a request: a note, a terminal's command."""

    @staticmethod
    def print_exc() -> None:
        """Say what kind of failure it was; our own functions report theirs."""
        logger.warning("Gradio refused a request (%s)", type(sys.exception()).__name__)


def _stay_quiet() -> None:
    from gradio import queueing, route_utils, routes

    for module in (queueing, route_utils, routes):
        setattr(module, "traceback", _NoTraceback)  # noqa: B010 (it is no attribute of their types)


def _guarded_server(
    blocks: gr.Blocks,
    address: Address,
    texts: Texts,
    access: Access | None,
    takes_uploads: bool,
) -> GradioServer:
    """What the guard needs to know of the page; arguments as of `launch`."""
    from gradio.utils import get_upload_folder

    from skingpt4.server.access.sessions import Sessions
    from skingpt4.server.access.visitors import Visitors
    from skingpt4.server.gradio_guard import GradioServer

    def wipe_session(session: str) -> None:
        wipe(blocks, session)
        sessions.ended(session)

    def end(session: str) -> None:
        threading.Thread(target=wipe_session, args=(session,), daemon=True).start()

    sessions = Sessions(end)
    paths = [f"/{page}" for page, *_ in blocks.pages]
    pages = {*paths, *(f"{path}/" for path in paths if path != "/")}
    cookie = f"skingpt4-login-{address.port}"
    return GradioServer(
        pages=pages,
        texts=texts,
        sessions=sessions,
        uploads=Uploads(get_upload_folder(), address.max_upload_mb * 2**20),
        takes_uploads=takes_uploads,
        visitors=Visitors(access, texts, cookie, pages, sessions.end_all_of) if access else None,
        functions=frozenset(blocks.fns),
        num_pending=lambda session: len(blocks._queue.pending_event_ids_session.get(session, ())),
    )


def wipe(blocks: gr.Blocks, session: str) -> None:
    """Drop what a page held as soon as it is over; Gradio keeps it for an hour, and what it drew longer.

    An event that waits or is under way would write what it draws into a new state; so it is waited for.
    """
    holder, queue, busy = blocks.state_holder, blocks._queue, True
    while busy:
        waiting = [
            event for line in list(queue.event_queue_per_concurrency_id.values()) for event in line.queue
        ]
        events = [*waiting, *(event for job in queue.active_jobs if job for event in job)]
        busy = any(event.session_hash == session for event in events)
        holder.delete_state(session)
        holder.session_data.pop(session, None)
        holder.time_last_used.pop(session, None)
        if busy:
            time.sleep(0.1)
    queue.pending_messages_per_session.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)


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


def until_ended(launched: Callable[[], gr.Blocks], address: Address) -> None:
    """Serve a page until `asked_to_end`, with a private folder for uploads that is deleted at the end."""
    leave_no_core()
    with asked_to_end() as ended, private_folder(max_total_bytes(address.max_upload_mb * 2**20)) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        blocks = launched()
        spare_loaded_objects()
        url = f"{str(blocks.local_url).rstrip('/')}{address.root_path}/"
        print(f"open {url} in a browser; Ctrl-C ends", flush=True)
        if blocks.share_url:
            print(f"public link: {blocks.share_url}", flush=True)
        ended.wait()
        blocks.close(verbose=False)
    print("stopped", flush=True)
