"""How a picture is named: in tables, manifests and answers, and which file a name means.

A name is a path with `/`, absolute or relative to the folder of the list that holds it; `shards/000000.tar/x.jpg`
is a member of an archive. Bytes of a file's name that are not UTF-8 are lone surrogates in Python (PEP 383):
`readable` shows them, `storable` makes a text of them for databases, and JSON holds them as the escape `\\udce4`.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from pathlib import Path, PurePath
from typing import NamedTuple

from skingpt4.records.archives import exists, split_path

# What Pillow knows of the formats in `records.images.FORMATS`, .hif, by which cameras call HEIF, and DICOM's.
SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".heic", ".heics", ".heif", ".heifs", ".hif",
        ".avif", ".avifs", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
        ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".dcm", ".dicom",
    )
)  # fmt: skip
SLASHES = "found with / where the list writes \\"
SUFFIX = "found with a suffix that the list leaves out"
LETTERS = "found with other capitals, accents or blanks than the list writes"

_SURROGATE = re.compile("[\ud800-\udfff]")
_STORED = re.compile("\0([0-9a-f]{4})")
_UNPRINTABLE = ("Cc", "Zl", "Zp")  # control characters and ends of lines
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_ADDRESS = re.compile(r"(?:^|/)[a-z][a-z0-9+.-]+:/")
_ENCODINGS = ("cp1252", "cp850")
_MAX_SHOWN = 3  # names in a message


class Located(NamedTuple):
    """Where a name leads, and how the file's own name differs from it, if it is there and does."""

    path: Path
    remarks: tuple[str, ...] = ()


def has_image_suffix(name: str) -> bool:
    """Whether a file is called like a picture."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def storable(name: str) -> str:
    """A name as text that every database takes; `from_storable` is its inverse.

    A byte that is not UTF-8 becomes a zero and four digits; no file's name holds a zero, so nothing else reads so.
    """
    return _SURROGATE.sub(lambda match: f"\0{ord(match[0]):04x}", name)


def from_storable(text: str) -> str:
    """The name that `storable` was given."""
    return _STORED.sub(lambda match: chr(int(match[1], 16)), text) if "\0" in text else text


def readable(name: str) -> str:
    """A name for people, as text in one line: other bytes and control characters are shown as `\\xe4`."""
    return "".join(_shown(character) for character in name)


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _UNPRINTABLE or _SURROGATE.match(character):
        return character.encode("unicode_escape").decode("ascii")
    return character


def image_path(folder: Path, name: str) -> Path:
    """The file that a name in a list means.

    Args:
        folder: the list's own.
        name: as the list writes it, or `storable`. Where there is no such file, \\ is read as /.
    """
    path = folder / from_storable(name)
    if "\\" in name and os.sep == "/" and not exists(path):
        slashed = folder / from_storable(name).replace("\\", "/")
        if exists(slashed):
            return slashed
    return path


def name_of(path: Path, folder: Path) -> str:
    """The inverse of `image_path`: relative to the list's folder where the file lies below it, else as it is."""
    for base in (folder, Path(os.path.abspath(folder))):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.as_posix()


class Relative:
    """Names of files in a list that lies in `folder`, relative to it."""

    def __init__(self, folder: Path) -> None:
        real = os.path.realpath(folder)  # .. in a path means the real parent

        @functools.lru_cache(4096)
        def parent_of(parent: str) -> str:
            return Path(os.path.relpath(_without_dots(parent), real)).as_posix()

        self._parent = parent_of

    def __call__(self, path: Path) -> str:
        """The name of a file."""
        parent, name = os.path.split(path)
        return f"{self._parent(parent or os.curdir)}/{name}".removeprefix("./")

    def renamed(self, name: str, folder: Path) -> str:
        """The name, in this list, of what a list in `folder` calls `name`; an absolute one stays as it is."""
        return name if os.path.isabs(name) else self(image_path(folder, name))


