"""What all figures share: colours, sizes and how a drawing comes out of matplotlib.

A figure is drawn in placeholder colours that are exchanged for the page's CSS variables, so that it follows
the light, dark and printed page. The two accents are from Okabe and Ito's colour-blind-safe palette, and
wherever two things share axes they differ in shape or dash as well.
"""

import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.page.parts import Drawing

INK, RULE, BLUE, ORANGE = "#010101", "#c8c8c9", "#0072b2", "#d55e00"
VARIABLES = {INK: "currentColor", RULE: "var(--rule)", BLUE: "var(--blue)", ORANGE: "var(--orange)"}
WIDTH = 6.2  # inches of 72 units each: narrow enough to stay readable on a phone

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def to_drawing(figure: Figure, name: str, alt: str) -> Drawing:
    """The figure without prolog, namespaces or ids that could clash on one page.

    Args:
        figure: drawn in the placeholder colours.
        name: begins all ids, so it is different for each figure of a page and has no spaces.
        alt: says in words what the figure shows.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for placeholder, variable in VARIABLES.items():
        text = text.replace(placeholder, variable)
    # The font's size stays, its family is the page's own.
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    view_box = re.search(r'viewBox="([^"]*)"', text)
    assert view_box is not None  # matplotlib always writes one
    return Drawing(view_box[1], alt, text[text.index(">") + 1 : text.rindex("</svg>")])


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
