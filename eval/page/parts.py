"""What a report is made of, whatever it is written as: text in small types, without any markup.

`eval.page.html` writes these parts as one self-contained page, `eval.page.pdf` on paper. A part holds text, not HTML,
so nothing that a model wrote can become an element of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eval.measures.intervals import Interval

NOTHING = "–"  # stands in a cell without a value

# Single types, and the pairs that DDI gives.
SKIN_TYPES = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI"}
SKIN_TYPES |= {"12": "I–II", "34": "III–IV", "56": "V–VI"}


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    style: Literal["", "soft", "lead", "warn"] = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section; the section's own has level 2."""

    text: str
    level: int = 3


@dataclass(frozen=True)
class Bullets:
    """A list; each item is (what stands first in bold, text)."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: text, smaller lines below it, and the section that the text links to."""

    text: str
    small: tuple[str, ...] = ()
    section: str = ""


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table whose first column heads its rows.

    `cells` says whether cells stay on one line ("number"), may wrap ("words"), or hold lines of code ("code").
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    cells: Literal["number", "words", "code"] = "number"


@dataclass(frozen=True)
class Drawing:
    """The inside of an `<svg>` element that matplotlib drew; its colours are the page's CSS variables."""

    view_box: str  # four numbers
    alt: str  # what it shows, in words
    body: str


@dataclass(frozen=True)
class Figure:
    """A drawing above its caption; a wide one scrolls by itself on a phone."""

    drawing: Drawing
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Details:
    """Parts that are folded away on the page until the summary is clicked."""

    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Pair:
    """Groups of parts that stand beside each other where there is room."""

    groups: Sequence[Sequence[Part]]


@dataclass(frozen=True)
class Span:
    """A piece of a line."""

    text: str
    style: Literal["", "soft", "right", "wrong"] = ""


@dataclass(frozen=True)
class Line:
    """A paragraph of a column. Where its spans are only the beginning of a long text, `full` is all of it."""

    spans: Sequence[Span]
    full: str = ""


@dataclass(frozen=True)
class Column:
    """What one arm answered."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class SideBySide:
    """The columns of several arms; their titles have this level."""

    columns: Sequence[Column]
    level: int = 4


@dataclass(frozen=True)
class Picture:
    """A small JPEG."""

    jpeg: bytes
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Case:
    """A case with its picture (None: `note` says why), what is known of it, and what each arm answered."""

    title: str
    picture: Picture | None
    facts: Mapping[str, str]
    answers: SideBySide
    conversation: Sequence[tuple[str, SideBySide]] = ()  # each prompt with the answers to it
    note: str = "picture not found"


Part = Text | Heading | Bullets | Table | Figure | Details | Pair | SideBySide | Case


@dataclass(frozen=True)
class Section:
    """A titled section; `key` is the target of links. On paper a new page may follow it."""

    key: str
    title: str
    parts: Sequence[Part]
    ends_page: bool = False


@dataclass(frozen=True)
class Document:
    """A complete report: its title, what stands above the table of contents, and its sections."""

    title: str
    introduction: Sequence[Part]
    sections: Sequence[Section]


def plain(name: str) -> str:
    """An identifier as words: `two_step` reads "two-step", `benign_tumors` "benign tumors"."""
    words = {"two_step": "two-step", "step1_only": "step 1 only", "step2_only": "step 2 only"}
    return words.get(name, name.replace("_", " "))


def number(value: float | None, digits: int = 2) -> str:
    """A coefficient for reading; what is not defined reads as a dash."""
    if value is None or value != value:
        return NOTHING
    # Adding zero turns a rounded "-0.0" into "0.0".
    return _minus(f"{round(value, digits) + 0.0:.{digits}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def share_cell(figure: Mapping[str, Any]) -> Cell:
    """A share above its interval, both in percent; n stands in a column of its own."""
    share, rest = Interval.from_dict(figure).text().split(" (", 1)
    return Cell(share, (rest.split(",")[0],))


def points_cell(figure: Mapping[str, Any]) -> Cell:
    """A difference of shares above its interval, both in points."""
    points, rest = _minus(Interval.from_dict(figure).points()).split(" (")
    return Cell(points, (rest.split(",")[0],))


def number_cell(figure: Mapping[str, Any] | None, missing: str = NOTHING) -> Cell:
    """A coefficient above its interval; `missing` stands for one that is not defined."""
    if figure is None or figure["value"] is None:
        return Cell(missing)
    return Cell(number(figure["value"]), (f"{number(figure['low'])} to {number(figure['high'])}",))


def signed_cell(figure: Mapping[str, Any]) -> Cell:
    """A difference of means, with its sign, above its interval."""
    span = f"{figure['low']:.2f} to {figure['high']:.2f}"
    return Cell(_minus(f"{figure['value']:+.2f}"), (_minus(span),))


def p_value(p: float | None) -> str:
    """A p-value for a cell."""
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_equals(p: float) -> str:
    """A p-value for a sentence: `p = 0.012`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
