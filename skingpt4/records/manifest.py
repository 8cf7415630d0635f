"""Manifests: JSONL files of records, checked once and then read through a memory map.

A small manifest is kept in memory. A large one is written, validated, to an Arrow file beside it (hidden, as
private as the manifest itself); later runs map that file and start at once, and all workers share its pages.
"""

from __future__ import annotations

import atexit
import functools
import glob
import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from skingpt4.records import naming
from skingpt4.records.columns import COLUMNS, checked_batch
from skingpt4.records.record import Record, RecordError, record_of
from skingpt4.support.files import move_into_place
from skingpt4.support.regular import BINARY, open_regular

VERSION = 3  # of the reader and of the Arrow file's columns; a file of another version is written again
SMALL_BYTES = 4 * 2**20  # below, parsing takes a fraction of a second and no file is written
BLOCK_BYTES = 4 * 2**20  # of a batch of records: some thousand
MAX_NAME = 180  # bytes of a manifest's name; file systems allow 255, and the Arrow file's name is longer
BOM = b"\xef\xbb\xbf"


class _Part:
    """The checked rows of one manifest: Arrow batches in memory or mapped from `table_path`."""

    def __init__(self, path: Path, batches: list[pa.RecordBatch], table_path: Path | None = None) -> None:
        self.path, self.batches, self.table_path = path, batches, table_path

    def __reduce__(self) -> Any:  # a worker that was not forked opens the map itself
        if self.table_path is None:
            return _Part, (self.path, self.batches)
        return _mapped, (self.path, self.table_path)


def _mapped(path: Path, table_path: Path) -> _Part:
    reader = pa.ipc.open_file(pa.memory_map(os.fsencode(table_path)))  # Arrow takes no lone surrogates
    if reader.schema != COLUMNS:
        raise pa.ArrowInvalid("other columns")
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    return _Part(path, batches, table_path)


class Manifest(Sequence[Record]):
    """The records of one or several manifests, made on access, so that it takes hardly any memory of its own.

    Use `read_manifest` and `chain` to make one.
    """

    def __init__(self, parts: Sequence[_Part] = ()) -> None:
        self.parts = tuple(parts)
        self._batches = [(batch, part) for part in self.parts for batch in part.batches]
        self._ends = np.cumsum([len(batch) for batch, _ in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        batch, place, part = self._place(index)
        return record_of(batch.slice(place, 1).to_pylist()[0], part.path.parent)

    def _place(self, index: int) -> tuple[pa.RecordBatch, int, _Part]:
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, row, side="right"))
        batch, part = self._batches[number]
        return batch, row - (int(self._ends[number]) - len(batch)), part

    def __iter__(self) -> Iterator[Record]:
        """All records in order, a few at a time."""
        for batch, part in self._batches:
            for start in range(0, len(batch), 256):
                for row in batch.slice(start, 256).to_pylist():
                    yield record_of(row, part.path.parent)

    def __add__(self, other: Manifest) -> Manifest:
        return Manifest([*self.parts, *other.parts])

    def __reduce__(self) -> Any:
        return Manifest, (self.parts,)

    def column(self, key: str) -> pa.ChunkedArray:
        """The values of a key (one of `KEYS`, or `line`, from 1) without making the records.

        Names of images are `storable`.
        """
        return pa.chunked_array([batch.column(key) for batch, _ in self._batches], COLUMNS.field(key).type)

    def known(self, key: str) -> np.ndarray:
        """Whether each record has a text or a list under `key` that is not empty: (n,) bool."""
        column = self.column(key)
        length = pc.list_value_length if pa.types.is_list(column.type) else pc.binary_length
        return pc.fill_null(pc.greater(length(column), 0), False).to_numpy()

    def image_path(self, row: int) -> Path:
        """The path of the image of record `row`."""
        batch, place, part = self._place(row)
        return naming.image_path(part.path.parent, batch.column("image")[place].as_py())

    def where(self, row: int) -> str:
        """File and line of a record, for a message."""
        batch, place, part = self._place(row)
        return f"{part.path}, line {batch.column('line')[place].as_py()}"


def chain(manifests: Iterable[Manifest]) -> Manifest:
    """The records of all manifests, one after the other."""
    return Manifest([part for manifest in manifests for part in manifest.parts])


def evenly_spread(count: int, limit: int) -> np.ndarray:
    """Rows of at most `limit` of `count` records, in order: one of each of `limit` equal parts, always the same ones.

    Its place within a part is random: a fixed step meets only some classes of a manifest in which classes take turns.
    """
    if count <= limit:
        return np.arange(count)
    edges = np.arange(limit + 1) * count // max(1, limit)
    return np.random.default_rng((count, limit)).integers(edges[:-1], edges[1:])


