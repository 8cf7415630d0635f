"""Public data sets that are a table beside a folder of pictures: HAM10000, PAD-UFES-20, DDI, Fitzpatrick17k, SkinCAP.

A `Layout` says how the table of one of them names what a record knows; everything else is the same for all.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from data.reading.fields import Row, treat_phi
from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, RowError, Rows
from data.reading.tables import DiskMap, Table, need_folder
from skingpt4.records.archives import exists
from skingpt4.records.naming import Located, locate

Columns = str | tuple[str, ...]  # several: names that releases of the table have used
BOOLEANS = ("true", "false")


@dataclass(frozen=True)
class Layout:
    """A table's columns; `texts`, `identifiers` and `own` are {key of a record: column}, `captions` references."""

    name: str
    help: str
    epilog: str
    licence: str
    image: str
    disease: str
    fitzpatrick: Columns | None = None
    texts: dict[str, str] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    captions: Columns | None = None


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
        parser.add_argument(
            "--images",
            type=Path,
            metavar="DIR",
            help="the pictures, also in folders of it (default: CSV's folder)",
        )
        parser.add_argument(
            "--phi", choices=("refuse", "redact", "allow"), default="refuse",
            help="rows with what seems to identify a person: refuse them, replace it, or keep it and record that",
        )  # fmt: skip

    def read(self, options: PublicOptions) -> Rows:
        """Check the header and the folder, then return the rows.

        Raises:
            SourceError: the table or folder is missing, or a column is.
        """
        table, layout = Table(options.file), self.layout
        table.need([layout.image, layout.disease, *layout.identifiers.values()])
        for columns in (layout.fitzpatrick, layout.captions):
            if columns:
                table.need([columns])
        pictures = Pictures(
            need_folder(options.images or options.file.parent, f"the pictures of {layout.name}")
        )
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
                fields = self._fields(row)
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
            choices = (names,) if isinstance(names, str) else names or ()
            present = next((name for name in choices if name in table.columns), None)
            if present:
                columns[key] = present
        return columns

    def _fields(self, row: Row) -> dict[str, Any]:
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
            raise RowError("no_label", f"has no {self.layout.disease}")
        if note:
            fields |= {"note": note, "x_references": [note]}
        return fields


def _own(text: str | None) -> str | None:
    """A value of an own key: TRUE and True are the same."""
    return text.lower() if text is not None and text.lower() in BOOLEANS else text


class Pictures:
    """The pictures of a folder, found by path or, wherever they are in it, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] | None = None

    def find(self, written: str) -> Located:
        """The picture that a table names, with or without folder and suffix.

        Raises:
            RowError: pictures of different content have that name.
        """
        place = locate(self.folder, written)
        if exists(place.path):
            return place
        last = PurePath(written.replace("\\", "/")).name
        names = self._names().get(last.casefold(), [])
        sizes = {os.path.getsize(self.folder / name) for name in names}
        if len(sizes) > 1:  # mirrors hold the same pictures twice; these are others
            raise RowError("bad_row", f"{last!r} fits several pictures: {' and '.join(names[:3])}")
        return Located(self.folder / names[0]) if names else place

    def _names(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = {}
            for name in find_files(self.folder, Counter()):
                path = PurePath(name)
                for key in dict.fromkeys((path.name.casefold(), path.stem.casefold())):
                    self._by_name.setdefault(key, []).append(name)
        return self._by_name


HAM10000 = Layout(
    name="ham10000",
    help="HAM10000: dermatoscopic pictures of seven diagnoses, by lesion",
    epilog="""CSV is HAM10000_metadata.csv (or .tab); DIR holds its pictures, also in the folders of the archives.
