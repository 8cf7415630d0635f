"""Which files in a folder are pictures, in every command that takes a folder.

Links are followed. Each folder is listed once, under its own name rather than a link's. A link to a folder that is
listed already, or that holds the listed one, is left out, so that no circle is walked. What is left out is counted.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from skingpt4.records.images import FORMATS, prepare_pillow, read_picture
from skingpt4.records.naming import has_image_suffix, hint, name_of
from skingpt4.records.pixels.dicom import PREFIX, is_dicom
from skingpt4.records.pixels.headers import PictureFile
from skingpt4.support.errors import UserError
from skingpt4.support.regular import open_regular

SYSTEM = "files that macOS and Windows add (._*, __MACOSX, .DS_Store, Thumbs.db, desktop.ini)"
HIDDEN = "hidden files and folders"
LISTED = "links to a folder that is listed already or that holds this one"
BROKEN = "links to what is not there"
SPECIAL = "pipes, devices and the like"
UNREADABLE = "folders that cannot be read"
OTHERS = "files that are not pictures"

_SYSTEM_NAMES = frozenset(("__macosx", ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"))
DICOMDIR = "DICOMDIR"  # a list of the files on a medium (PS3.10, 8.6)
_FOLDER, _FILE = "folder", "file"


class FolderError(UserError):
    """A folder without images, or a path that is none; the message says which."""


@dataclass(frozen=True)
class NamedImage:
    """An image file, and the name of the image in its line."""

    name: str
    path: Path


class Files:
    """The files under a folder; iterate over it once.

    Attributes:
        left_out: how many files and folders were left out so far, by reason (the texts above).
        unreadable: the folders that could not be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[str]:
        """Paths relative to the folder, with /, in no order; also of links to a picture that is not there now."""
        listed: set[str] = set()
        top = os.path.realpath(self.root)
        folders, links = [""], deque[str]()
        while folders or links:  # all real folders before the first link, so that these have their own names
            inner = folders.pop() if folders else links.popleft()
            real = os.path.realpath(self.root / inner)
            if real in listed or (inner and os.path.commonpath([real, top]) == real):
                self.left_out[LISTED] += 1
                continue
            listed.add(real)
            subfolders: dict[bool, list[str]] = {False: [], True: []}
            for entry in self._entries(inner):
                name = f"{inner}/{entry.name}" if inner else entry.name
                kind = _never_a_picture(entry.name) or _kind(entry)
                if kind == _FILE:
                    yield name
                elif kind == _FOLDER:
                    subfolders[entry.is_symlink()].append(name)
                else:
                    self.left_out[kind] += 1
            folders += sorted(subfolders[False])
            links += sorted(subfolders[True])

    def _entries(self, inner: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / inner) as entries:
                yield from entries
        except OSError:
            self.left_out[UNREADABLE] += 1
            self.unreadable.append(self.root / inner)


def image_files(files: Files) -> Iterator[str]:
    """Those of a folder's files that are pictures by `is_image`; the others are counted in its `left_out`."""
    for name in files:
        if is_image(files.root / name):
            yield name
        else:
            files.left_out[OTHERS] += 1


def find_images(source: str | Path, left_out: Counter[str] | None = None) -> list[NamedImage]:
    """The images of a folder and its subfolders by name, or of a manifest in its order, or a single image.

    Args:
        source: which of these it is, is seen from what is there; `is_image` says which files are images.
        left_out: counts what in a folder is no image, by reason.

    Raises:
        FolderError: none of these, or a folder without images.
        RecordError: a manifest with a line that is not a record.
    """
    source = Path(source)
    if os.path.isdir(source):
        files = Files(source)
        names = sorted(image_files(files), key=lambda name: name.split("/"))
        if not names:
            raise FolderError("; ".join([f"{source}: holds no pictures", *left_out_lines(files.left_out)]))
        if left_out is not None:
            left_out.update(files.left_out)
        return [NamedImage(name, source / name) for name in names]
    if not os.path.isfile(source):
        raise FolderError(f"{source}: is neither a folder with pictures nor a manifest{hint(source)}")
    if source.suffix.lower() != ".jsonl" and is_image(source):
        return [NamedImage(source.name, source)]
    from skingpt4.records.manifest import (  # imports pyarrow, which folders need not
        image_paths,
        read_manifest,
    )

    unique = {name_of(path, source.parent): path for path in image_paths(read_manifest(source))}
    return [NamedImage(name, path) for name, path in unique.items()]


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """What was left out of a folder, for people: a line for each reason."""
    return [f"left out: {reason}: {count:,}" for reason, count in sorted(left_out.items())]


def is_image(path: Path) -> bool:
    """Whether a file is called like a picture or begins like one; one that cannot be read now may be a picture."""
    if has_image_suffix(path.name):
        return True
    prepare_pillow()
    try:
        with open_regular(path) as file:
            head = file.read(PREFIX)
        if is_dicom(head):
            return path.name.upper() != DICOMDIR
        # Nothing else of a large file is read, and nothing of a picture without the bounds of `PictureFile`.
        Image.init()
        if not any(accepts is None or accepts(head) for _, accepts in map(Image.OPEN.__getitem__, FORMATS)):
            return False
        with Image.open(PictureFile(read_picture(path, path.name)), formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a damaged or far too large picture, or a file that may be read the next time
        return True


def class_folders(root: Path) -> list[str]:
    """Names of the folders directly in a folder, in order; also of links to a folder that is not there now."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not _never_a_picture(entry.name) and _kind(entry) in (_FOLDER, BROKEN)
        )


def _never_a_picture(name: str) -> str | None:
    """The reason why a file or folder of this name is left out."""
    if name.startswith("._") or name.lower() in _SYSTEM_NAMES:
        return SYSTEM
    return HIDDEN if name.startswith(".") else None


def _kind(entry: os.DirEntry[str]) -> str:
    """_FOLDER, _FILE, or the reason why it is left out."""
    try:
        if entry.is_dir():
            return _FOLDER
        if entry.is_file():
            return _FILE
        if os.path.exists(entry.path):
            return SPECIAL
    except OSError:  # a link to itself, or a file system that does not answer
        pass
    return _FILE if has_image_suffix(entry.name) else BROKEN
