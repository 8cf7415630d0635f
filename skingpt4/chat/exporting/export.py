"""A consultation as HTML or PDF.

Both are written from the same sections, so neither says more than the other. "Not a diagnosis" is on every page of
both.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence

from skingpt4.chat.exporting.record import Consultation, data_url, jpeg_bytes
from skingpt4.chat.exporting.sections import Figure, Paragraph, Part, Table, export_texts, sections
from skingpt4.support.pdf import RED, Paper, quiet_fonts

IMAGE_WIDTH, MAX_IMAGE_HEIGHT = 70.0, 90.0  # mm on paper
# Nothing is loaded from anywhere, even if somebody edits the file.
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
.verbatim { white-space: pre-wrap; } .answer { border-left: 3px solid #0f766e; padding-left: .75rem; }
table { border-collapse: collapse; width: 100%; margin: 0 0 .8rem; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid #c9ced4; }
td { overflow-wrap: anywhere; } th { font-weight: 600; } 
tr, figure { break-inside: avoid; } thead { break-after: avoid; }
figure { margin: 0 0 .8rem; } img { max-width: 100%; max-height: 22rem; } h2, caption { break-after: avoid; }
@page { size: A4; margin: 14mm 15mm; }
@media print { /* only a table's head is repeated on every page by all browsers */
  body { font-size: 10.5pt; } .paper { display: table; width: 100%; max-width: none; padding: 0; }
  .head { display: table-header-group; position: static; break-inside: avoid; } .head p { margin: 0 0 4mm; }
  .paper > main { display: table-row-group; } img { max-height: 80mm; }
}
"""


def to_html(consultation: Consultation, with_pictures: bool = True) -> str:
    """A self-contained page that loads nothing; prints on A4.

    Args:
        consultation: the record.
        with_pictures: include the images, not only their hashes.
    """
    texts = export_texts(consultation.language)
    body = "".join(
        f"<section><h2>{html.escape(heading)}</h2>{''.join(map(_html, parts))}</section>"
        for heading, parts in sections(consultation, with_pictures)
    )
    title = f"{html.escape(texts['record.title'])} · {html.escape(consultation.created)}"
    return (
        f'<!doctype html>\n<html lang="{html.escape(consultation.language)}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        '<body><div class="paper"><div class="head" role="note">'
        f'<p class="standing">{html.escape(texts["record.foot"])}</p></div>'
        f"<main><h1>{html.escape(texts['record.title'])}</h1>"
        # Not the file's own, which anybody may have changed.
        f"<p>{html.escape(texts['record.disclaimer'])}</p>{body}</main></div>"
        "</body></html>\n"
    )


def _html(part: Part) -> str:
    if isinstance(part, Figure):
        text = html.escape(part.caption)
        return f'<figure><img src="{data_url(part.image)}" alt="{text}"></figure>'
    if isinstance(part, Table):
        return _html_table(part)
    kind = "verbatim answer" if part.kind == "answer" else part.kind
    return f'<p class="{kind}">{html.escape(part.text)}</p>'


def _html_table(table: Table) -> str:
    def cells(row: Sequence[str], tag: str, scope: str = "") -> str:
        return "".join(f"<{tag}{scope}>{html.escape(text).replace(chr(10), '<br>')}</{tag}>" for text in row)

    head = f"<thead><tr>{cells(table.rows[0], 'th', ' scope=col')}</tr></thead>" if table.headed else ""
    rows = table.rows[1:] if table.headed else table.rows
    body = "".join(f"<tr>{cells(row[:1], 'th', ' scope=row')}{cells(row[1:], 'td')}</tr>" for row in rows)
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def to_pdf(consultation: Consultation, with_pictures: bool = True) -> bytes:
    """The same as an A4 PDF with "not a diagnosis" at the foot of every page.

    Its font has Latin, Greek and Cyrillic letters; a note says how many characters of other scripts are missing.

    Args:
        consultation: the record.
        with_pictures: include the images, not only their hashes.
    """
    texts = export_texts(consultation.language)
    all_sections = sections(consultation, with_pictures)
    with quiet_fonts():
        paper = Paper(
            texts["record.title"], texts["record.foot"], texts["record.page"], consultation.language
        )
        paper.foot_style = ("B", 8.5, RED)
        paper.text_block(texts["record.title"], 18, "B")
        paper.text_block(texts["record.disclaimer"], 9, "B", colour=RED)
        texts_of_parts = (text for _, parts in all_sections for part in parts for text in _texts(part))
        lacking = sum(map(paper.num_lacking, texts_of_parts))
        if lacking:
            paper.text_block(texts("record.lacking", count=lacking), 8, soft=True)
        for heading, parts in all_sections:
            paper.heading(heading, "h2", 40)
            for part in parts:
                _add(paper, part)
        return bytes(paper.output())


def _texts(part: Part) -> Iterator[str]:
    if isinstance(part, Paragraph):
        yield part.text
    elif isinstance(part, Table):
        yield from (text for row in part.rows for text in row)


def _add(paper: Paper, part: Part) -> None:
    if isinstance(part, Figure):
        height = IMAGE_WIDTH * part.image.height / part.image.width
        width = IMAGE_WIDTH * min(1.0, MAX_IMAGE_HEIGHT / height)
        paper.picture(io.BytesIO(jpeg_bytes(part.image)), width, min(height, MAX_IMAGE_HEIGHT) + 40)
    elif isinstance(part, Table):
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
            keep_lines=part.kind in ("verbatim", "answer"),
            colour=RED if warns else None,
        )
