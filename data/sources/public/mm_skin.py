"""MM-Skin: figures of textbooks with captions, and with questions and answers about them."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows, SourceError
from data.reading.tables import Table
from data.sources.arguments import add_images_argument, add_phi_argument
from data.sources.public.pictures import Pictures
from skingpt4.records.blanks import is_blank
from skingpt4.support.errors import reason_of
from skingpt4.support.parse import ParseError, parse_json
from skingpt4.support.regular import read_regular_text

HELP = "MM-Skin: figures of textbooks with captions, questions and answers"
EPILOG = """FILE is one of MM-Skin's tables, or several: image, question, answer (MM-Skin-O, MM-Skin_test.csv)
or image, caption (MM-Skin-C), or a JSON list of conversations as LLaVA has them (vqa_MM.json). DIR holds the
pictures, or is their archive. All that is written about a picture becomes one record: the questions its
turns, the caption its caption and note. Panels of one figure (bk2_1_56_a, bk2_1_56_b) are one case. There are
pictures of histology among them.

You download tables and pictures from the authors' folder (github.com/ZwQ803/MM-Skin) and accept that the
figures come from fifteen textbooks, whose publishers hold the rights.

  python -m data.prepare mm_skin downloads/mm-skin/*.csv --images downloads/mm-skin/images.zip"""

LICENCE = "MM-Skin; the figures belong to the publishers of the textbooks"
CAPTION = ("caption", "text")
OWN = {"x_modality": "modality", "x_age": "age", "x_sex": "gender"}
PLACEHOLDER = re.compile(r"\s*<image>\s*")  # LLaVA's mark of the picture in a question


@dataclass(frozen=True)
class Options:
    """The tables and the folder of the pictures; see `add_arguments`."""

    file: tuple[Path, ...]
    images: Path | None = None
    split: str | None = None
    phi: str = "refuse"


@dataclass
class _Figure:
    """What the tables say about a picture; `file` and `row` are where it is named first."""

    file: str
    row: int
    turns: list[dict[str, str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    own: dict[str, str | None] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tables, and where their pictures are."""
    parser.add_argument(
        "file", type=Path, nargs="+", metavar="FILE", help="tables, or a JSON list of conversations"
    )
    add_images_argument(parser, "FILE's folder")
    parser.add_argument("--split", metavar="NAME", help="the part of the data set that it is, such as test")
    add_phi_argument(parser, "pictures")


def read(options: Options) -> Rows:
    """Read the tables, check the folder, then return a row for every picture.

    Raises:
        SourceError: a table or the folder is missing, or a table is none of MM-Skin's.
    """
    pictures = Pictures(options.images or options.file[0].parent, "the pictures of MM-Skin")
    figures: dict[str, _Figure] = {}
    refusals: list[Refusal] = []
    blanks: Counter[str] = Counter()
    tables = []
    for path in options.file:
        if path.suffix.lower() == ".json":
            rows: Iterator[tuple[int, dict[str, Any] | str]] = _conversations(path)
        else:
            table = Table(path)
            tables.append(table)
            table.need(["image", ("question", *CAPTION)])
            if "question" in table.columns:
                table.need(["answer"])
            rows = iter(table)
        for number, cells in rows:
            try:
                _collect(figures, str(path), number, cells, blanks)
            except RowError as error:
                refusals.append(Refusal(str(path), number, None, error.reason, str(error)))
    return Rows(
        _rows(figures, refusals, pictures, options), len(figures) + len(refusals), blanks,
        lambda: [text for table in tables for text in table.remarks],
    )  # fmt: skip


def _conversations(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Every question with its answer of LLaVA's lists, as rows of a table are; the number is the entry's."""
    try:
        entries = parse_json(read_regular_text(path))
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise SourceError(f"{path}: is not JSON that can be read ({reason_of(error)})") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SourceError(f"{path}: expected a JSON list of objects, each with image and conversations")
    for number, entry in enumerate(entries, 1):
        said = entry.get("conversations")
        if not isinstance(said, list) or not all(isinstance(turn, dict) for turn in said) or len(said) % 2:
            yield number, "'conversations' is not a list of questions, each with its answer"
            continue
        for question, answer in zip(said[::2], said[1::2], strict=True):
            asked = PLACEHOLDER.sub(" ", str(question.get("value") or "")).strip()
            yield number, {"image": entry.get("image"), "question": asked, "answer": answer.get("value")}


def _collect(
    figures: dict[str, _Figure], file: str, number: int, cells: dict[str, Any] | str, blanks: Counter[str]
) -> None:
    """Add a row to what is known about its picture."""
    if isinstance(cells, str):
        raise RowError("bad_row", cells)
    row = Row(cells, blanks)
    image = row.text("image")
    if image is None:
        raise RowError("bad_row", "names no picture")
    caption = next((text for column in CAPTION if (text := row.text(column))), None)
    turn = {part: row.text(part) or "" for part in ("question", "answer")}
    figure = figures.setdefault(image, _Figure(file, number))
    if caption and caption not in figure.captions:
        figure.captions.append(caption)
    if not any(map(is_blank, turn.values())) and turn not in figure.turns:
        figure.turns.append(turn)
    figure.own |= {key: text for key, column in OWN.items() if (text := row.text(column))}


def _rows(
    figures: dict[str, _Figure], refusals: list[Refusal], pictures: Pictures, options: Options
) -> Iterator[Candidate | Refusal]:
    yield from refusals
    for image, figure in figures.items():
        caption = " ".join(figure.captions) or None
        fields = {
            "source": "mm_skin",
            "licence": LICENCE,
            "split": options.split,
            "case_id": re.sub(r"_[a-z]$", "", PurePath(image).stem),
            "note": caption,
            "caption": caption,
            "turns": figure.turns or None,
            **figure.own,
        }
        try:
            if not figure.turns and not caption:
                raise RowError("no_label", "has neither a caption nor a question with its answer")
            remarks = treat_phi(fields, options.phi)
            place = pictures.find(image)
        except RowError as error:
            yield Refusal(figure.file, figure.row, image, error.reason, str(error))
            continue
        yield Candidate(figure.file, figure.row, place.path, fields, (*remarks, *place.remarks))
