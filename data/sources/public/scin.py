"""SCIN: people's own pictures, up to three a case, with a differential weighted by dermatologists."""

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
from data.reading.values import class_of, literal
from data.sources.arguments import add_images_argument
from data.sources.public.pictures import CaseFields, Pictures, candidates_of_case

HELP = "SCIN: people's own pictures with weighted differentials"
EPILOG = """CASES is scin_cases.csv, --labels scin_labels.csv; DIR holds the pictures (the paths in CASES
begin with dataset/images/). The dermatologists' weights become x_differential, the likeliest condition the
disease, the weights of the paper's classes x_classes, and all of it the note in words. The skin type is the
dermatologists' where they agree, else unknown; people's own answer is x_fitzpatrick_self.

You download both tables and images/ from Google's bucket dx-scin-public-data and accept the SCIN Data Use License.

  python -m data.prepare scin downloads/scin/scin_cases.csv --labels downloads/scin/scin_labels.csv
  python -m data.split runs/data/scin/all.jsonl --out-dir runs/data/scin
  python -m eval.cases sample runs/data/scin/test.jsonl --task scin --all --out cases.jsonl"""

IMAGES = ("image_1_path", "image_2_path", "image_3_path")
WEIGHTS = "weighted_skin_condition_label"
RATED_SKIN = tuple(f"dermatologist_fitzpatrick_skin_type_label_{number}" for number in (1, 2, 3))
OWN = {"x_sex": "sex_at_birth", "x_age_group": "age_group", "x_fitzpatrick_self": "fitzpatrick_skin_type"}
LABEL_OWN = {"x_monk_us": "monk_skin_tone_label_us", "x_monk_india": "monk_skin_tone_label_india"}
BODY_PARTS = "body_parts_"
LICENCE = "SCIN Data Use License"
NOT_SAID = ("NONE_SELECTED", "AGE_UNKNOWN", "OTHER_OR_UNSPECIFIED")
NOT_LABELLED = "no dermatologist named a condition"


