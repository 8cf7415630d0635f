"""Public data sets that are a table beside a folder of pictures.

A `Layout` says how the table of one of them names what a record knows; everything else is the same for all.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows
from data.reading.tables import DiskMap, Table
from data.sources.arguments import add_images_argument, add_phi_argument
from data.sources.public.pictures import Pictures

Columns = str | tuple[str, ...]  # several: names that releases of the table have used
BOOLEANS = ("true", "false")


@dataclass(frozen=True)
class Layout:
    """A table's columns; `texts`, `identifiers` and `own` are {key of a record: column}, `captions` references.

    The columns of `texts` and `own` may be missing in a table, and those of `optional`.
    """

    name: str
    help: str
    epilog: str
    licence: str
    image: str
    disease: Columns
    fitzpatrick: Columns | None = None
    texts: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    captions: Columns | None = None
    optional: tuple[Columns, ...] = ()


@dataclass(frozen=True)
class PublicOptions:
    """The table and the folder of the pictures; see `PublicTable.add_arguments`."""

    file: Path
    images: Path | None = None
    phi: str = "refuse"


class PublicTable:
    """A source of records, as `data.sources` describes one."""

    Options = PublicOptions

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.HELP, self.EPILOG = layout.help, layout.epilog

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The table, and where its pictures are."""
        parser.add_argument("file", type=Path, metavar="CSV", help="the data set's table")
        add_images_argument(parser, "CSV's folder")
        add_phi_argument(parser)

    def read(self, options: PublicOptions) -> Rows:
        """Check the header and the folder, then return the rows.

        Raises:
            SourceError: the table or folder is missing, or a column is.
        """
        table, layout = Table(options.file), self.layout
        needed = [
            layout.image,
            layout.disease,
            *layout.identifiers.values(),
            layout.fitzpatrick,
            layout.captions,
        ]
        table.need([columns for columns in needed if columns and columns not in layout.optional])
        pictures = Pictures(options.images or options.file.parent, f"the pictures of {layout.name}")
        blanks: Counter[str] = Counter()
        return Rows(
            self._rows(table, pictures, options.phi, blanks), table.count(), blanks, lambda: table.remarks
        )

    def _rows(
        self, table: Table, pictures: Pictures, phi: str, blanks: Counter[str]
    ) -> Iterator[Candidate | Refusal]:
        file, seen, columns = str(table.path), DiskMap(), self._columns(table)
        for number, cells in table:
            image = None
            try:
                if isinstance(cells, str):
                    raise RowError("bad_row", cells)
                row = Row({key: cells.get(column) for key, column in columns.items()}, blanks)
                image = row.text("image")
                if image is None:
                    raise RowError("bad_row", "names no picture")
                if not seen.add(image):
                    raise RowError("listed_twice", f"{image} is in an earlier row")
                fields = self.fields(row)
                remarks = (*row.remarks, *treat_phi(fields, phi))
                place = pictures.find(image)
                yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))
            except RowError as error:
                yield Refusal(file, number, image, error.reason, str(error))

    def _columns(self, table: Table) -> dict[str, str]:
        layout = self.layout
        named: dict[str, Columns | None] = {
            "image": layout.image, "disease": layout.disease, "fitzpatrick": layout.fitzpatrick,
            "note": layout.captions, **layout.texts, **layout.identifiers, **layout.own,
        }  # fmt: skip
        columns = {}
        for key, names in named.items():
            present = next((name for name in _names(names or ()) if name in table.columns), None)
            if present:
                columns[key] = present
        return columns

    def fields(self, row: Row) -> dict[str, Any]:
        """What a row's values say, as keys of a record.

        Raises:
            RowError: nothing that could be taught, or a value that its column cannot have.
        """
        diagnosis, note = row.diagnosis("disease"), row.text("note")
        fields: dict[str, Any] = {
            "source": self.layout.name,
            "licence": self.layout.licence,
            "disease": diagnosis.disease,
            "class": diagnosis.class_name,
            "fitzpatrick": row.skin_type("fitzpatrick"),
            **{key: row.text(key) for key in self.layout.texts},
            **{key: row.identifier(key) for key in self.layout.identifiers},
            **{key: _own(row.text(key)) for key in self.layout.own},
        }
        if not any((diagnosis.disease, diagnosis.class_name, note)):
            raise RowError("no_label", f"has no {' or '.join(_names(self.layout.disease))}")
        if note:
            fields |= {"note": note, "x_references": [note]}
        return fields


def _names(columns: Columns) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _own(text: str | None) -> str | None:
    """A value of an own key: TRUE and True are the same."""
    return text.lower() if text is not None and text.lower() in BOOLEANS else text
