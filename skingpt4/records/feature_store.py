"""A folder of cached features: one row for each image of a manifest, written in any order, read through a memory map.

    features.bin  (images, views, q, d) fp16, without a header
    rows.bin      for each image: SHA-256 of its file, CRC-32 of each view's features, whether it is written
    card.json     shape, type, and the SHA-256 of rows.bin; it exists only once every image is written

Several processes write different rows at once. A row counts once its flag is set and its checksums match, so after a
kill only the missing rows are computed; every view is checked against its checksum whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import write_text
from skingpt4.support.locks import acquire
from skingpt4.support.parse import read_json_object
from skingpt4.support.regular import BINARY

DATA, ROWS, CARD, LOCK = "features.bin", "rows.bin", "card.json", "lock"
DTYPE = "float16"
_ITEM_BYTES = 2


class FeatureError(UserError):
    """Features that cannot be stored or read; the message says where and what to do."""


@dataclass(frozen=True)
class StoreShape:
    """The shape of a store's features, as its card has it."""

    num_pictures: int
    num_views: int
    num_queries: int
    width: int
    dtype: str = DTYPE

    @property
    def view_bytes(self) -> int:
        """Bytes of one view's features."""
        return self.num_queries * self.width * _ITEM_BYTES

    @property
    def picture_bytes(self) -> int:
        """Bytes of all views of an image."""
        return self.num_views * self.view_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of the complete store."""
        return self.num_pictures * (self.picture_bytes + self.row_type.itemsize)

    @property
    def row_type(self) -> np.dtype:
        """The type of an entry of rows.bin."""
        return np.dtype([("picture", "u1", 32), ("crc", "<u4", (self.num_views,)), ("done", "u1")])


class FeatureStore:
    """A complete store, mapped into memory, so that all processes share it.

    Raises:
        FeatureError: it is incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            card = read_json_object(folder / CARD)
            rows = (folder / ROWS).read_bytes()
            num_bytes = (folder / DATA).stat().st_size
        except (OSError, ValueError):
            raise self._damaged() from None
        try:
            self.shape, rows_sha256 = StoreShape(**card["shape"]), card["rows_sha256"]
        except (KeyError, TypeError):  # JSON, but not a card
            raise self._damaged() from None
        sound = hashlib.sha256(rows).hexdigest() == rows_sha256 and self.shape.dtype == DTYPE
        if not sound or num_bytes != self.shape.num_pictures * self.shape.picture_bytes:
            raise self._damaged()
        self.rows = np.frombuffer(rows, self.shape.row_type)
        self.data = _mapped(folder, self.shape)

    def _damaged(self) -> FeatureError:
        return FeatureError(
            f"{self.folder}: cached features are damaged; delete that folder, and they are computed again"
        )

    def __len__(self) -> int:
        return self.shape.num_pictures

    def __getitem__(self, row: int | Sequence[int]) -> Tensor:
        """The first view of an image (q, d), or of several (n, q, d), fp16.

        Raises:
            FeatureError: its checksum does not match.
        """
        if isinstance(row, int | np.integer):
            return self.view(int(row), 0)
        return torch.stack([self.view(r, 0) for r in row])

    def view(self, row: int, view: int) -> Tensor:
        """Features (q, d) fp16 of a view of an image.

        Raises:
            FeatureError: the checksum does not match.
        """
        bits = self.data[row, view]
        if zlib.crc32(bits) != self.rows["crc"][row, view]:
            raise self._damaged()
        features = torch.from_numpy(np.array(bits)).view(torch.float16)
        return features.view(self.shape.num_queries, self.shape.width)


def _mapped(folder: Path, shape: StoreShape) -> np.ndarray:
    """(images, views, q * d) int16 bits, read only."""
    sizes = (shape.num_pictures, shape.num_views, shape.num_queries * shape.width)
    return np.memmap(folder / DATA, np.int16, "r", shape=sizes)


def is_complete(folder: Path) -> bool:
    """Whether a store has its card, which is written last."""
    return (folder / CARD).is_file()


def missing_bytes(folder: Path, shape: StoreShape) -> int:
    """Bytes that a store still needs on the disk."""
    written = sum(p.stat().st_blocks * 512 for name in (DATA, ROWS) if (p := folder / name).is_file())
    return max(0, shape.num_bytes - written)


def require_space(folder: Path, shape: StoreShape) -> str:
    """A line on the size of a store that will be written and on the free disk space.

    Raises:
        FeatureError: it does not fit.
    """
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free, needed = shutil.disk_usage(existing).free, missing_bytes(folder, shape)
    views = f" x {shape.num_views} views" if shape.num_views > 1 else ""
    line = (
        f"{shape.num_pictures} pictures{views}, {_size(shape.num_bytes)} in {folder}; {_size(free)} are free"
    )
    if needed > free:
        raise FeatureError(
            f"data.feature_cache: does not fit: {line}; free the disk, name another folder, or lower "
            "data.feature_views"
        )
    return line


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one run at a time fill a folder, while others wait. The lock ends with its process.

    Raises:
        FeatureError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise FeatureError(f"data.feature_cache: {folder} cannot be written ({reason_of(error)})") from None
    with file:
        with suppress(OSError):  # a file system without locks: two runs would write the same features
            acquire(file.fileno(), wait=True)
        yield


