"""A grey box over a picture until it is opened, as the paper covers some of its own; it needs no script.

The picture is in the page all the same: a cover keeps it from a glance, not from whoever has the file.
"""

from __future__ import annotations

import html
from pathlib import Path

CSS = Path(__file__).with_name("cover.css").read_text(encoding="utf-8")
SHOW, HIDE = "Picture hidden: click to show it", "Hide"


def covered(image: str, show: str = SHOW, hide: str = HIDE, key: str = "") -> str:
    """HTML of a covered picture; `CSS` must be in the page.

    Args:
        image: HTML of the picture.
        show: the words on the box.
        hide: the words on the button that covers the picture again.
        key: by which a page's script may know the picture, as `data-key`.
    """
    name = f' data-key="{html.escape(key)}"' if key else ""
    words = "".join(
        f'<span class="cover-{kind}">{html.escape(text)}</span>'
        for kind, text in (("show", show), ("hide", hide))
    )
    return f'<details class="cover"{name}><summary>{words}</summary>{image}</details>'
