"""SKINCON's concepts on images of Fitzpatrick17k and DDI (step 1), either release of its two CSV files."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.reading.fields import Row
from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, RowError, Rows, SourceError
from data.reading.tables import DiskMap, Table, need_folder
from data.reading.values import class_of, whole_number
from skingpt4.records.blanks import is_blank
from skingpt4.records.naming import has_image_suffix, locate
from skingpt4.taxonomy.taxonomy import CONCEPTS

HELP = "SKINCON's 48 concepts on Fitzpatrick17k and DDI (step 1)"
EPILOG = """The pictures of Fitzpatrick17k are called MD5.jpg, those of DDI 000655.png. One half alone will do; the
metadata files (fitzpatrick17k.csv with either header, ddi_metadata.csv) add diagnosis and skin type.

  python -m data.prepare skincon \\
    --fitzpatrick17k annotations_fitzpatrick17k.csv --fitzpatrick17k-images fitzpatrick17k/images \\
    --fitzpatrick17k-metadata fitzpatrick17k.csv \\
    --ddi annotations_ddi.csv --ddi-images ddi --ddi-metadata ddi/ddi_metadata.csv"""

FLAG = "Do not consider this image"  # not in the first release, which holds the rows without it alone
NO_METADATA = "without a diagnosis: no metadata was given"
NOT_IN_METADATA = "without a diagnosis: in no row of the metadata"


@dataclass(frozen=True)
class Half:
    """One of the two image sets: how its files are named and how its metadata joins on them."""

    source: str
    licence: str
    name: re.Pattern[str]
    example: str
    key: str
    skin: tuple[str, ...]
    disease: str


HALVES = {
    "fitzpatrick17k": Half(
        source="fitzpatrick17k",
        licence="CC BY-NC-SA 3.0 (labels); the pictures belong to the atlases they come from",
        name=re.compile(r"[0-9a-f]{32}\.\w+"),
        example="0123456789abcdef0123456789abcdef.jpg",
        key="md5hash",
        skin=("fitzpatrick_scale", "fitzpatrick"),
        disease="label",
    ),
    "ddi": Half(
        source="ddi",
        licence="Stanford's research use agreement for DDI; not to be shared",
        name=re.compile(r"\d{6}\.\w+"),
        example="000655.png",
        key="DDI_file",
        skin=("skin_tone",),
        disease="disease",
    ),
}


@dataclass(frozen=True)
class Options:
    """The files of both halves, or of one; see `add_arguments`."""

    fitzpatrick17k: Path | None = None
    fitzpatrick17k_images: Path | None = None
    fitzpatrick17k_metadata: Path | None = None
    ddi: Path | None = None
    ddi_images: Path | None = None
    ddi_metadata: Path | None = None


@dataclass(frozen=True)
class _Opened:
    half: Half
    table: Table
    images: Path
    metadata: DiskMap | None
    metadata_table: Table | None

    def remarks(self) -> list[str]:
        """How both tables were read, where that is not certain."""
        return [
            remark
            for table in (self.table, self.metadata_table)
            if table is not None
            for remark in table.remarks
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both halves' files."""
    for name in HALVES:
        parser.add_argument(f"--{name}", type=Path, metavar="CSV", help=f"annotations_{name}.csv of SKINCON")
        parser.add_argument(f"--{name}-images", type=Path, metavar="DIR", help=f"the pictures of {name}")
        parser.add_argument(
            f"--{name}-metadata", type=Path, metavar="CSV", help="adds diagnosis and skin type (optional)"
        )


def read(options: Options) -> Rows:
    """Check every file that is named, then return the rows of both halves and the images that no row names.

    Raises:
        SourceError: no half is named completely, a file or folder is missing, or a table has another header.
    """
    blanks: Counter[str] = Counter()
    opened = [half for name in HALVES if (half := _open(name, options, blanks))]
    if not opened:
        raise SourceError(
            "skincon: no annotations are named; give --fitzpatrick17k CSV --fitzpatrick17k-images DIR, or "
            "--ddi CSV --ddi-images DIR, or both"
        )
    listed, num_rows = DiskMap(), 0
    for part in opened:
        for _, row in part.table:
            num_rows += 1
            if isinstance(row, dict):
                listed.add(str(locate(part.images, row["ImageID"]).path))
    strays, left_out = DiskMap(), Counter[str]()
    for folder in {part.images: None for part in opened}:
        for name in find_files(folder, left_out):
            if _is_stray(name) and str(folder / name) not in listed:
                strays.add(str(folder / name))
    remarks = [part.remarks for part in opened]
    return Rows(
        _rows(opened, strays),
        num_rows + len(strays),
        blanks,
        lambda: [text for each in remarks for text in each()],
        left_out=left_out,
    )