def image_paths(records: Manifest, limit: int | None = None) -> list[Path]:
    """The paths of the images: of all records, or of at most `limit` spread evenly over them."""
    rows = evenly_spread(len(records), len(records) if limit is None else limit)
    paths, start = [], 0
    for part in records.parts:
        for batch in part.batches:
            first, last = np.searchsorted(rows, [start, start + len(batch)])
            images = batch.column("image").take(pa.array(rows[first:last] - start)).to_pylist()
            paths += [naming.image_path(part.path.parent, image) for image in images]
            start += len(batch)
    return paths


def manifest_blocks(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(number of the first line from 1, complete lines) of a manifest, some megabytes at a time.

    Only line feeds end a line; the last one may lack its own.

    Raises:
        RecordError: the file is missing or cannot be read.
    """
    path, first = Path(path), 1
    try:
        with open_regular(path) as file:
            while block := file.read(BLOCK_BYTES) + file.readline():
                # Windows editors write a mark at the beginning.
                yield first, block.removeprefix(BOM) if first == 1 else block
                first += block.count(b"\n")
    except FileNotFoundError:
        raise RecordError(f"{path}: no such manifest; prepare one (see data/README.md)") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def manifest_lines(path: str | Path) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, bytes read so far) of each line that is not blank.

    Raises:
        RecordError: the file is missing or cannot be read.
    """
    done = 0
    for first, block in manifest_blocks(path):
        for number, line in enumerate(io.BytesIO(block), first):
            done += len(line)
            if line.strip():
                yield number, line, done


def read_manifest(path: str | Path, cache_dir: str | Path | None = None) -> Manifest:
    """Check a JSONL manifest and open it as a lazy sequence of records.

    Args:
        path: the manifest.
        cache_dir: where a large manifest's Arrow file goes if its own folder cannot be written. Without it,
            or if that fails too, a private temporary folder is used until the process ends.

    Raises:
        RecordError: the file is missing or empty, or a line is not a record; names the line.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size < SMALL_BYTES:
        return Manifest([_Part(path, _not_empty(path, list(_batches(path))))])
    folders = [path.parent, *([Path(cache_dir)] if cache_dir else [])]
    for table_path in (folder / _table_name(path, status) for folder in folders):
        try:
            return Manifest([_mapped(path, table_path)])
        except (OSError, pa.ArrowInvalid):  # not there, or damaged
            continue
    for folder in folders:
        try:
            return Manifest([_build(path, status, folder)])
        except OSError:  # not writable, or full
            continue
    return Manifest([_build(path, status, _temporary_folder())])


def _table_name(path: Path, status: os.stat_result) -> str:
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{VERSION}"
    name = os.fsencode(path.name)
    shown = path.name if len(name) <= MAX_NAME else hashlib.sha256(name).hexdigest()
    return f".{shown}.{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.arrow"


def _build(path: Path, status: os.stat_result, folder: Path) -> _Part:
    """Write the Arrow file completely or not at all; processes that race write the same, and the last one stays."""
    table_path = folder / _table_name(path, status)
    folder.mkdir(parents=True, exist_ok=True)
    part = table_path.with_name(f"{table_path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            if hasattr(os, "fchmod"):  # as private as the manifest; on Windows the folder says who may read
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o666 | 0o600)
            with (
                pa.ipc.new_file(file, COLUMNS) as writer,
                tqdm(total=status.st_size, desc=f"checking {path.name}", unit="B", unit_scale=True) as bar,
            ):
                for batch in _batches(path, bar):
                    writer.write_batch(batch)
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise RecordError(f"{path}: was changed while it was read; run the same again")
        _not_empty(path, _mapped(path, part).batches)
        move_into_place(part, table_path)
    finally:
        part.unlink(missing_ok=True)
    name = table_path.name.removesuffix(".arrow")[:-16]
    for old in folder.glob(f"{glob.escape(name)}{'[0-9a-f]' * 16}.arrow"):  # of the manifest as it was before
        if old.name != table_path.name:
            old.unlink(missing_ok=True)
    return _mapped(path, table_path)


def _batches(path: Path, bar: tqdm | None = None) -> Iterator[pa.RecordBatch]:
    for first, block in manifest_blocks(path):
        batch = checked_batch(block, first, str(path))
        if len(batch):
            yield batch
        if bar is not None:
            bar.update(len(block))


def _not_empty(path: Path, batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if not batches:
        raise RecordError(f"{path}: holds no records; a manifest has one JSON object a line")
    return batches


@functools.cache
def _temporary_folder() -> Path:
    """A folder only this user can read, deleted when this process ends, since it may contain notes."""
    folder, owner = Path(tempfile.mkdtemp(prefix="skingpt4-manifests-")), os.getpid()

    def forget() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(forget)
    return folder
