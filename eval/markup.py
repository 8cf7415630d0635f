"""Parts that every section of the page is made of: a table, a figure with its caption, a share with its interval."""

from collections.abc import Iterable, Sequence

from eval.figures import escape
from eval.metrics import Interval


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "number") -> str:
    """A table whose first column heads its rows. Cells are HTML already; caption and head are text.

    `kind` is "number" for cells that stay on one line, "words" for those that may wrap.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head).replace("top-1", "top\u20111")
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f'<td class="{kind}">{c}</td>' for c in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str, wide: bool = False) -> str:
    """A drawing over its caption; a wide one scrolls by itself on a phone."""
    region = f' tabindex="0" role="region" aria-label="{escape(caption)}"'
    body = f'<div class="scroll"{region}>{svg}</div>' if wide else svg
    return f"<figure{' class=wide' if wide else ''}>{body}<figcaption>{escape(caption)}</figcaption></figure>"


def cell(interval: Interval) -> str:
    """Share over interval; n stands in a column of its own."""
    share, rest = interval.text().split(" (", 1)
    return f"{escape(share)} <small>{escape(rest.split(',')[0])}</small>"


def paragraph(text: str, soft: bool = False) -> str:
    """Text, made safe, as a paragraph."""
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def details(summary: str, body: str) -> str:
    """What is there for those who ask; `body` is HTML already."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def number(value: float | None, digits: int = 2) -> str:
    """A coefficient for reading; what is not defined reads as a dash."""
    return (
        "–"
        if value is None or value != value
        else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
    )
