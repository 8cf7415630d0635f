"""The report's page on paper: reads `report.html` and sets the same headings, text, tables, figures and pictures.

The page is the one source of what is said; figures stay drawings (SVG), so the file is small and sharp. Only the
elements that the page is made of are known here. Answers that the page folds away as "whole answer" are left out.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from eval.page.figures import WIDTH
from skingpt4.support import pdf
from skingpt4.support.pdf import SIZES, quiet_fonts

COLOURS = {
    "currentColor": "#1b1f24",
    "var(--rule)": "#c9ced4",
    "var(--blue)": "#0072b2",
    "var(--orange)": "#d55e00",
}
SVG = re.compile(r"<svg (viewBox=\"[^\"]*\")([^>]*)>(.*?)</svg>", re.DOTALL)
PICTURE_WIDTH, FIGURE_WIDTH, WIDE_WIDTH = 32.0, 125.0, 150.0  # mm
NATURAL_WIDTH = 72 * WIDTH  # of a figure on the page, in its own units
Row = list[str]


class Paper(pdf.Paper):
    """The paper of a report: drawings of the page, as vectors."""

    def size_of(self, svg: str, wide: bool) -> tuple[float, float]:
        """Width and height in mm at which a figure of the page is set."""
        box = [float(number) for number in re.findall(r"[\d.]+", svg[: svg.index(">")])[-4:]]
        # Letters are of one size in all figures, so a small one stays small.
        width = WIDE_WIDTH if wide else min(FIGURE_WIDTH, FIGURE_WIDTH * box[2] / NATURAL_WIDTH)
        room = self.h - self.t_margin - 18 - 12
        width = min(width, room * box[2] / box[3])
        return width, width * box[3] / box[2]

    def drawing(self, svg: str, wide: bool) -> None:
        """A figure of the page, as vectors."""
        width, height = self.size_of(svg, wide)
        if self.will_page_break(height + 8):
            self.add_page()
        self.image(io.BytesIO(svg.encode()), w=width)
        self.ln(1)


def standalone(attributes: str, inner: str) -> str:
    """An inline figure as an SVG of its own: colours for paper, no clipping, which fpdf2 cannot place."""
    for variable, colour in COLOURS.items():
        inner = inner.replace(variable, colour)
    inner = re.sub(r' clip-path="[^"]*"', "", inner)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {spaces} {attributes}>{inner}</svg>"


@dataclass
class _Table:
    rows: list[Row] = field(default_factory=list)


class _Reader(HTMLParser):
    """Walks the page and writes to the paper as it goes."""

    BLOCKS = ("p", "li", "h1", "h2", "h3", "h4", "h5", "figcaption", "caption", "dt", "dd", "summary")

    def __init__(self, paper: Paper, drawings: Sequence[str]) -> None:
        super().__init__()
        self.paper, self.drawings = paper, drawings
        self.words: list[str] = []
        self.stack: list[tuple[str, str]] = []  # open elements with their classes
        self.table: _Table | None = None
        self.columns: list[list[str]] | None = None  # the arms of a case, side by side
        self.term = ""
        self.waiting: tuple[str, str] | None = (
            None  # a heading (text, level) until it is known what follows it
        )

    def inside(self, tag: str, kind: str | None = None) -> bool:
        return any(tag == t and kind in (None, c) for t, c in self.stack)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if tag == "br" or tag == "small":
            self.words.append("\n")
        elif tag == "img":
            self._picture(found["src"])
        elif tag == "drawing":
            svg, wide = self.drawings[int(found["number"])], self.inside("figure", "wide")
            self.set_heading(self.paper.size_of(svg, wide)[1] + 18)
            self.paper.drawing(svg, wide)
        if tag in ("br", "img", "meta", "drawing"):
            return
        self.stack.append((tag, found.get("class", "")))
        if tag in self.BLOCKS or tag in ("th", "td"):
            self.words = []
        if tag == "table":
            self.table = _Table()
        elif tag == "tr" and self.table:
            self.table.rows.append([])
        elif (tag, found.get("class")) == ("div", "arms"):
            self.columns = []
        elif tag == "section" and self.columns is not None:
            self.columns.append([])

    def handle_data(self, data: str) -> None:
        if not any(self.inside(tag) for tag in ("style", "title", "nav")):
            self.words.append(re.sub(r"\s+", " ", data))

    def handle_endtag(self, tag: str) -> None:
        text = "".join(self.words).replace("\u2011", "-").strip()
        kind = self.stack.pop()[1]
        if tag in ("th", "td") and self.table and self.table.rows:
            self.table.rows[-1].append(re.sub(r" *\n *", "\n", text))
        elif tag == "table" and self.table:
            self.set_heading()
            self.paper.rows(self.table.rows)
            self.table = None
        elif tag == "div" and kind == "arms":
            self._side_by_side()
        elif tag in self.BLOCKS:
            self._block(tag, kind, text)
            self.words = []

    def set_heading(self, room: float | None = None) -> None:
        """Set the heading that waits, on the page of what follows it; `room` (mm) is what that takes."""
        if self.waiting:
            self.paper.heading(*self.waiting, room)
            self.waiting = None

    def _block(self, tag: str, kind: str, text: str) -> None:
        if self.inside("nav"):  # links lead nowhere on paper; the file has bookmarks
            return
        if self.columns is not None:
            if self.columns and not self.inside("details") and tag != "summary":
                self.columns[-1].append(" ".join(text.split()))
            return
        self.set_heading()
        if tag in SIZES:
            self.waiting = (text, tag)
        elif tag == "dt":
            self.term = text
        elif tag == "dd":
            self.paper.text_block(f"{self.term}: {text}", 7.5)
        elif tag == "li":
            self.paper.text_block(f"•  {text}")
        elif tag in ("figcaption", "caption"):
            if tag == "caption" and self.paper.will_page_break(28):  # it stays with its table
                self.paper.add_page()
            self.paper.text_block(text, 8, "B" if tag == "caption" else "I", soft=True)
        elif tag == "summary":
            self.paper.text_block(text, 9, "B")
        else:
            self.paper.text_block(text, 9, "B" if kind in ("warn", "lead") else "", soft=kind == "soft")

    def _side_by_side(self) -> None:
        columns = [column for column in self.columns or [] if column]
        self.columns = None
        if columns:
            self.set_heading()
            deepest = max(map(len, columns))
            rows = [
                [column[place] if place < len(column) else "" for column in columns]
                for place in range(deepest)
            ]
            self.paper.rows(rows, size=6.5)

    def _picture(self, source: str) -> None:
        self.set_heading()
        data = io.BytesIO(base64.b64decode(source.split(",", 1)[1]))
        self.paper.picture(data, PICTURE_WIDTH, PICTURE_WIDTH + 30)


def write_pdf(page: str, path: Path) -> None:
    """Write the page as a PDF; the file appears whole or not at all.

    Args:
        page: `report.html` as text.
        path: of the PDF.
    """
    drawings: list[str] = []

    def keep(match: re.Match[str]) -> str:
        drawings.append(standalone(match[1], match[3]))
        return f'<drawing number="{len(drawings) - 1}">'

    page = SVG.sub(keep, page)
    title = re.search(r"<title>(.*?)</title>", page)
    paper = Paper(title[1] if title else "Report")
    with quiet_fonts():  # a sign that no font has is left blank
        reader = _Reader(paper, drawings)
        reader.feed(page)
        reader.set_heading()
        data = bytes(paper.output())
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
