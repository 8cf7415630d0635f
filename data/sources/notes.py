"""In-house images with doctors' notes (step 2): a table whose columns can be named."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.rows import Candidate, Refusal, RowError, Rows, SourceError, did_you_mean
from data.reading.tables import Table, need_folder
from data.sources.arguments import add_phi_argument
from skingpt4.records.naming import locate

HELP = "in-house pictures with notes: CSV, workbook or JSONL (step 2)"
EPILOG = """FILE has a row for each picture. Its columns are `image` (relative to --images), `note`, and, where known,
`caption`, `diagnosis`, `class`, `concepts` (names separated by ; or , or |), `fitzpatrick`, `body_site`, `case_id`,
`patient_id`, `split`, `licence`, `turns` (a list of {"question", "answer"}). Name others with --column; other columns
are not read. data/README.md says in one table how cells are read: words for nothing, lists, skin types, codes.

Every text that goes into a record is scanned for what identifies a person. Such rows are refused unless --phi says
otherwise; the scan finds what is written in a usual form and no more (data/README.md says what it misses).

  python -m data.prepare notes notes.csv --images photographs --column note=report --column diagnosis=dx
  python -m data.prepare notes captions.csv --images photographs --column caption=text
  python -m data.prepare notes skincap.csv --images skincap --preset skincap --phi redact"""

TEXTS, IDENTIFIERS = ("note", "caption", "body_site", "split", "licence"), ("case_id", "patient_id")
KEYS = ("image", *TEXTS, *IDENTIFIERS, "diagnosis", "class", "concepts", "fitzpatrick", "turns")
LABELS = (
    "note",
    "caption",
    "diagnosis",
    "class",
    "concepts",
    "turns",
)  # a row without any of them teaches nothing
PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "skincap": {
        "image": ("skincap_file_path",),
        "diagnosis": ("disease",),
        "note": ("caption_zh_polish_en", "caption_en"),
    },
}


@dataclass(frozen=True)
class TableOptions:
    """A table of one's own; see `add_table_arguments`."""

    file: Path
    images: Path | None = None
    column: Sequence[str] = ()
    phi: str = "refuse"


@dataclass(frozen=True)
class Options(TableOptions):
    """A table of images with notes; see `add_arguments`."""

    preset: str | None = None
    source: str = "in-house"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, where its images are, how its columns are named."""
    add_table_arguments(parser, KEYS)
    parser.add_argument("--preset", choices=PRESETS, help="column names of a public data set")
    parser.add_argument(
        "--source", default="in-house", metavar="NAME", help="what to call it (default in-house)"
    )


def add_table_arguments(parser: argparse.ArgumentParser, keys: tuple[str, ...]) -> None:
    """The arguments of every source that is a table of one's own."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a table: .csv, .tsv, .xlsx, .xls, .ods or .jsonl"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="what image paths are relative to (default: FILE's folder)"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=NAME",
        help=f"the column NAME holds KEY, one of {', '.join(keys)}; may be repeated",
    )
    add_phi_argument(parser)


def read(options: Options) -> Rows:
    """Check the header and the folder, then return the rows.

    Raises:
        SourceError: the file or folder is missing, or a column is.
    """
    table = Table(options.file)
    preset = PRESETS[options.preset] if options.preset else {}
    columns = find_columns(options.column, KEYS, table, [("image",), LABELS], preset)
    images = need_folder(options.images or options.file.parent, "the pictures")
    blanks: Counter[str] = Counter()
    rows = _rows(table, columns, images, options, blanks)
    return Rows(rows, table.count(), blanks, lambda: table.remarks)


def find_columns(
    given: Sequence[str],
    keys: tuple[str, ...],
    table: Table,
    needed: Sequence[tuple[str, ...]],
    preset: dict[str, tuple[str, ...]] | None = None,
) -> dict[str, str]:
    """Which column holds which key: those of --column, then of the preset, then of the same name.

    Args:
        given: KEY=NAME of each --column.
        keys: what may be named.
        table: a CSV has the columns of its header; a row of JSONL may have keys that the first has not.
        needed: groups of keys; a column for one of each group must be there.
        preset: column names by key, the best first.

    Raises:
        SourceError: --column names an unknown key or a column that is not there, or a needed one is missing.
    """
    names: dict[str, tuple[str, ...]] = {key: (*(preset or {}).get(key, ()), key) for key in keys}
    for text in given:
        key, equals, name = text.partition("=")
        if not equals or key not in keys:
            raise SourceError(
                f"--column {text}: expected KEY=NAME with KEY one of {', '.join(keys)}{did_you_mean(key, keys)}"
            )
        name = name if table.is_json else " ".join(name.split())  # as the headings are read
        names[key] = (name,)
        table.need([name])
    columns = {key: next((name for name in names[key] if name in table.columns), None) for key in keys}
    for group in needed:
        if not any(columns[key] for key in group):
            table.need([tuple(name for key in group for name in names[key])])
    return {key: name or names[key][-1] for key, name in columns.items() if name or table.is_json}


def _rows(
    table: Table, columns: dict[str, str], images: Path, options: Options, blanks: Counter[str]
) -> Iterator[Candidate | Refusal]:
    file = str(table.path)
    for number, cells in table:
        image = None
        try:
            if isinstance(cells, str):
                raise RowError("bad_row", cells)
            row = Row({key: cells.get(name) for key, name in columns.items()}, blanks)
            image = row.text("image")
            if image is None:
                raise RowError("bad_row", "names no picture")
            fields = {"source": options.source, **fields_of(row)}
            if not any(fields[key] for key in ("note", "caption", "disease", "class", "concepts", "turns")):
                raise RowError("no_label", "has no note, caption, diagnosis, class or concept")
            remarks = (*row.remarks, *treat_phi(fields, options.phi))
            place = locate(images, image)
            yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))
        except RowError as error:
            yield Refusal(file, number, image, error.reason, str(error))


def fields_of(row: Row, diagnosis: str = "diagnosis") -> dict[str, Any]:
    """The keys of a record that a row's values give.

    Args:
        row: of a table.
        diagnosis: the key of the disease in it.

    Raises:
        RowError: a value that its column cannot have.
    """
    disease = row.diagnosis(diagnosis)
    return {
        **{key: row.text(key) for key in TEXTS},
        **{key: row.identifier(key) for key in IDENTIFIERS},
        "disease": disease.disease,
        "class": row.class_name("class") or disease.class_name,
        "concepts": row.concepts("concepts"),
        "fitzpatrick": row.skin_type("fitzpatrick"),
        "turns": row.turns("turns"),
    }
