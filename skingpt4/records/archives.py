"""Bytes of images: of plain files, or of members of tar archives (WebDataset shards), read in place.

A path with a component that ends in `.tar` and is a file, such as `shards/000000.tar/images/x.jpg`, names a
member. Each archive's headers are read once per process; a member is then one seek and one read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skingpt4.support.errors import UserError
from skingpt4.support.files import move_into_place
from skingpt4.support.regular import open_regular

MIN_CACHED = 1000  # members; the index of a smaller archive is made so fast that it is not saved


class StoreError(UserError):
    """An archive that cannot be used; the message names it and says why."""


class TooLarge(StoreError):
    """A file of more bytes than the reader allows."""


@dataclass(frozen=True)
class _Index:
    """Members of an archive by hash of their name, sorted: 24 bytes each, so a million take 24 MB."""

    names: np.ndarray  # (n,) uint64
    offsets: np.ndarray  # (n,) uint64, where a member's bytes begin
    sizes: np.ndarray  # (n,) uint64

    def find(self, member: str) -> tuple[int, int] | None:
        """Offset and size of a member's bytes; None if there is no such member."""
        key = np.uint64(_name_hash(member))
        place = int(np.searchsorted(self.names, key))
        if place == len(self.names) or self.names[place] != key:
            return None
        return int(self.offsets[place]), int(self.sizes[place])


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a file or of an archive's member.

    Args:
        path: a file, or an archive's path followed by a member's.
        limit: refuse more bytes than this before reading them.

    Raises:
        FileNotFoundError: no such file or member.
        TooLarge: more than `limit` bytes.
        StoreError: the archive is damaged or compressed.
        OSError: the file cannot be read, is a pipe, device or socket, or grows while it is read.
    """
    archive, member = split_path(path)
    with open_regular(archive) as file:
        status = os.fstat(file.fileno())
        start, size = 0, status.st_size
        if member:
            place = _index(str(archive), status.st_size, status.st_mtime_ns).find(member)
            if place is None:
                raise FileNotFoundError(f"{archive}: has no member {member}")
            start, size = place
        if limit is not None and size > limit:
            raise TooLarge(f"{path}: {size} bytes is more than {limit}")
        file.seek(start)
        data = file.read(size) if member else file.read()
    if member and len(data) < size:
        raise StoreError(f"{archive}: ends in the middle of {member}")
    return data


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
    start = 0
    while (end := text.find(".tar/", start)) >= 0:
        archive = text[: end + 4]
        if os.path.isfile(archive):
            return Path(archive), os.path.normpath(text[end + 5 :])
        start = end + 5
    return Path(text), ""


@functools.lru_cache(maxsize=4096)
def _index(archive: str, size: int, modified: int) -> _Index:
    """An archive's index: read from the hidden file beside it if that is of the same state, or made."""
    folder, name = os.path.split(archive)
    index_path = Path(folder, f".{name}.{size}-{modified}.npy")
    try:
        return _Index(*np.load(index_path, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError):
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
    return _Index(*table)


def _read_headers(archive: str, size: int) -> np.ndarray:
    """Hashes of names (sorted), offsets and sizes of all regular members: (3, n) uint64."""
    rows: list[tuple[int, int, int]] = []
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.isreg():
                    if member.offset_data + member.size > size:
                        raise StoreError(f"{archive}: is truncated in {member.name}; copy it again")
                    rows.append((_name_hash(member.name), member.offset_data, member.size))
                tar.members = []  # type: ignore[attr-defined]  # the list would keep every header
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise StoreError(f"{archive}: is not a tar archive that can be read in place ({error})") from None
    # Of two members of one name the later counts, as when unpacking: it comes first, and the sort is stable.
    table = np.array(rows[::-1], dtype=np.uint64).reshape(-1, 3).T
    return np.ascontiguousarray(table[:, np.argsort(table[0], kind="stable")])


def _name_hash(member: str) -> int:
    normal = os.path.normpath(member).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(normal, digest_size=8).digest(), "little")
