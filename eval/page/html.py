"""Writes a report as one self-contained HTML page: no script, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

import jinja2

from eval.page.parts import Cell, Document

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
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
    }
    return environment.get_template(TEMPLATE)


def page(document: Document) -> str:
    """The complete page."""
    style = Path(__file__).with_name(STYLE_SHEET).read_text(encoding="utf-8")
    return _template().render(document=document, style=style)
