"""Dermnet in its Kaggle layout, `train|test/<folder>/<file>.jpg` (step 2)."""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, Rows, SourceError
from data.reading.tables import DiskMap, need_folder, some_names
from skingpt4.records.folders import class_folders
from skingpt4.records.naming import readable
from skingpt4.taxonomy.taxonomy import DermnetFolder, UnknownName, dermnet_folder, disease, written_out

HELP = "Dermnet's 23 folders of diagnoses in the Kaggle layout (step 2)"
EPILOG = """DIR holds train/ and test/ (one of them will do), each with Dermnet's class folders. A record's case is
FOLDER/NAME, so that pictures of the same name in train/ and test/ stay in the same split.

The diagnosis is the beginning of the file's name where that is the exact name of a disease of the folder's class
(basal-cell-carcinoma-nose-12.jpg), else the folder's name without "Photos"; --disease folder takes that always.

  python -m data.prepare dermnet downloads/dermnet
  python -m data.split runs/data/dermnet/all.jsonl --out-dir runs/data/dermnet"""

SPLITS = ("train", "test")
LICENCE = "copyright of Dermnet; not to be shared"
CLASS_REMARKS = {
    "exact": "with a class whose count equals the paper's (x_class_how: exact)",
    "by name": "with a class by the folder's name alone (x_class_how: by name)",
    "none shown": "without class: the folder is in no row of the paper's table (x_class_how: none shown)",
}
FINER = "with a diagnosis finer than the folder, from the file's name"


@dataclass(frozen=True)
class Options:
    """The folder of the download, and how it is read; see `add_arguments`."""

    folder: Path
    disease: str = "file"
    skip_unknown: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder of the download."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that holds train/ and test/")
    parser.add_argument(
        "--disease",
        choices=("file", "folder"),
        default="file",
        help="where the diagnosis is read (default file)",
    )
    parser.add_argument(
        "--skip-unknown", action="store_true", help="refuse only the pictures of unknown folders"
    )


def read(options: Options) -> Rows:
    """Check the layout and every folder's name, then give the files in order.

    Raises:
        SourceError: no train/ or test/ in the folder, or a folder that is not one of Dermnet's.
    """
    root = need_folder(options.folder, "Dermnet's train/ and test/")
    splits = [split for split in SPLITS if os.path.lexists(root / split)]
    if not splits:
        raise SourceError(
            f"{root}: expected the folders train/ and test/ with Dermnet's class folders in it; "
            f"found {some_names(p.name for p in root.iterdir())}"
        )
    for split in splits:  # also a link to one that is not there now
        need_folder(root / split, "Dermnet's class folders")
    places = [(split, name) for split in splits for name in class_folders(root / split)]
    unknown = [root / split / name for split, name in places if _folder(name) is None]
    if unknown and not options.skip_unknown:
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        try:
            dermnet_folder(unknown[0].name)
        except UnknownName as error:
            raise SourceError(f"{unknown[0]}: {error}{more}; rename it, or add --skip-unknown") from None
    left_out: Counter[str] = Counter()
    files = {split: find_files(root / split, left_out) for split in splits}
    return Rows(
        _rows(root, files, options.disease == "file"),
        sum(map(len, files.values())),
        folders=tuple(f"{split}/{name}" for split, name in places if _folder(name) is not None),
        left_out=left_out,
    )


@functools.cache
def _folder(name: str) -> DermnetFolder | None:
    try:
        return dermnet_folder(name)
    except UnknownName:
        return None


def _rows(root: Path, files: dict[str, DiskMap], by_file: bool) -> Iterator[Candidate | Refusal]:
    for split, names in files.items():
        for name in names:
            path = root / split / name
            folder = _folder(name.split("/")[0])
            if folder is None or "/" not in name:
                detail = f"{name.split('/')[0]!r} is none of Dermnet's class folders"
                yield Refusal(str(path), None, str(path), "unknown_folder", detail)
                continue
            finer = _finer(_stem(path.name), folder.class_name) if by_file else None
            fields = {
                "source": "dermnet",
                "split": split,
                "disease": finer or folder_title(folder.name),
                "class": folder.class_name,
                "x_class_how": folder.how,
                "x_folder": folder.name,
                "case_id": readable(name),
                "licence": LICENCE,
            }
            remarks = (CLASS_REMARKS[folder.how], *([FINER] if finer else []))
            yield Candidate(str(path), None, path, fields, remarks, f"{split}/{name.split('/')[0]}")


def folder_title(name: str) -> str:
    """A folder's name as a diagnosis: without the words for pictures."""
    return re.sub(r" (Photos|pictures)\b", "", name)


def _stem(name: str) -> str:
    """`basal-cell-carcinoma-nose` of `basal-cell-carcinoma-nose-12.jpg`; empty where names follow no such form."""
    match = re.match(r"[a-z]+(?:-[a-z]+)*(?=-?\d*\.)", name)
    return match[0] if match else ""


@functools.lru_cache(10_000)
def _finer(stem: str, class_name: str | None) -> str | None:
    """The longest beginning of the stem that is exactly a disease of the folder's class (or lack of one)."""
    words = stem.split("-") if stem else []
    for length in range(len(words), 0, -1):
        name = " ".join(words[:length])
        term = disease(name)
        if term is not None and term.group == class_name:
            return written_out(name)
    return None
