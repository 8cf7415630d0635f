"""Derm7pt: a clinical and a dermatoscopic picture of each lesion, with the seven-point checklist."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.reading.fields import Row
from data.reading.rows import Candidate, Refusal, RowError, Rows, SourceError
from data.reading.tables import DiskMap, Table
from data.reading.values import whole_number
from data.sources.arguments import add_images_argument
from data.sources.public.pictures import CaseFields, Pictures, candidates_of_case
from skingpt4.taxonomy.taxonomy import CONCEPTS

HELP = "Derm7pt: clinical and dermatoscopic pictures with the seven-point checklist"
EPILOG = """CSV is meta/meta.csv; DIR holds the pictures (images/ beside meta/), or is the archive
release_v0.zip. Both pictures of a lesion share its number as case_id. train_indexes.csv, valid_indexes.csv
and test_indexes.csv beside CSV give the split.

The dermatoscopic picture gets the checklist in words as its note, and those of SKINCON's concepts that the
checklist states: Blue (a blue-whitish veil or blue regression), White(Hypopigmentation) (white regression),
Pigmented, Telangiectasia (arborizing vessels). Both get x_seven_point, {criterion: value}, and
x_seven_point_score.

You download release_v0.zip from the authors (derm.cs.sfu.ca) and accept the atlas's terms there.

  python -m data.prepare derm7pt downloads/derm7pt/meta/meta.csv --images downloads/derm7pt/images
  python -m data.split runs/data/derm7pt/all.jsonl --out-dir runs/data/derm7pt"""

LICENCE = "Derm7pt, from the Interactive Atlas of Dermoscopy; see its terms"
PICTURES = {"derm": "dermatoscopic", "clinic": "clinical"}
CRITERIA = {
    "pigment_network": "pigment network",
    "blue_whitish_veil": "blue-whitish veil",
    "vascular_structures": "vascular structures",
    "pigmentation": "pigmentation",
    "streaks": "streaks",
    "dots_and_globules": "dots and globules",
    "regression_structures": "regression structures",
}
# Which of SKINCON's concepts a value of a criterion states; the other values state none of them.
STATED = {
    ("blue_whitish_veil", "present"): ("Blue",),
    ("regression_structures", "blue areas"): ("Blue",),
    ("regression_structures", "white areas"): ("White(Hypopigmentation)",),
    ("regression_structures", "combinations"): ("Blue", "White(Hypopigmentation)"),
    ("vascular_structures", "arborizing"): ("Telangiectasia",),
    **{
        ("pigmentation", f"{extent} {form}"): ("Pigmented",)
        for extent in ("diffuse", "localized")
        for form in ("regular", "irregular")
    },
}
OWN = {
    "x_seven_point_score": "seven_point_score", "x_elevation": "elevation", "x_sex": "sex",
    "x_management": "management", "x_difficulty": "level_of_diagnostic_difficulty",
}  # fmt: skip
INDEXES = {"train": "train_indexes.csv", "validation": "valid_indexes.csv", "test": "test_indexes.csv"}


@dataclass(frozen=True)
class Options:
    """The table and the folder of the pictures; see `add_arguments`."""

    file: Path
    images: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, and where its pictures are."""
    parser.add_argument("file", type=Path, metavar="CSV", help="meta/meta.csv")
    add_images_argument(parser, "CSV's parent folder")


def read(options: Options) -> Rows:
    """Check the header, the folder and the lists of the split, then return a row for every picture.

    Raises:
        SourceError: the table or folder is missing, a column is, or a list of the split names no row.
    """
    table = Table(options.file)
    table.need(["case_num", "diagnosis", *PICTURES, *CRITERIA])
    pictures = Pictures(options.images or options.file.absolute().parent.parent, "the pictures of Derm7pt")
    splits, blanks = _splits(options.file.parent), Counter[str]()
    total = sum(max(1, len(_names(row))) if isinstance(row, dict) else 1 for _, row in table)
    return Rows(_rows(table, splits, pictures, blanks), total, blanks, lambda: table.remarks)


