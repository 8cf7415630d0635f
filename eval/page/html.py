"""Writes a report as one self-contained HTML page: no script, and nothing is loaded from elsewhere.

Pictures are covered until they are clicked.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from eval.page.parts import Cell, Document, Picture
from skingpt4.server import cover

TEMPLATE, STYLE_SHEET = "report.html.j2", "report.css"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": lambda part: type(part).__name__,
        "cell": lambda cell: Cell(cell) if isinstance(cell, str) else cell,
        "covered": _covered,
    }
    return environment.get_template(TEMPLATE)


def _covered(picture: Picture) -> Markup:
    """A picture under its cover."""
    image = Markup('<img src="data:image/jpeg;base64,{}" alt="{}" width="{}" height="{}">').format(
        base64.b64encode(picture.jpeg).decode("ascii"), picture.alt, picture.width, picture.height
    )
    return Markup(cover.covered(str(image)))  # noqa: S704 - the image is escaped above, the words are ours


def page(document: Document) -> str:
    """The complete page."""
    style = Path(__file__).with_name(STYLE_SHEET).read_text(encoding="utf-8")
    return _template().render(document=document, style=f"{style}\n{cover.CSS}")
