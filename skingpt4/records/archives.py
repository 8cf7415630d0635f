"""Bytes of images: of plain files, or of members of tar archives (WebDataset shards) and zip files, read in place.

A path with a component that ends in `.tar` or `.zip` and is a file, such as `shards/000000.tar/images/x.jpg`, names a
member. Each archive's headers are read once per process; a member is then one seek and one read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from skingpt4.support.errors import UserError
from skingpt4.support.files import move_into_place
from skingpt4.support.regular import open_regular

ARCHIVES = (".tar", ".zip")
MAX_BYTES = 512 * 2**20  # of a picture's file or of a member, before it is read or inflated
MIN_CACHED = 1000  # members; the index of a smaller archive is made so fast that it is not saved


_MEMBER = re.compile(r"\.(?:tar|zip)/")


class StoreError(UserError):
    """An archive that cannot be used; the message names it and says why."""


class TooLarge(StoreError):
    """A file of more bytes than the reader allows."""


class _Member(NamedTuple):
    """Where a member's bytes begin (in a zip: its local header), and how many it has; in a zip also when packed."""

    offset: int
    size: int
    packed: int | None = None
    crc: int | None = None


@dataclass(frozen=True)
class _Index:
    """Members of an archive by hash of their name, sorted: 24 bytes each (40 in a zip), so a million take 24 MB."""

    names: np.ndarray  # (n,) uint64
    columns: np.ndarray  # (2 or 4, n) uint64, the fields of `_Member`

    def find(self, member: str) -> _Member | None:
        """Where a member is; None if there is no such member."""
        key = np.uint64(_name_hash(member))
        place = int(np.searchsorted(self.names, key))
        if place == len(self.names) or self.names[place] != key:
            return None
        return _Member(*map(int, self.columns[:, place]))


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file or of an archive's member.

    Args:
        path: a file, or an archive's path followed by a member's.
        limit: refuse more bytes than this before reading them.

    Raises:
        FileNotFoundError: no such file or member.
        TooLarge: more than `limit` bytes.
        StoreError: the archive is damaged, encrypted or a compressed tar.
        OSError: the file cannot be read, is a pipe, device or socket, or grows while it is read.
    """
    archive, member = split_path(path)
    with open_regular(archive) as file:
        status = os.fstat(file.fileno())
        place: _Member | None = _Member(0, status.st_size)
        if member:
            place = _index(str(archive), status.st_size, status.st_mtime_ns).find(member)
        if place is None:
            raise FileNotFoundError(f"{archive}: has no member {member}")
        if place.size > limit:
            raise TooLarge(f"{path}: {place.size} bytes is more than {limit}")
        if place.offset + (place.size if place.packed is None else place.packed) > status.st_size:
            raise StoreError(f"{archive}: ends in the middle of {member}")
        if place.packed is not None:
            return _unpacked(file, place, place.packed, f"{archive}: {member}")
        file.seek(place.offset)
        return file.read(place.size) if member else file.read()


def _unpacked(file: IO[bytes], place: _Member, packed: int, name: str) -> bytes:
    """The bytes of a zip file's member, checked against the sum that the archive holds."""
    file.seek(place.offset)
    header = file.read(
        30
    )  # PKWARE's APPNOTE, 4.3.7: flags at 6, method at 8, lengths of name and extra field at 26
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise StoreError(f"{name}: is not where the archive says; copy the archive again")
    flags, method = struct.unpack_from("<HH", header, 6)
    if flags & 1:
        raise StoreError(f"{name}: is encrypted; unpack the archive with its password")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise StoreError(f"{name}: is compressed in a way that is not read in place; unpack the archive")
    file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
    data = file.read(packed)
    try:
        if method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, place.size)
    except (zlib.error, OverflowError):  # also where the archive names more bytes than there can be
        data = b""
    if len(data) != place.size or zlib.crc32(data) != place.crc:
        raise StoreError(f"{name}: is damaged; copy the archive again")
    return data


def num_bytes(path: str | Path) -> int:
    """How many bytes `read_bytes` would return, by the file's or the archive's own word: nothing is read or inflated.

    Args:
        path: as in `read_bytes`.

    Raises:
        FileNotFoundError: no such file or member.
        StoreError: the archive is damaged.
        OSError: it cannot be reached.
    """
    archive, member = split_path(path)
    status = os.stat(archive)
    if not member:
        return status.st_size
    place = _index(str(archive), status.st_size, status.st_mtime_ns).find(member)
    if place is None:
        raise FileNotFoundError(f"{archive}: has no member {member}")
    return place.size


