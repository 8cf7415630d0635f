"""The cases of a clinical evaluation, CSV or JSONL: one record per image, all images of a case under its id."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.reading.fields import as_text, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows
from data.reading.tables import DiskMap, Table, need_folder
from data.sources.notes import TableOptions as Options
from data.sources.notes import add_table_arguments, fields_of, find_columns

HELP = "cases of a clinical evaluation, CSV or JSONL"
EPILOG = """FILE has a row for each case. Its columns are `id`, `image` or `images` (several views, separated by ; or
by |, in JSONL a list), `class` or `disease`, and, where known, `concepts`, `fitzpatrick`, `body_site`, `source`,
`split`, `patient_id`, `licence`, `history` and `reference` (a text, or in JSONL a list: one answer for each
question). History and reference answers become the record's x_history and x_reference.

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
    total = sum(max(1, len(_images(row, columns))) if isinstance(row, dict) else 1 for _, row in table)
    return Rows(_rows(table, columns, images, options.phi), total)


def _images(row: dict[str, Any], columns: dict[str, str]) -> list[str]:
    """Paths that a row names under `image` or `images`."""
    paths: list[str] = []
    for key in ("image", "images"):
        value = row.get(columns.get(key, "")) or ""
        if isinstance(value, str) and value.strip().startswith("["):
            with suppress(ValueError):  # a name that begins with a bracket
                value = json.loads(value)
        names = value if isinstance(value, list) else str(value).replace("|", ";").split(";")
        paths += [name for name in (str(name).strip() for name in names) if name]
    return list(dict.fromkeys(paths))


def _rows(table: Table, columns: dict[str, str], images: Path, phi: str) -> Iterator[Candidate | Refusal]:
    file, seen = str(table.path), DiskMap()
    for number, row in table:
        try:
            if isinstance(row, str):
                raise RowError("bad_row", row)
            fields, remarks = _case(row, columns, phi)
            names = _images(row, columns)
            if not names:
                raise RowError("bad_row", "names no picture")
            if not seen.add(fields["case_id"]):
                raise RowError("listed_twice", f"the case {fields['case_id']!r} is in an earlier row")
        except RowError as error:
            refused: list[str] = _images(row, columns) if isinstance(row, dict) else []
            for name in refused or (None,):
                yield Refusal(file, number, name, error.reason, str(error))
            continue
        for name in names:
            yield Candidate(file, number, images / name, fields, remarks)


def _case(row: dict[str, Any], columns: dict[str, str], phi: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    values = {key: row.get(name) for key, name in columns.items()}
    case_id = as_text("id", values.get("id"))
    if not case_id:
        raise RowError("bad_row", "has no id")
    values |= {"diagnosis": values.get("disease"), "case_id": case_id}
    fields = {**fields_of(values), "source": as_text("source", values.get("source")) or "cases"}
    if not fields["class"] and not fields["disease"]:
        raise RowError("no_label", "has neither class nor disease")
    history, reference = values.get("history"), values.get("reference")
    if history:
        fields["x_history"] = as_text("history", history)
    if reference:
        many = isinstance(reference, list)
        fields["x_reference"] = [as_text("reference", text) for text in (reference if many else [reference])]
    remarks = treat_phi(fields, phi)
    return fields, remarks