def _without_dots(path: str) -> str:
    """The path without `..`, which behind a link means the real parent; links after the last `..` stay links."""
    parts = PurePath(path).parts
    last = len(parts) - parts[::-1].index("..") if ".." in parts else 0
    return os.path.join(os.path.realpath(os.path.join(*parts[:last])), *parts[last:]) if last else path


def locate(folder: Path, written: str) -> Located:
    """The file that a table's cell means.

    It is the file of that name; else the only one of this name with other slashes, other upper and lower case,
    accents in Unicode's other form or in an older encoding, blanks around it, or the suffix that the cell leaves out.

    Args:
        folder: what the names of the table are relative to.
        written: the cell's text.
    """
    path = image_path(folder, written)
    if exists(path):
        return Located(path, () if path == folder / written else (SLASHES,))
    remark, here = "", Path(folder)
    *parents, last = PurePath(written.replace("\\", "/")).parts or ("",)
    for parent in parents:
        if not os.path.isdir(here / parent):  # which is also False for a path that is too long
            folders = [name for name in _same_name(here, parent) if os.path.isdir(here / name)]
            if len(folders) != 1:
                return Located(path)
            parent, remark = folders[0], LETTERS
        here /= parent
    for names, how in (
        ((last,), remark),
        (_same_name(here, last), LETTERS),
        (_same_stem(here, last), remark or SUFFIX),
    ):
        files = [name for name in names if os.path.isfile(here / name)]
        if files:
            return Located(here / files[0], (how,)) if len(files) == 1 else Located(path)
    return Located(path)


def hint(path: str | Path) -> str:
    """What a message about a picture that is not there may add, behind a semicolon; else an empty text."""
    folder, name = os.path.split(os.fspath(path))
    here = Path(folder)
    alike = [other for other in _same_name(here, name) or _same_stem(here, name) if other != name]
    if alike:
        names = " and ".join(f"'{readable(other)}'" for other in alike[:_MAX_SHOWN])
        return f"; there is {names}"
    if _ADDRESS.search(os.fspath(path)):
        return "; it is an address: download the picture and name the file"
    if _WINDOWS.match(name):
        return "; it is a path of a Windows computer: write names relative to the folder of the pictures"
    if split_path(path)[1]:
        return "; the archive has no such member"
    return "" if os.path.isdir(here) else "; its folder is not there"


def _same_name(folder: Path, name: str) -> tuple[str, ...]:
    """Names in a folder that differ only in case, accents' form and blanks around them."""
    return _listing(folder)[0].get(_key(name), ())


def _same_stem(folder: Path, name: str) -> tuple[str, ...]:
    """Names of pictures in a folder that are `name` with a suffix."""
    return _listing(folder)[1].get(_key(name), ())


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _keys(name: str) -> set[str]:
    """The key of a name; of bytes that are not UTF-8 also that of what they are in the encodings of old zip files."""
    if not _SURROGATE.search(name):
        return {_key(name)}
    return {_key(name), *(_key(os.fsencode(name).decode(encoding, "replace")) for encoding in _ENCODINGS)}


Names = dict[str, tuple[str, ...]]


def _listing(folder: Path) -> tuple[Names, Names]:
    try:
        return _listed(os.path.abspath(folder), os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):  # not there, not a folder, or not a path
        return {}, {}


@functools.lru_cache(maxsize=16)
def _listed(folder: str, modified: int) -> tuple[Names, Names]:
    """The names in a folder, as it was at that time, by what is alike in them, and pictures without their suffix."""
    by_name: Names = {}
    by_stem: Names = {}
    for name in sorted(os.listdir(folder)):
        for key in _keys(name):
            by_name[key] = (*by_name.get(key, ()), name)
        if has_image_suffix(name) and not name.startswith("."):
            for key in _keys(os.path.splitext(name)[0]):
                by_stem[key] = (*by_stem.get(key, ()), name)
    return by_name, by_stem