def _splits(folder: Path) -> dict[int, str]:
    """The split of each row by its place, from the lists that come with the table; empty without them."""
    splits: dict[int, str] = {}
    for split, name in INDEXES.items():
        if not (folder / name).is_file():
            continue
        table = Table(folder / name)
        table.need(["indexes"])
        for number, row in table:
            place = whole_number(row["indexes"]) if isinstance(row, dict) else None
            if place is None or splits.setdefault(place, split) != split:
                raise SourceError(
                    f"{folder / name}, row {number}: is no number of a row, or one of another split"
                )
    return splits


def _names(cells: dict[str, Any]) -> list[str]:
    row = Row(cells)
    return [name for column in PICTURES if (name := row.text(column))]


def _rows(
    table: Table, splits: dict[int, str], pictures: Pictures, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    seen = DiskMap()
    for place, (number, cells) in enumerate(table):
        names = [] if isinstance(cells, str) else _names(cells)

        def read(place: int = place, cells: Any = cells, names: Any = names) -> CaseFields:
            if isinstance(cells, str):
                raise RowError("bad_row", cells)
            row = Row(cells, blanks)
            case_id = row.identifier("case_num")
            if case_id is None or not names:
                raise RowError("bad_row", "has no case_num" if names else "names no picture")
            if not seen.add(case_id):
                raise RowError("listed_twice", f"the case {case_id!r} is in an earlier row")
            return _case(case_id, row) | {"split": splits.get(place)}, tuple(row.remarks)

        def own(which: int, cells: Any = cells, names: Any = names) -> dict[str, Any]:
            kind = next(kind for kind in PICTURES if Row(cells).text(kind) == names[which])
            return {"x_modality": PICTURES[kind], **(_checklist(Row(cells)) if kind == "derm" else {})}

        yield from map(_taught, candidates_of_case(str(table.path), number, names, pictures, read, own))


def _taught(row: Candidate | Refusal) -> Candidate | Refusal:
    """The row, or a refusal of a clinical picture of "miscellaneous": the checklist is about the other one."""
    if isinstance(row, Refusal) or any(row.fields.get(key) for key in ("disease", "note", "concepts")):
        return row
    return Refusal(row.file, row.row, str(row.image_path), "no_label", "has no diagnosis but 'miscellaneous'")


def _case(case_id: str, row: Row) -> dict[str, Any]:
    diagnosis = row.diagnosis("diagnosis")
    if diagnosis.disease is None:
        raise RowError("no_label", "has no diagnosis")
    miscellaneous = diagnosis.disease == "miscellaneous"  # the checklist is still known
    return {
        "source": "derm7pt",
        "licence": LICENCE,
        "case_id": case_id,
        "disease": None if miscellaneous else diagnosis.disease,
        "class": diagnosis.class_name,
        "body_site": row.text("location"),
        "x_seven_point": {name: row.text(name) for name in CRITERIA},
        **{key: row.text(column) for key, column in OWN.items()},
    }


def _checklist(row: Row) -> dict[str, Any]:
    """The checklist in words, and what of it is a concept of SKINCON."""
    values = {name: value for name in CRITERIA if (value := row.text(name))}
    stated = [concept for item in values.items() for concept in STATED.get(item, ())]
    present = [_words(name, value) for name, value in values.items() if value != "absent"]
    absent = [CRITERIA[name] for name, value in values.items() if value == "absent"]
    sentences = [f"Dermatoscopy shows {_listed(present)}."] if present else []
    sentences += [f"There is no {_listed(absent, 'or')}."] if absent else []
    concepts = [concept for concept in CONCEPTS if concept in stated]
    return {"concepts": concepts or None, "note": " ".join(sentences) or None}


def _words(name: str, value: str) -> str:
    """A criterion's value as it stands in a sentence: "an atypical pigment network", "irregular streaks"."""
    match name, value:
        case _, "present":
            return f"a {CRITERIA[name]}"
        case "pigment_network", _:
            return f"{'an' if value[0] in 'aeiou' else 'a'} {value} {CRITERIA[name]}"
        case "regression_structures", _:
            areas = "blue and white areas" if value == "combinations" else value
            return f"regression structures ({areas})"
        case "vascular_structures", "within regression":
            return "vessels within regression"
        case "vascular_structures", _:
            return f"{value} vessels"
    return f"{value} {CRITERIA[name]}"


def _listed(words: list[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