Pictures of one lesion share `patient_id` (HAM10000 names no patients), so that data.split keeps them together.

  python -m data.prepare ham10000 downloads/ham10000/HAM10000_metadata.csv
  python -m data.split runs/data/ham10000/all.jsonl --out-dir runs/data/ham10000
  python -m eval.cases sample runs/data/ham10000/test.jsonl --task ham10000_7 --all --out cases.jsonl""",
    licence="HAM10000, Harvard Dataverse: not for commercial use; see its terms",
    image="image_id",
    disease="dx",
    texts={"body_site": "localization"},
    identifiers={"patient_id": "lesion_id"},
    own={"x_lesion_id": "lesion_id", "x_dx": "dx", "x_dx_type": "dx_type", "x_age": "age", "x_sex": "sex"},
)
PAD_UFES_20 = Layout(
    name="pad_ufes_20",
    help="PAD-UFES-20: phone pictures of six diagnoses, by patient",
    epilog="""CSV is metadata.csv; DIR holds imgs_part_1 to imgs_part_3 (or the pictures themselves).

  python -m data.prepare pad_ufes_20 downloads/pad-ufes-20/metadata.csv
  python -m data.split runs/data/pad_ufes_20/all.jsonl --out-dir runs/data/pad_ufes_20
  python -m eval.cases sample runs/data/pad_ufes_20/test.jsonl --task pad_ufes_20_6 --all --out cases.jsonl""",
    licence="PAD-UFES-20, Mendeley Data; see its terms",
    image="img_id",
    disease="diagnostic",
    fitzpatrick=("fitspatrick", "fitzpatrick"),
    texts={"body_site": "region"},
    identifiers={"patient_id": "patient_id"},
    own={
        "x_lesion_id": "lesion_id", "x_diagnostic": "diagnostic", "x_biopsed": "biopsed", "x_age": "age",
        "x_sex": "gender",
    },
)  # fmt: skip
DDI = Layout(
    name="ddi",
    help="DDI: pictures of three groups of skin tones with malignancy",
    epilog="""CSV is ddi_metadata.csv; DIR holds 000001.png and so on. `x_malignant` is true or false.

  python -m data.prepare ddi downloads/ddi/ddi_metadata.csv
  python -m eval.cases sample runs/data/ddi/all.jsonl --task ddi_malignancy --all --out cases.jsonl""",
    licence="Stanford's research use agreement for DDI; not to be shared",
    image="DDI_file",
    disease="disease",
    fitzpatrick="skin_tone",
    own={"x_malignant": "malignant"},
)
FITZPATRICK17K = Layout(
    name="fitzpatrick17k",
    help="Fitzpatrick17k: 114 labels with skin types (for its concepts see skincon)",
    epilog="""CSV is fitzpatrick17k.csv with either header; DIR holds MD5.jpg, which fitzpatrick17k-images downloads.

  python -m data.prepare fitzpatrick17k downloads/fitzpatrick17k.csv --images downloads/fitzpatrick17k
  python -m data.split runs/data/fitzpatrick17k/all.jsonl --out-dir runs/data/fitzpatrick17k
  python -m eval.cases sample runs/data/fitzpatrick17k/test.jsonl --task fitzpatrick17k_9 --out cases.jsonl""",
    licence="CC BY-NC-SA 3.0 (labels); the pictures belong to the atlases they come from",
    image="md5hash",
    disease="label",
    fitzpatrick=("fitzpatrick_scale", "fitzpatrick"),
    own={
        "x_nine_partition": "nine_partition_label", "x_three_partition": "three_partition_label", "x_qc": "qc",
    },
)  # fmt: skip
SKINCAP = Layout(
    name="skincap",
    help="SkinCAP: captions by dermatologists on pictures of Fitzpatrick17k and DDI",
    epilog="""CSV is SkinCAP's table; DIR holds its folder of pictures. The caption becomes the record's note (what
step 2 teaches) and x_references (what a written answer is compared with).

  python -m data.prepare skincap downloads/skincap/skincap_v240623.csv
  python -m eval.cases sample runs/data/skincap/all.jsonl --task skincap_captions --all --out cases.jsonl""",
    licence="SkinCAP; see its terms, and those of Fitzpatrick17k and DDI",
    image="skincap_file_path",
    disease="disease",
    captions=("caption_zh_polish_en", "caption_en"),
)
LAYOUTS = (HAM10000, PAD_UFES_20, DDI, FITZPATRICK17K, SKINCAP)


CaseFields = tuple[dict[str, Any], tuple[str, ...]]  # a case's fields, and remarks about them


def candidates_of_case(
    file: str, number: int, names: Sequence[str], pictures: Pictures, read: Callable[[], CaseFields]
) -> Iterator[Candidate | Refusal]:
    """A row for every picture of a case, all with the case's fields, or a refusal of each.

    Args:
        file: that names the case, at
        number: its row.
        names: of the case's pictures.
        pictures: where they are.
        read: the case's fields, and remarks; it raises RowError where it cannot be used.
    """
    try:
        fields, remarks = read()
        places = [pictures.find(name) for name in names]
    except RowError as error:
        for name in names or (None,):
            yield Refusal(file, number, name, error.reason, str(error))
        return
    for place in places:
        yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))
