"""What a part of the page, such as the form that cuts a picture, may use of the page around it."""

from __future__ import annotations

from typing import Any, Protocol

import gradio as gr

from skingpt4.server.page.state import PageState, Update
from skingpt4.server.page.tools import Tools


class Page(Protocol):
    """The page around a part; `Layout` is one."""

    tools: Tools
    state: gr.State
    save_note: gr.HTML
    updated: list[Any]  # the components that an `Update` may change

    def changes(self, state: PageState | None, update: Update) -> dict[Any, Any]:
        """An `Update` as new values of the components in `updated`."""
        ...
