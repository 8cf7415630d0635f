"""A PDF of text, tables and images on A4, with a warning and the page number at the foot of every page."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from fpdf import FPDF
from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace, TTFFont

FONT, SIZES = "DejaVu", {"h1": 18.0, "h2": 13.5, "h3": 11.0, "h4": 9.5, "h5": 8.5}
INK, SOFT, RULE, RED = (27, 31, 36), (87, 96, 106), (201, 206, 212), (180, 35, 24)
MAX_WORD = 200  # characters of what is measured as a whole
MAX_CELL, MAX_LINES = (
    1200,
    30,
)  # characters and lines in a table: a row is never divided, so it has to fit one page
FOOT = "Research software, not a medical device"
STYLES = (("", "DejaVuSans"), ("B", "DejaVuSans-Bold"), ("I", "DejaVuSans-Oblique"))


class Paper(FPDF):
    """A4 with the warning and the page number at the foot of every page."""

    def __init__(self, title: str, foot: str = FOOT, page: str = "page", language: str = "en") -> None:
        """Set up fonts with Latin, Greek, Cyrillic and mathematical signs, which matplotlib contains.

        Args:
            title: in the file's properties.
            foot: the warning at the foot of every page.
            page: the word before the page number.
            language: of the text, for programs that read it aloud.
        """
        super().__init__(format="A4")
        self.foot = f"{foot}  ·  {page} {{}} / {{{{nb}}}}"
        self.foot_style = ("", 7.5, SOFT)  # style, size in points, colour
        self._widths: dict[tuple[str, str], float] = {}  # mm of a word in a font
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        for style, name in STYLES:
            self.add_font(FONT, style, str(folder / f"{name}.ttf"))
        self.set_margins(15, 15)
        self.set_auto_page_break(True, 18)
        self.set_title(title)
        self.set_lang(language)
        self.alias_nb_pages()
        self.add_page()

    def footer(self) -> None:
        """Called by fpdf2 at the end of each page."""
        self.set_y(-12)
        style, size, colour = self.foot_style
        self.set_font(FONT, style, size)
        self.set_text_color(*colour)
        self.cell(0, 5, self.foot.format(self.page_no()), align="C")

    def text_block(
        self,
        text: str,
        size: float = 9.0,
        style: str = "",
        soft: bool = False,
        keep_lines: bool = False,
        colour: tuple[int, int, int] | None = None,
    ) -> None:
        """A paragraph over the full width; line breaks inside it stay only with `keep_lines`."""
        text = text.strip() if keep_lines else " ".join(text.split())
        if text:
            self.set_font(FONT, style, size)
            self.set_text_color(*(colour or (SOFT if soft else INK)))
            for paragraph in text.replace("\r", "").split("\n"):
                for line in self._lines(paragraph):
                    self.cell(0, size * 0.5, line, new_x="LMARGIN", new_y="NEXT")
            self.ln(size * 0.16)

    def _lines(self, text: str) -> list[str]:
        """The lines of a paragraph in the present font, broken at spaces, and inside words longer than a line.

        fpdf2's own breaking measures the whole line again with every letter; of a file of hundreds of pages that
        was nearly all of the time. Soft hyphens, which show where a word may be broken, are left out.
        """
        room = self.w - self.r_margin - self.x - 2 * self.c_margin
        font = f"{self.font_style} {self.font_size_pt}"
        space, lines, used = self.get_string_width(" "), list[list[str]](), 0.0

        def measured(word: str) -> float:
            width = self._widths.get((font, word))
            if width is None:
                width = self._widths[font, word] = self.get_string_width(word)
            return width

        for word in text.replace("\u00ad", "").split(" "):
            width = sum(map(measured, word)) if len(word) > MAX_WORD else measured(word)
            if width > room:
                *whole, word = _pieces(word, measured, room)
                lines += [[piece] for piece in whole]
                width, used = measured(word), room
            if not lines or used + space + width > room:
                lines.append([])
                used = -space
            lines[-1].append(word)
            used += space + width
        return [" ".join(line) for line in lines]

    def heading(self, text: str, level: str, room: float | None = None) -> None:
        """A heading that is not left alone at a page's foot, and a bookmark; below it stay `room` mm."""
        if self.will_page_break(room or {"h1": 20, "h2": 95, "h3": 45}.get(level, 20)):
            self.add_page()
        elif level == "h2":
            self.ln(4)
            self.set_draw_color(*RULE)
            self.line(self.l_margin, self.y, self.w - self.r_margin, self.y)
            self.ln(2)
        text = " ".join(text.split())
        if level in ("h1", "h2"):
            self.start_section(text, 0 if level == "h1" else 1)
        self.text_block(text, SIZES[level], "B")

    def rows(self, rows: Sequence[Sequence[str]], headed: bool = True, size: float = 7.2) -> None:
        """A table; with `headed` the first row is a heading, repeated on every page. Endless cells are cut."""
        if not rows:
            return
        rows = [list(map(_cut, row)) for row in rows]
        self.set_font(FONT, "", size)
        self.set_text_color(*INK)
        self.set_draw_color(*RULE)
        columns = max(map(len, rows))
        padded = [[*row, *[""] * (columns - len(row))] for row in rows]
        # Each column is as wide as its longest line, within bounds, so that words wrap before numbers do.
        lengths = [
            max(
                8,
                *(min(max((len(line) for line in row[column].split("\n")), default=0), 36) for row in padded),
            )
            for column in range(columns)
        ]
        full = self.w - self.l_margin - self.r_margin
        widths = [length * size * 0.26 + 3 for length in lengths]
        if headed:
            widths = self._whole_headings(widths, padded[0], size, full)
        with self.table(
            col_widths=tuple(widths), width=min(full, sum(widths)) if headed else full, line_height=size * 0.46,
            text_align="L", align="L", padding=0.7, first_row_as_headings=headed, v_align="T",
            headings_style=FontFace(emphasis="BOLD"), borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        ) as table:  # fmt: skip
            for row in padded:
                table.row(row)
        self.ln(2.5)

    def _whole_headings(
        self, widths: Sequence[float], headings: Sequence[str], size: float, full: float
    ) -> list[float]:
        """Widths of columns (mm) that fit the page; each loses what it can spare, and no heading's word is broken.

        Args:
            widths: that the columns would like to have.
            headings: of the columns.
            size: of the letters, in points.
            full: width of the page.
        """
        self.set_font(FONT, "B", size)
        needed = [
            max((self.get_string_width(word) for word in heading.split()), default=0.0) + 4  # room beside it
            for heading in headings
        ]
        self.set_font(FONT, "", size)
        wished = [max(pair) for pair in zip(widths, needed, strict=True)]
        spare = sum(wished) - sum(needed)
        if sum(wished) <= full or spare <= 0 or sum(needed) > full:
            return wished
        kept = (full - sum(needed)) / spare
        return [need + (wish - need) * kept for wish, need in zip(wished, needed, strict=True)]

    def picture(self, picture: io.BytesIO, width: float, height: float = 30.0) -> None:
        """An image file of this width in mm, on the next page if less than `height` mm are left."""
        if self.will_page_break(height):
            self.add_page()
        self.image(picture, w=width)
        self.ln(1)

    def box(self, text: str, width: float, height: float, colour: tuple[int, int, int], link: int) -> None:
        """A filled box (mm) with white words that lead to another place of the file."""
        self.set_font(FONT, "B", 7.5)
        with self.local_context(
            fill_color=colour, text_color=(255, 255, 255)
        ):  # or tables would be filled too
            self.cell(width, height, text, fill=True, align="C", link=link, new_x="LMARGIN", new_y="NEXT")
        self.ln(1.5)

    def num_lacking(self, text: str) -> int:
        """How many characters of a text the font does not have, e.g. Chinese ones; they are printed as boxes."""
        font = self.fonts[FONT.lower()]
        assert isinstance(font, TTFFont)
        return sum(ord(sign) not in font.cmap and not sign.isspace() for sign in text)


def _cut(text: str) -> str:
    """What a cell has room for."""
    shown = "\n".join(text[:MAX_CELL].split("\n")[:MAX_LINES])
    return text if shown == text else f"{shown} ..."


def _pieces(word: str, measured: Callable[[str], float], room: float) -> list[str]:
    """A word in parts that fit a line."""
    pieces, start, used = [], 0, 0.0
    for place, sign in enumerate(word):
        width = measured(sign)
        if used + width > room and place > start:
            pieces.append(word[start:place])
            start, used = place, 0.0
        used += width
    return [*pieces, word[start:]]


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Keep fpdf2 from logging every single character that the font lacks."""
    logger = logging.getLogger("fpdf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