@dataclass(frozen=True)
class Options:
    """Both tables and the folder of the pictures; see `add_arguments`."""

    file: Path
    labels: Path | None = None
    images: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both tables, and where the pictures are."""
    parser.add_argument("file", type=Path, metavar="CASES", help="scin_cases.csv")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="scin_labels.csv (default: beside CASES)")
    add_images_argument(parser, "CASES' folder")


def read(options: Options) -> Rows:
    """Check both headers and the folder, then return a row for every picture.

    Raises:
        SourceError: a table or the folder is missing, a column is, or the labels hold a case twice.
    """
    table, labels = Table(options.file), Table(options.labels or options.file.parent / "scin_labels.csv")
    table.need(["case_id", *IMAGES])
    labels.need(["case_id", WEIGHTS])
    pictures = Pictures(options.images or options.file.parent, "the pictures of SCIN")
    by_case = _labels(labels)
    total = sum(max(1, len(_paths(row))) if isinstance(row, dict) else 1 for _, row in table)
    blanks: Counter[str] = Counter()
    return Rows(
        _rows(table, by_case, pictures, blanks), total, blanks, lambda: [*table.remarks, *labels.remarks]
    )


def _labels(table: Table) -> DiskMap:
    by_case = DiskMap()
    wanted = [WEIGHTS, *RATED_SKIN, *LABEL_OWN.values()]
    for number, row in table:
        if isinstance(row, str):
            raise SourceError(f"{table.path}, row {number}: {row}")
        if not by_case.add(row["case_id"].strip(), {key: row.get(key, "") for key in wanted}):
            raise SourceError(f"{table.path}, row {number}: the case {row['case_id']!r} is in an earlier row")
    return by_case


def _paths(row: dict[str, Any]) -> list[str]:
    return [text for column in IMAGES if (text := Row(row).text(column))]


def _rows(
    table: Table, by_case: DiskMap, pictures: Pictures, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    seen = DiskMap()
    for number, cells in table:
        names = [] if isinstance(cells, str) else _paths(cells)

        def read(cells: Any = cells, names: Any = names) -> CaseFields:
            if isinstance(cells, str):
                raise RowError("bad_row", cells)
            row = Row(cells, blanks)
            case_id = row.identifier("case_id")
            if case_id is None or not names:
                raise RowError("bad_row", "has no case_id" if names else "names no picture")
            if not seen.add(case_id):
                raise RowError("listed_twice", f"the case {case_id!r} is in an earlier row")
            return _case(case_id, row, by_case.get(case_id) or {}, blanks)

        yield from candidates_of_case(str(table.path), number, names, pictures, read)


def _case(case_id: str, row: Row, cells: dict[str, str], blanks: Counter[str]) -> CaseFields:
    skin = "; ".join(text for column in RATED_SKIN if (text := cells.get(column, "").strip()))
    label = Row({**cells, "fitzpatrick": skin}, blanks)
    weights = _weights(cells.get(WEIGHTS, ""))
    diagnosis = Row({"disease": weights}).diagnosis("disease")
    own = {key: row.text(column) for key, column in OWN.items()}
    own |= {key: label.text(column) for key, column in LABEL_OWN.items()}
    fields = {
        "source": "scin",
        "licence": LICENCE,
        "case_id": case_id,
        "disease": diagnosis.disease,
        "class": diagnosis.class_name,
        "fitzpatrick": label.skin_type("fitzpatrick"),
        "note": _in_words(weights),
        "body_site": _body_parts(row),
        "x_differential": weights,
        "x_classes": _classes(weights),
        **{key: None if text in NOT_SAID else text for key, text in own.items()},
    }
    return fields, tuple(remark for remark in (diagnosis.remark, *label.remarks) if remark)


def _weights(text: str) -> dict[str, float]:
    """Python's notation of names with weights.

    Raises:
        RowError: none is given, or something else.
    """
    if not text.strip() or text.strip() == "{}":
        raise RowError("no_label", NOT_LABELLED)
    try:
        weights = literal(text)
    except ValueError as error:
        raise RowError("bad_value", f"{WEIGHTS!r} {error}") from None
    if not isinstance(weights, dict) or not all(
        isinstance(weight, int | float) and 0 <= weight < 1e300 for weight in weights.values()
    ):
        raise RowError("bad_value", f"{WEIGHTS!r} is not an object of conditions with weights of 0 or more")
    if not any(weights.values()):
        raise RowError("no_label", NOT_LABELLED)
    return {str(name): float(weight) for name, weight in weights.items()}


def _in_words(weights: dict[str, float]) -> str:
    """The differential as a sentence, the likeliest condition first; what rounds to 0 % is left out."""
    total = sum(weights.values())
    percent = {name: round(100 * weight / total) for name, weight in weights.items()}
    ordered = sorted((name for name in percent if percent[name]), key=lambda name: -weights[name])
    return f"Dermatologists' differential: {', '.join(f'{name} ({percent[name]} %)' for name in ordered)}."


def _classes(weights: dict[str, float]) -> dict[str, float]:
    """The share of the weight on each class, the largest first; what belongs to no class is missing from the sum."""
    total, shares = sum(weights.values()), dict[str, float]()
    for name, weight in weights.items():
        if class_name := class_of(name):
            shares[class_name] = shares.get(class_name, 0.0) + weight / total
    return {name: round(shares[name], 6) for name in sorted(shares, key=lambda name: -shares[name])}


def _body_parts(row: Row) -> str | None:
    """Where on the body, from the columns that hold YES."""
    parts = [
        key.removeprefix(BODY_PARTS)
        for key, value in row.values.items()
        if key.startswith(BODY_PARTS) and value == "YES"
    ]
    return ", ".join(part.replace("_", " ") for part in parts if part != "other") or None
