"""A consultation as HTML, PDF or JSON; skingpt4 consultation-export turns the JSON into the others.

HTML and PDF are two settings of one list of parts, so neither says more than the other. "Not a diagnosis" stands on
every page of both.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence

from skingpt4.chat.parts import Figure, Part, Rows, Words, sections, words
from skingpt4.chat.record import Consultation, data_url, jpeg_bytes
from skingpt4.support.pdf import RED, Paper, quiet_fonts

PICTURE_WIDTH = 70.0  # mm on paper
# Nothing is loaded from anywhere, also by somebody who edits the file.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CSS = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1b1f24; background: #fff; margin: 0; }
.paper { max-width: 48rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 1rem 0 .25rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
section { border-top: 1px solid #c9ced4; padding: 1rem 0 .5rem; } p { margin: 0 0 .6rem; overflow-wrap: anywhere; }
.standing { border: 2px solid #b42318; border-radius: 6px; padding: .3rem .75rem; font-weight: 600; }
.head { position: sticky; top: 0; background: #fff; padding: .5rem 0 .25rem; z-index: 1; } .head p { margin: 0; }
.warn { border-left: 5px solid #b42318; padding-left: .75rem; font-weight: 600; }
.soft { color: #57606a; font-size: .9rem; } .label { font-weight: 600; margin-bottom: .1rem; break-after: avoid; }
.said { white-space: pre-wrap; } .answer { border-left: 3px solid #0f766e; padding-left: .75rem; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .8rem; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid #c9ced4; }
td { overflow-wrap: anywhere; } th { font-weight: 600; } 
tr, figure { break-inside: avoid; } thead { break-after: avoid; }
figure { margin: 0 0 .8rem; } img { max-width: 100%; max-height: 22rem; } h2, caption { break-after: avoid; }
@page { size: A4; margin: 14mm 15mm; }
@media print { /* the head of a table stands on every page, and nothing else does so everywhere */
  body { font-size: 10.5pt; } .paper { display: table; width: 100%; max-width: none; padding: 0; }
  .head { display: table-header-group; position: static; break-inside: avoid; } .head p { margin: 0 0 4mm; }
  .paper > main { display: table-row-group; } img { max-height: 80mm; }
}
"""


def to_html(consultation: Consultation, with_pictures: bool = True) -> str:
    """One page that needs nothing else and loads nothing; prints on A4.

    Args:
        consultation: the record.
        with_pictures: put the pictures themselves in, beside their hashes.
    """
    said = words(consultation.language)
    body = "".join(
        f"<section><h2>{html.escape(heading)}</h2>{''.join(map(_html, parts))}</section>"
        for heading, parts in sections(consultation, with_pictures)
    )
    title = f"{html.escape(said['record.title'])} · {html.escape(consultation.created)}"
    return (
        f'<!doctype html>\n<html lang="{html.escape(consultation.language)}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        '<body><div class="paper"><div class="head" role="note">'
        f'<p class="standing">{html.escape(said["record.foot"])}</p></div>'
        f"<main><h1>{html.escape(said['record.title'])}</h1><p>{html.escape(consultation.disclaimer)}</p>{body}</main></div>"
        "</body></html>\n"
    )


def _html(part: Part) -> str:
    if isinstance(part, Figure):
        text = html.escape(part.caption)
        return f'<figure><img src="{data_url(part.picture)}" alt="{text}"></figure>'
    if isinstance(part, Rows):
        return _html_table(part)
    kind = "said answer" if part.kind == "answer" else part.kind
    return f'<p class="{kind}">{html.escape(part.text)}</p>'


def _html_table(table: Rows) -> str:
    def cells(row: Sequence[str], tag: str, scope: str = "") -> str:
        return "".join(f"<{tag}{scope}>{html.escape(text).replace(chr(10), '<br>')}</{tag}>" for text in row)

    head = f"<thead><tr>{cells(table.rows[0], 'th', ' scope=col')}</tr></thead>" if table.headed else ""
    rows = table.rows[1:] if table.headed else table.rows
    body = "".join(f"<tr>{cells(row[:1], 'th', ' scope=row')}{cells(row[1:], 'td')}</tr>" for row in rows)
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def to_pdf(consultation: Consultation, with_pictures: bool = True) -> bytes:
    """The same as an A4 PDF with "not a diagnosis" at the foot of every page.

    Latin, Greek and Cyrillic letters come out; a note tells how many signs of other scripts its font lacks.

    Args:
        consultation: the record.
        with_pictures: put the pictures themselves in, beside their hashes.
    """
    said = words(consultation.language)
    parts = sections(consultation, with_pictures)
    with quiet_fonts():
        paper = Paper(said["record.title"], said["record.foot"], said["record.page"], consultation.language)
        paper.foot_style = ("B", 8.5, RED)
        paper.text_block(said["record.title"], 18, "B")
        paper.text_block(consultation.disclaimer, 9, "B", colour=RED)
        lacking = sum(
            paper.num_lacking(text) for _, inner in parts for part in inner for text in _texts(part)
        )
        if lacking:
            paper.text_block(said("record.lacking", count=lacking), 8, soft=True)
        for heading, inner in parts:
            paper.heading(heading, "h2", 40)
            for part in inner:
                _set(paper, part)
        return bytes(paper.output())


def _texts(part: Part) -> Iterator[str]:
    if isinstance(part, Words):
        yield part.text
    elif isinstance(part, Rows):
        yield from (text for row in part.rows for text in row)


def _set(paper: Paper, part: Part) -> None:
    if isinstance(part, Figure):
        height = PICTURE_WIDTH * part.picture.height / part.picture.width
        width = PICTURE_WIDTH * min(1.0, 90.0 / height)
        paper.picture(io.BytesIO(jpeg_bytes(part.picture)), width, min(height, 90.0) + 40)
    elif isinstance(part, Rows):
        if part.caption:
            paper.heading(part.caption, "h5", 25)
        paper.rows(part.rows, part.headed, size=8)
    elif part.kind == "label":
        paper.heading(part.text, "h4", 25)
    else:
        warns = part.kind == "warn"
        paper.text_block(
            part.text,
            7.5 if part.kind == "soft" else 9.5,
            "B" if warns else "",
            soft=part.kind == "soft",
            keep_lines=part.kind in ("said", "answer"),
            colour=RED if warns else None,
        )