def _open(name: str, options: Options, blanks: Counter[str]) -> _Opened | None:
    csv, images, metadata = (getattr(options, name + end) for end in ("", "_images", "_metadata"))
    if csv is None and images is None and metadata is None:
        return None
    if csv is None or images is None:
        raise SourceError(
            f"skincon: --{name} CSV and --{name}-images DIR go together; one of them is not given"
        )
    half, table = HALVES[name], Table(csv)
    table.need(["ImageID", *CONCEPTS])
    first = next(iter(table), (0, ""))[1]
    if isinstance(first, dict) and not half.name.fullmatch(first["ImageID"]):
        raise SourceError(
            f"{csv}: names pictures such as {first['ImageID']!r}; {name}'s are called like {half.example!r}"
        )
    need_folder(images, f"{name}'s pictures")
    if metadata is None:
        return _Opened(half, table, images, None, None)
    metadata_table = Table(metadata)
    return _Opened(half, table, images, _metadata(half, metadata_table, blanks), metadata_table)


def _metadata(half: Half, table: Table, blanks: Counter[str]) -> DiskMap:
    values = DiskMap()
    table.need([half.key, half.skin, half.disease])
    skin = next(name for name in half.skin if name in table.columns)
    for number, cells in table:
        if isinstance(cells, str):
            raise SourceError(f"{table.path}, row {number}: {cells}")
        row = Row(
            {"key": cells[half.key], "fitzpatrick": cells[skin], "disease": cells[half.disease]}, blanks
        )
        try:
            if key := row.text("key"):
                values.add(key, [row.skin_type("fitzpatrick"), row.text("disease"), row.remarks])
        except RowError as error:
            raise SourceError(f"{table.path}, row {number}: {error}") from None
    return values


def _rows(opened: list[_Opened], strays: DiskMap) -> Iterator[Candidate | Refusal]:
    for part in opened:
        file, seen = str(part.table.path), DiskMap()
        for number, row in part.table:
            try:
                if isinstance(row, str):
                    raise RowError("bad_row", row)
                if not seen.add(row["ImageID"]):
                    raise RowError("listed_twice", f"{row['ImageID']} is in an earlier row")
                yield _candidate(part, file, number, row)
            except RowError as error:
                name = str(part.images / row["ImageID"]) if isinstance(row, dict) else None
                yield Refusal(file, number, name, error.reason, str(error))
    for stray in strays:
        yield Refusal(stray, None, stray, "not_listed", f"no row of SKINCON names {Path(stray).name}")


def _candidate(part: _Opened, file: str, number: int, row: dict[str, Any]) -> Candidate:
    half, name = part.half, row["ImageID"]
    if is_blank(name):
        raise RowError("bad_row", "names no picture")
    if FLAG in row and is_set(row, FLAG):
        raise RowError("flagged", f"SKINCON says of {name}: {FLAG}")
    concepts = [concept for concept in CONCEPTS if is_set(row, concept)]
    skin, disease, remarks = None, None, []
    if part.metadata is None:
        remarks.append(NO_METADATA)
    else:
        values = part.metadata.get(Path(name).stem if half.key == "md5hash" else name)
        skin, disease, remarks = values or (None, None, [NOT_IN_METADATA])
    if not concepts:
        remarks.append("without any concept")
    fields = {
        "source": half.source,
        "concepts": concepts,
        "disease": disease,
        "class": class_of(disease),
        "fitzpatrick": skin,
        "licence": half.licence,
    }
    place = locate(part.images, name)
    return Candidate(file, number, place.path, fields, (*remarks, *place.remarks))


def is_set(row: dict[str, Any], column: str) -> bool:
    """Whether a column of 0 and 1 is set.

    Raises:
        RowError: another value.
    """
    value = row[column].strip()
    number = whole_number(value)
    if number not in (0, 1):
        raise RowError("bad_value", f"{column!r} is {value!r}; expected 0 or 1")
    return number == 1


def _is_stray(name: str) -> bool:
    """Whether a file is an image that is not named like the many of Fitzpatrick17k that SKINCON left out."""
    return has_image_suffix(name) and not HALVES["fitzpatrick17k"].name.fullmatch(name)