def exists(path: str | Path) -> bool:
    """Whether `read_bytes` would find a file or member there; a damaged archive holds none.

    Args:
        path: as in `read_bytes`.
    """
    try:
        archive, member = split_path(path)
        status = os.stat(archive)
        if not stat.S_ISREG(status.st_mode):
            return False
        return not member or _index(str(archive), status.st_size, status.st_mtime_ns).find(member) is not None
    except (OSError, ValueError, StoreError):
        return False


def split_path(path: str | Path) -> tuple[Path, str]:
    """The file and the member's name in it ('' for a plain file)."""
    text = os.fspath(path)
    for match in _MEMBER.finditer(text):
        archive = text[: match.end() - 1]
        if os.path.isfile(archive):
            return Path(archive), os.path.normpath(text[match.end() :])
    return Path(text), ""


def member_names(archive: Path) -> Iterator[str]:
    """The names of an archive's files, in its order.

    Raises:
        StoreError: the archive is damaged or a compressed tar.
        OSError: it cannot be read.
    """
    if archive.suffix == ".zip":
        yield from (entry.filename for entry in _zip_entries(str(archive)))
        return
    with _readable(str(archive)), tarfile.open(archive, "r:") as tar:
        yield from (entry.name for entry in tar if entry.isreg())


@functools.lru_cache(maxsize=4096)
def _index(archive: str, size: int, modified: int) -> _Index:
    """An archive's index: read from the hidden file beside it if that is of the same state, or made."""
    folder, name = os.path.split(archive)
    index_path = Path(folder, f".{name}.{size}-{modified}.npy")
    try:
        table = np.load(index_path, allow_pickle=False)
        if table.dtype != np.uint64 or table.ndim != 2 or len(table) not in (3, 5):
            raise ValueError("not what this function writes")
        return _Index(table[0], table[1:])
    except (OSError, ValueError, TypeError, EOFError, MemoryError):
        with _readable(archive):
            table = _read_headers(archive, size)
    if table.shape[1] >= MIN_CACHED:
        part = index_path.with_name(f"{index_path.name}.{os.getpid()}.part")
        try:  # a folder that cannot be written costs the time, not the run
            with open(part, "wb") as file:
                np.save(file, table)
            move_into_place(part, index_path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
    return _Index(table[0], table[1:])


def _read_headers(archive: str, size: int) -> np.ndarray:
    """Hashes of names (sorted) and places of all regular members: (3, n) uint64, in a zip (5, n)."""
    rows: list[tuple[int, ...]] = []
    if archive.endswith(".zip"):
        rows = [
            (_name_hash(entry.filename), entry.header_offset, entry.file_size, entry.compress_size, entry.CRC)
            for entry in _zip_entries(archive)
        ]
    else:
        with _readable(archive), tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg():
                    if member.offset_data + member.size > size:
                        raise StoreError(f"{archive}: is truncated in {member.name}; copy it again")
                    rows.append((_name_hash(member.name), member.offset_data, member.size))
                tar.members = []  # type: ignore[attr-defined]  # the list would keep every header
    # Of two members of one name the later counts, as when unpacking: it comes first, and the sort is stable.
    width = len(rows[0]) if rows else 3
    table = np.array(rows[::-1], dtype=np.uint64).reshape(-1, width).T
    return np.ascontiguousarray(table[:, np.argsort(table[0], kind="stable")])


def _zip_entries(archive: str) -> list[zipfile.ZipInfo]:
    with _readable(archive), zipfile.ZipFile(archive) as file:
        return [entry for entry in file.infolist() if not entry.is_dir()]


@contextlib.contextmanager
def _readable(archive: str) -> Iterator[None]:
    """Errors of the libraries as one of ours, which names the archive."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        OverflowError,
        NotImplementedError,
    ) as error:
        kind = archive.rpartition(".")[2]
        raise StoreError(f"{archive}: is not a {kind} archive that can be read in place ({error})") from None


def _name_hash(member: str) -> int:
    normal = os.path.normpath(member).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(normal, digest_size=8).digest(), "little")
