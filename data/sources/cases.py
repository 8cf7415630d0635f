"""The cases of a clinical evaluation, a table: one record per image, all images of a case under its id."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows
from data.reading.tables import DiskMap, Table, need_folder
from data.sources.notes import TableOptions as Options
from data.sources.notes import add_table_arguments, fields_of, find_columns
from skingpt4.records.naming import locate

HELP = "cases of a clinical evaluation: CSV, workbook or JSONL"
EPILOG = """FILE has a row for each case. Its columns are `id`, `image` or `images` (several views: a list, or
separated by ; or |), `class` or `disease`, and, where known, `concepts`, `fitzpatrick`, `body_site`, `source`,
`split`, `patient_id`, `licence`, `history` and `reference` (a text, or a list: one answer for each question). History
and reference answers become the record's x_history and x_reference.

  python -m data.prepare cases cases.jsonl --images photographs"""

KEYS = (
    "id", "image", "images", "class", "disease", "concepts", "fitzpatrick", "body_site", "source", "split",
    "patient_id", "licence", "history", "reference",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, where its images are, how its columns are named."""
    add_table_arguments(parser, KEYS)


def read(options: Options) -> Rows:
    """Check the header and the folder, then return a row for every image.

    Raises:
        SourceError: the file or folder is missing, or a column is.
    """
    table = Table(options.file)
    columns = find_columns(options.column, KEYS, table, [("id",), ("image", "images"), ("class", "disease")])
    images = need_folder(options.images or options.file.parent, "the pictures")
    total = sum(
        max(1, len(_images(_row(cells, columns)))) if isinstance(cells, dict) else 1 for _, cells in table
    )
    blanks: Counter[str] = Counter()
    return Rows(_rows(table, columns, images, options.phi, blanks), total, blanks, lambda: table.remarks)


def _row(cells: dict[str, Any], columns: dict[str, str], blanks: Counter[str] | None = None) -> Row:
    values = {key: cells.get(name) for key, name in columns.items()}
    return Row(values, Counter() if blanks is None else blanks)


def _images(row: Row) -> list[str]:
    """Paths that a row names under `image` or `images`; none where one of them is not a text."""
    with suppress(RowError):
        return list(dict.fromkeys([*row.paths("image"), *row.paths("images")]))
    return []


def _rows(
    table: Table, columns: dict[str, str], images: Path, phi: str, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    file, seen = str(table.path), DiskMap()
    for number, cells in table:
        names: list[str] = []
        try:
            if isinstance(cells, str):
                raise RowError("bad_row", cells)
            row = _row(cells, columns, blanks)
            names = _images(row)
            fields, remarks = _case(row, phi)
            if not names:
                raise RowError("bad_row", "names no picture")
            if not seen.add(fields["case_id"]):
                raise RowError("listed_twice", f"the case {fields['case_id']!r} is in an earlier row")
        except RowError as error:
            for name in names or (None,):
                yield Refusal(file, number, name, error.reason, str(error))
            continue
        for name in names:
            place = locate(images, name)
            yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))


def _case(row: Row, phi: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    case_id = row.identifier("id")
    if case_id is None:
        raise RowError("bad_row", "has no id")
    fields = {**fields_of(row, "disease"), "case_id": case_id, "source": row.text("source") or "cases"}
    if not fields["class"] and not fields["disease"]:
        raise RowError("no_label", "has neither class nor disease")
    if history := row.text("history"):
        fields["x_history"] = history
    if reference := row.answers("reference"):
        fields["x_reference"] = reference
    return fields, (*row.remarks, *treat_phi(fields, phi))