def _write_at(descriptor: int, data: bytes, place: int) -> None:
    """`os.pwrite`, which Windows lacks; a writer is used by one thread."""
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, data, place)
    else:
        os.lseek(descriptor, place, os.SEEK_SET)
        os.write(descriptor, data)


class FeatureWriter:
    """Fills a store, as one of several processes; opens the files that `prepare` made.

    Raises:
        FeatureError: they are not there, or cannot be written.
    """

    def __init__(self, folder: Path, shape: StoreShape) -> None:
        self.folder, self.shape = folder, shape
        try:
            self._data = os.open(folder / DATA, os.O_RDWR | BINARY)
            self._rows = os.open(folder / ROWS, os.O_RDWR | BINARY)
        except OSError as error:
            raise FeatureError(
                f"data.feature_cache: {folder} cannot be opened ({reason_of(error)}); several processes need a "
                "folder that all of them share"
            ) from None

    @staticmethod
    def prepare(folder: Path, shape: StoreShape) -> None:
        """Create the files at full size, and reset rows whose checksums do not match; for one of the processes."""
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {
            DATA: shape.num_pictures * shape.picture_bytes,
            ROWS: shape.num_pictures * shape.row_type.itemsize,
        }
        for name, size in sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                with path.open("wb") as file:
                    file.truncate(size)
        rows = np.memmap(folder / ROWS, shape.row_type, "r+", shape=(shape.num_pictures,))
        data = _mapped(folder, shape)
        for row in np.flatnonzero(rows["done"]):
            sums = [zlib.crc32(view) for view in data[row]]
            if sums != rows["crc"][row].tolist():
                rows["done"][row] = 0
        rows.flush()

    def missing(self, rank: int = 0, world: int = 1) -> list[int]:
        """Rows that are not written yet, of every `world`-th from `rank`: no two processes have one in common."""
        done = np.fromfile(self.folder / ROWS, self.shape.row_type)["done"]
        return [int(row) for row in np.flatnonzero(done == 0) if row % world == rank]

    def write(self, row: int, digest: bytes, features: np.ndarray) -> None:
        """Write an image's features, then the entry that marks them as written.

        Args:
            row: of the image.
            digest: SHA-256 of its file, 32 bytes.
            features: (views, q * d) int16 bits.

        Raises:
            FeatureError: the disk is full or cannot be written.
        """
        entry = np.zeros(1, self.shape.row_type)
        entry["picture"][0] = np.frombuffer(digest, np.uint8)
        entry["crc"][0] = [zlib.crc32(view) for view in features]
        entry["done"][0] = 1
        try:
            _write_at(self._data, features.tobytes(), row * self.shape.picture_bytes)
            _write_at(self._rows, entry.tobytes(), row * self.shape.row_type.itemsize)
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for file in (self._data, self._rows):
                os.fsync(file)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            for file in (self._data, self._rows):
                os.close(file)

    def _unwritable(self, error: OSError) -> FeatureError:
        return FeatureError(f"{self.folder}: cannot be written ({reason_of(error)})")

    @staticmethod
    def finish(folder: Path, shape: StoreShape) -> None:
        """Write the card; for one of the processes, after all have closed.

        Raises:
            FeatureError: rows are missing.
        """
        rows = np.fromfile(folder / ROWS, shape.row_type)
        if not rows["done"].all():
            raise FeatureError(f"{folder}: features of {int((rows['done'] == 0).sum())} pictures are missing")
        card = {"shape": asdict(shape), "rows_sha256": hashlib.sha256(rows.tobytes()).hexdigest()}
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")


class CachedFeatures:
    """Features by the SHA-256 of their image's file, from other complete stores of the same kind."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = stores  # their rows are sorted by the first eight bytes of the hashes
        keys = np.concatenate([_first_bytes(store.rows["picture"]) for store in stores])
        places = [(number, row) for number, store in enumerate(stores) for row in range(len(store))]
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], np.array(places)[order]

    @classmethod
    def of(cls, folders: Sequence[Path]) -> CachedFeatures | None:
        """Those of the complete stores among some folders; None if there are none. Damaged stores are skipped."""
        stores = []
        for folder in folders:
            if is_complete(folder):
                with suppress(FeatureError):
                    stores.append(FeatureStore(folder))
        return cls(stores) if stores else None

    def find(self, digest: bytes) -> np.ndarray | None:
        """(views, q * d) int16 bits of an image, or None if no store has them undamaged."""
        key = _first_bytes(np.frombuffer(digest, np.uint8)[None])[0]
        first, last = (int(np.searchsorted(self._keys, key, side)) for side in ("left", "right"))
        for number, row in self._places[first:last]:
            store = self.stores[number]
            if store.rows["picture"][row].tobytes() == digest:
                features = np.array(store.data[row])
                if [zlib.crc32(view) for view in features] == store.rows["crc"][row].tolist():
                    return features
        return None


def _first_bytes(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
