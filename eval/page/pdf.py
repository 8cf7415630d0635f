"""Writes a report on paper; figures stay drawings (SVG), so the file is small and sharp.

What the page folds away as "full answer" is left out, and links to sections are the file's bookmarks. Pictures of
cases stand on the last pages; a grey box in their place leads to them.
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
    Picture,
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
PICTURE_WIDTH, FIGURE_WIDTH, WIDE_WIDTH = 75.0, 125.0, 150.0  # mm
BOX, BOX_COLOUR = (46.0, 12.0), (91, 100, 112)  # mm of the box in a picture's place
COVERED, PICTURES = "Picture: see the last pages", "Pictures"
MOST_COLUMNS = 4  # of answers side by side; more stand in several rows
NATURAL_WIDTH = 72 * WIDTH  # of a figure on the page, in its own units
CAPTION_ROOM, FIGURE_CAPTION_ROOM = 28.0, 18.0  # mm of a table's caption and head, and of a figure's caption


# Letters of a drawing are set in a font that knows Latin-1 alone.
IN_DRAWINGS = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "‐": "-", "’": "'", "“": '"', "”": '"', "…": "..."}
)


def svg_file(drawing: Drawing) -> str:
    """A drawing as an SVG file: colours for paper, and no clipping, which fpdf2 cannot place."""
    body = drawing.body
    for variable, colour in COLOURS.items():
        body = body.replace(variable, colour)
    body = re.sub(r' clip-path="[^"]*"', "", body)
    body = body.translate(IN_DRAWINGS).encode("latin-1", "replace").decode("latin-1")
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
        self._pictures: list[tuple[str, Picture, int]] = []  # title, picture, link to its place

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
        if len(columns) > MOST_COLUMNS:
            num_rows = -(-len(columns) // MOST_COLUMNS)
            step = -(-len(columns) // num_rows)  # rows of about equal length
            for start in range(0, len(columns), step):
                self._side_by_side(columns[start : start + step])
            return
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
        self.heading(case.title, 3)
        if case.picture:
            self.cover(case.title, case.picture)
        else:
            self.text(case.note, 7.5, soft=True)
        for name, value in case.facts.items():
            self.text(f"{name}: {value}", 7.5)
        self._side_by_side(case.answers.columns)
        for title, answers in case.conversation:
            self.heading(title, 4)
            self._side_by_side(answers.columns)

    def cover(self, title: str, picture: Picture) -> None:
        """Set a grey box that leads to the picture, which `pictures` sets."""
        self.finish(BOX[1] + 30)
        link = self.paper.add_link()
        self._pictures.append((title, picture, link))
        self.paper.box(COVERED, *BOX, BOX_COLOUR, link)

    def pictures(self) -> None:
        """Set the pictures of all boxes on pages of their own."""
        if not self._pictures:
            return
        self.finish()
        self.paper.add_page()
        self.heading(PICTURES, 2)
        for title, picture, link in self._pictures:
            height = PICTURE_WIDTH * picture.height / picture.width
            self.heading(title, 3)
            self.finish(height + 12)
            self.paper.set_link(link, page=self.paper.page_no(), y=self.paper.y)
            self.paper.picture(io.BytesIO(picture.jpeg), PICTURE_WIDTH, height)


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
            if section.ends_page:
                writer.finish()
                paper.add_page()
        save(writer, path)


def save(writer: Writer, path: Path) -> None:
    """Set what is left, and write the file; it appears complete or not at all."""
    writer.pictures()
    writer.finish()
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(bytes(writer.paper.output()))
    temporary.replace(path)
