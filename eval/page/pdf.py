"""Writes a report on paper; figures stay drawings (SVG), so the file is small and sharp.

What the page folds away as "full answer" is left out, and links to sections are the file's bookmarks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from eval.page.figures.drawing import WIDTH
from eval.page.parts import (
    Bullets,
    Case,
    Cell,
    Column,
    Details,
    Document,
    Drawing,
    Figure,
    Heading,
    Pair,
    Part,
    SideBySide,
    Table,
    Text,
)
from skingpt4.support.pdf import Paper, quiet_fonts

COLOURS = {
    "currentColor": "#1b1f24",
    "var(--rule)": "#c9ced4",
    "var(--blue)": "#0072b2",
    "var(--orange)": "#d55e00",
}
PICTURE_WIDTH, FIGURE_WIDTH, WIDE_WIDTH = 32.0, 125.0, 150.0  # mm
NATURAL_WIDTH = 72 * WIDTH  # of a figure on the page, in its own units
CAPTION_ROOM, FIGURE_CAPTION_ROOM = 28.0, 18.0  # mm of a table's caption and head, and of a figure's caption


def svg_file(drawing: Drawing) -> str:
    """A drawing as an SVG file: colours for paper, and no clipping, which fpdf2 cannot place."""
    body = drawing.body
    for variable, colour in COLOURS.items():
        body = body.replace(variable, colour)
    body = re.sub(r' clip-path="[^"]*"', "", body)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{drawing.view_box}">{body}</svg>'


def figure_size(paper: Paper, figure: Figure) -> tuple[float, float]:
    """Width and height in mm at which a figure is set."""
    _, _, width, height = map(float, figure.drawing.view_box.split())
    # Letters are of one size in all figures, so a small one stays small.
    on_paper = WIDE_WIDTH if figure.wide else min(FIGURE_WIDTH, FIGURE_WIDTH * width / NATURAL_WIDTH)
    room = paper.h - paper.t_margin - 18 - 12
    on_paper = min(on_paper, room * width / height)
    return on_paper, on_paper * height / width


class Writer:
    """Sets parts on paper one after the other."""

    def __init__(self, paper: Paper) -> None:
        """Write to this paper."""
        self.paper = paper
        self._heading: tuple[str, int] | None = None  # (text, level): set when it is known what follows it

    def add(self, parts: Sequence[Part]) -> None:
        """Set these parts."""
        for part in parts:
            self._add(part)

    def heading(self, text: str, level: int) -> None:
        """Set a heading; it waits, so that it never stays behind at the foot of a page."""
        self.finish()
        self._heading = (text, level)

    def finish(self, room: float | None = None) -> None:
        """Set the heading that waits, on the page of what follows it; `room` (mm) is what that takes."""
        if self._heading:
            text, level = self._heading
            self._heading = None
            self.paper.heading(text, f"h{level}", room)

    def text(self, text: str, size: float = 9.0, style: str = "", soft: bool = False) -> None:
        """Set a paragraph; `style` is "B" (bold), "I" (italic) or ""."""
        self.finish()
        self.paper.text_block(text, size, style, soft)

    def _add(self, part: Part) -> None:
        match part:
            case Text():
                self.text(
                    part.text, style="B" if part.style in ("lead", "warn") else "", soft=part.style == "soft"
                )
            case Heading():
                self.heading(part.text, part.level)
            case Bullets():
                for lead, text in part.items:
                    self.text(f"•  {lead} {text}")
            case Table():
                self._table(part)
            case Figure():
                self._figure(part)
            case Details():
                self.text(part.summary, style="B")
                self.add(part.parts)
            case Pair():
                for group in part.groups:
                    self.add(group)
            case SideBySide():
                self._side_by_side(part.columns)
            case Case():
                self._case(part)

    def _table(self, table: Table) -> None:
        self.finish()
        if self.paper.will_page_break(CAPTION_ROOM):
            self.paper.add_page()
        self.paper.text_block(table.caption, 8, "B", soft=True)
        self.paper.rows([list(table.head), *([_lines(cell) for cell in row] for row in table.rows)])

    def _figure(self, figure: Figure) -> None:
        width, height = figure_size(self.paper, figure)
        self.finish(height + FIGURE_CAPTION_ROOM)
        if self.paper.will_page_break(height + 8):
            self.paper.add_page()
        self.paper.image(io.BytesIO(svg_file(figure.drawing).encode()), w=width)
        self.paper.ln(1)
        self.text(figure.caption, 8, "I", soft=True)

    def _side_by_side(self, columns: Sequence[Column]) -> None:
        self.finish()
        cells = [
            [column.title, *("".join(span.text for span in line.spans) for line in column.lines)]
            for column in columns
        ]
        num_rows = max(map(len, cells))
        rows = [
            [" ".join(column[row].split()) if row < len(column) else "" for column in cells]
            for row in range(num_rows)
        ]
        self.paper.rows(rows, size=6.5)

    def _case(self, case: Case) -> None:
        self.finish()
        if case.picture:
            self.paper.picture(io.BytesIO(case.picture.jpeg), PICTURE_WIDTH, PICTURE_WIDTH + 30)
        self.heading(case.title, 3)
        if not case.picture:
            self.text("picture not found", 7.5, soft=True)
        for name, value in case.facts.items():
            self.text(f"{name}: {value}", 7.5)
        self._side_by_side(case.answers.columns)
        for title, answers in case.conversation:
            self.heading(title, 4)
            self._side_by_side(answers.columns)


def _lines(cell: Cell | str) -> str:
    """A cell's lines, spaces within them collapsed."""
    cell = Cell(cell) if isinstance(cell, str) else cell
    return "\n".join(" ".join(line.split()) for line in (*cell.text.split("\n"), *cell.small))


def write_pdf(document: Document, path: Path) -> None:
    """Write the report as a PDF; the file appears complete or not at all."""
    paper = Paper(document.title)
    with quiet_fonts():  # a sign that no font has is left blank
        writer = Writer(paper)
        writer.heading(document.title, 1)
        writer.add(document.introduction)
        for section in document.sections:
            writer.heading(section.title, 2)
            writer.add(section.parts)
        writer.finish()
        data = bytes(paper.output())
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
