"""The page on which a user logs in: plain HTML without a script, so that a stranger gets nothing else."""

from __future__ import annotations

import html
from pathlib import Path

from starlette.responses import HTMLResponse, Response

from skingpt4.chat.texts import Texts

PAGE = Path(__file__).with_name("login.html").read_text(encoding="utf-8")


def response(
    texts: Texts, message: str, root: str, page: str, status: int = 200, problem: str = ""
) -> Response:
    """The form.

    Args:
        texts: in the language of the page.
        message: what stands above it, plain text.
        root: the path under which a proxy serves everything; empty without one.
        page: the path that a log-in leads to.
        status: of the HTTP response.
        problem: why the last try was refused.
    """
    words = {name: texts[f"server.{name}"] for name in ("user_name", "password", "log_in")}
    words["title"] = texts["title"]
    values = words | {
        "language": texts.code,
        "message": message,
        "root": root,
        "page": page,
        "problem": problem,
    }
    return HTMLResponse(PAGE.format(**{name: html.escape(text) for name, text in values.items()}), status)
