"""A letter to the patient in plain words, as text or PDF.

It is put together from fixed sentences (`letter` in languages/*.yaml), chosen by what the consultation holds: the
classes of the differential, whether the model was confident, and how good the pictures were. The model's own
sentences are never copied: nobody has checked them, and they are not plain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skingpt4.chat.exporting.record import Consultation
from skingpt4.chat.exporting.sections import export_texts
from skingpt4.chat.texts import Texts
from skingpt4.support.pdf import RED, Paper, quiet_fonts

MAX_CLASSES, MIN_PROBABILITY = 3, 0.05  # the likeliest is always named


@dataclass(frozen=True)
class Line:
    """A paragraph; its kind is title, soft, plain, heading, item or warn."""

    kind: str
    text: str


def lines(consultation: Consultation) -> Iterator[Line]:
    """The letter from top to bottom, in the consultation's language."""
    texts = export_texts(consultation.language)
    yield Line("title", texts["letter.title"])
    yield Line("warn", texts["record.disclaimer"])  # not the file's own, which anybody may have changed
    yield Line("soft", texts("letter.number", id=consultation.id, date=consultation.created[:10]))
    yield Line("plain", texts["letter.hello"])
    for text in texts.lines("letter.intro"):
        yield Line("plain", text)
    count = len(consultation.pictures)
    yield Line("plain", texts("letter.pictures_one" if count == 1 else "letter.pictures_many", count=count))
    if any((shown.quality or {}).get("problems") for shown in consultation.pictures):
        yield Line("plain", texts["letter.poor"])
    if consultation.model.get("caution"):
        yield Line("warn", texts["letter.no_meaning"])
    yield from _findings(consultation, texts)
    yield Line("heading", texts["letter.to_do"])
    for key in ("steps", "soon", "at_once"):
        items = texts.lines("letter.steps" if key == "steps" else f"letter.{key}_if")
        if key != "steps":
            yield Line("plain", f"{texts[f'letter.{key}']}:")
        for text in items:
            yield Line("item", text)
    yield Line("plain", texts["letter.read_by"] + " " + "_" * 30)
    yield Line("soft", texts["letter.made"])


def _findings(consultation: Consultation, texts: Texts) -> Iterator[Line]:
    yield Line("heading", texts["letter.found"])
    ranking = consultation.differential or {}
    rows = sorted(ranking.get("ranked", []), key=lambda row: -row["probability"])
    if not rows:
        yield Line("plain", texts["letter.nothing"])
        return
    sure = ranking.get("confident") and not consultation.model.get("caution")
    yield Line("plain" if sure else "warn", texts["letter.sure" if sure else "letter.not_sure"])
    likely = [row for row in rows[:MAX_CLASSES] if row["probability"] >= MIN_PROBABILITY] or rows[:1]
    for row in likely:
        name, points = row["class_name"], round(100 * row["probability"])
        plain = {"name": texts[f"classes.{name}"], "plain": texts[f"letter.classes.{name}"]}
        yield Line("item", texts("letter.line", number=points or texts["letter.under_one"], **plain))
    yield Line("plain", texts["letter.numbers"])


def to_text(consultation: Consultation) -> str:
    """The letter as plain text."""
    parts = []
    for line in lines(consultation):
        before = "" if line.kind == "item" else "\n"
        parts.append(f"{before}{'- ' if line.kind == 'item' else ''}{line.text}\n")
    return "".join(parts).lstrip("\n")


def to_pdf(consultation: Consultation) -> bytes:
    """The letter as an A4 PDF with "not a diagnosis" at the foot of every page."""
    texts = export_texts(consultation.language)
    title, foot = texts["letter.title"], texts["record.foot"]
    with quiet_fonts():
        paper = Paper(title, foot, texts["record.page"], consultation.language)
        paper.foot_style = ("B", 8.5, RED)
        for line in lines(consultation):
            if line.kind in ("title", "heading"):
                paper.heading(line.text, "h1" if line.kind == "title" else "h3")
            elif line.kind == "warn":
                paper.text_block(line.text, 11, "B", colour=RED)
            else:
                bullet = "•  " if line.kind == "item" else ""
                paper.text_block(
                    bullet + line.text, 8.5 if line.kind == "soft" else 11, soft=line.kind == "soft"
                )
        return bytes(paper.output())
