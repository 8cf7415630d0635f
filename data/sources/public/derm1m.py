"""Derm1M: a million pairs of picture and text from videos, articles, forums and public sets."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows
from data.reading.tables import DiskMap, Table
from data.sources.arguments import add_phi_argument
from data.sources.public.pictures import Pictures
from skingpt4.taxonomy.taxonomy import CONCEPTS, concept

HELP = "Derm1M: pairs of picture and text, with diseases and concepts"
EPILOG = """CSV is Derm1M_v2_pretrain.csv or Derm1M_v2_validation.csv; DIR holds the folders of pictures, or
the zip files that the hub serves, which need not be unpacked. The caption becomes `caption` (what the
alignment teaches) and the note (what step 2 teaches); of skin_concept, SKINCON's names become concepts and
all words x_skin_concept. Frames of one video and pictures of one forum post are one case.

Derm1M holds pictures of public sets: exclude what you evaluate on with data.split --exclude.

You download the tables and zip files from the hub (redlessone/Derm1M) and accept CC BY-NC 4.0: not for
commercial use.

  huggingface-cli download redlessone/Derm1M --repo-type dataset --local-dir downloads/derm1m
  python -m data.prepare derm1m downloads/derm1m/Derm1M_v2_pretrain.csv
  python -m data.split runs/data/derm1m/all.jsonl --out-dir runs/data/derm1m --exclude cases.jsonl"""

LICENCE = "CC BY-NC 4.0 (Derm1M); the pictures' own terms"
NOTHING = re.compile(
    r"no (?:\w+ )*(?:information|concepts?|diagnosis)\.?", re.IGNORECASE
)  # "No symptom information"
CAPTIONS = ("caption", "truncated_caption")
OWN = {
    "x_part": "source", "x_kind": "source_type", "x_hierarchy": "hierarchical_disease_label",
    "x_skin_concept": "skin_concept", "x_symptoms": "symptoms", "x_age": "age", "x_sex": "gender",
}  # fmt: skip
# youtube/VIDEO_frame_35881_3.jpg, IIYI/POST_PICTURE.png
FRAME = re.compile(r"(.+)_frame_\d+(?:_\d+)?")
OF_POST = re.compile(r"((?:.*/)?\d+)_\d+")


@dataclass(frozen=True)
class Options:
    """The table and the folder of the pictures; see `add_arguments`."""

    file: Path
    images: Path | None = None
    split: str | None = None
    phi: str = "refuse"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, and where its pictures are."""
    parser.add_argument("file", type=Path, metavar="CSV", help="one of Derm1M's tables")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folders or zip files of the pictures (default: CSV's folder)",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="the part of the data set that it is, such as validation"
    )
    add_phi_argument(parser)


def read(options: Options) -> Rows:
    """Check the header and the folder, then return the rows.

    Raises:
        SourceError: the table or folder is missing, or a column is.
    """
    table = Table(options.file)
    table.need(["filename", CAPTIONS, "disease_label"])
    pictures = Pictures(options.images or options.file.parent, "the pictures of Derm1M")
    blanks: Counter[str] = Counter()
    return Rows(_rows(table, pictures, options, blanks), table.count(), blanks, lambda: table.remarks)


def _rows(
    table: Table, pictures: Pictures, options: Options, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    file, seen = str(table.path), DiskMap()
    for number, cells in table:
        image = None
        try:
            if isinstance(cells, str):
                raise RowError("bad_row", cells)
            row = Row(
                {key: None if NOTHING.fullmatch(str(cell).strip()) else cell for key, cell in cells.items()},
                blanks,
            )
            image = row.text("filename")
            if image is None:
                raise RowError("bad_row", "names no picture")
            if not seen.add(image):
                raise RowError("listed_twice", f"{image} is in an earlier row")
            fields = _pair(image, row) | {"split": options.split}
            remarks = (*row.remarks, *treat_phi(fields, options.phi))
            place = pictures.find(image)
            yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))
        except RowError as error:
            yield Refusal(file, number, image, error.reason, str(error))


def _pair(image: str, row: Row) -> dict[str, Any]:
    diagnosis = row.diagnosis("disease_label")
    caption = next((text for column in CAPTIONS if (text := row.text(column))), None)
    if diagnosis.disease is None and caption is None:
        raise RowError("no_label", "has neither caption nor disease_label")
    words = {concept(word) for word in re.split(r"[,;|]", row.text("skin_concept") or "")}
    concepts = [name for name in CONCEPTS if name in words]
    return {
        "source": "derm1m",
        "licence": LICENCE,
        "case_id": case_of(image),
        "disease": diagnosis.disease,
        "class": diagnosis.class_name,
        "concepts": concepts or None,
        "body_site": row.text("body_location"),
        "note": caption,
        "caption": caption,
        **{key: row.text(column) for key, column in OWN.items()},
    }


def case_of(image: str) -> str | None:
    """The video or post that a picture comes from, by its name; None where the name does not say."""
    stem = re.sub(r"\.\w+$", "", image)
    match = FRAME.fullmatch(stem) or OF_POST.fullmatch(stem)
    return match[1] if match else None
