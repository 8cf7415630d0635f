"""What preparation measures of an image file, on all cores, and the cache that later runs reuse."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import imagehash
import PIL

from skingpt4.records.archives import split_path
from skingpt4.records.comparing.hashes import perceptual_hash
from skingpt4.records.images import PASSING, ImageError, open_image, read_picture, remarks
from skingpt4.records.naming import readable, storable
from skingpt4.support.errors import UserError
from skingpt4.support.locks import has_locks, warn

T = TypeVar("T")
VERSION = f"2, imagehash {imagehash.__version__}, pillow {PIL.__version__}"  # another one measures again
CHUNK = 16  # images that a worker takes at once
CHUNKS_PER_WORKER = 4  # in flight, so that memory does not grow with the source
COMMIT_SECONDS = 2.0
NOT_CACHED = (*PASSING, "no_decoder")  # a decoder may be installed by the next time
MEMORY = ":memory:"


class PreparationError(UserError):
    """Preparation cannot go on; the message says why and what is saved."""


@dataclass(frozen=True, slots=True)
class ImageMeasures:
    """What is known about an image file: its measures, or the reason why it is refused.

    `detail` explains the reason; without one it holds the keys of `records.images.REMARKS` that apply.

    `sha256` of the file's bytes (64 hex digits), `phash` of the upright image (16 hex digits, 64 bits),
    `width` and `height` of the upright image in pixels.
    """

    sha256: str | None = None
    phash: str | None = None
    width: int | None = None
    height: int | None = None
    reason: str | None = None
    detail: str | None = None


def measure(path: str) -> ImageMeasures:
    """Read, decode and hash one image file; never raises for what is wrong with the file."""
    name = readable(Path(path).name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata, would tear the progress bar
            data = read_picture(path, name)
            image = open_image(data, name)
        digest, known = hashlib.sha256(data).hexdigest(), " ".join(remarks(data))
    except ImageError as error:
        return ImageMeasures(reason=error.reason, detail=str(error))
    return ImageMeasures(digest, perceptual_hash(image), image.width, image.height, detail=known or None)


class MeasureCache:
    """Measures of images in a SQLite file: an interrupted run goes on from them and a second run reuses them.

    An image counts as the same while its path, size in bytes and time of change are the same. What may be different
    the next time, such as a file that could not be read, is not saved.

    Args:
        path: opened or created; `:memory:` saves nothing. Where the file system has no locks, a warning says so.

    Raises:
        PreparationError: another run uses it, or it cannot be read or written, at any time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._committed = time.monotonic()
        name, unlocked = self.path, self.path != MEMORY and not has_locks(Path(path).parent)
        if unlocked:  # otherwise SQLite says that another run holds the lock
            warn(self.path)
            name = f"{Path(path).absolute().as_uri()}?nolock=1"
        with self._reported():
            self._base = sqlite3.connect(name, timeout=0, isolation_level=None, uri=unlocked)
            self._base.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._base.execute("PRAGMA cache_size=-8192")
            self._base.execute("BEGIN EXCLUSIVE")
            self._base.execute("CREATE TABLE IF NOT EXISTS about (version TEXT)")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS pictures (path TEXT PRIMARY KEY, bytes INT, changed INT, "
                "sha256 TEXT, phash TEXT, width INT, height INT, reason TEXT, detail TEXT) WITHOUT ROWID"
            )
            if self._base.execute("SELECT version FROM about").fetchall() != [(VERSION,)]:
                self.clear()
                self._base.execute("DELETE FROM about")
                self._base.execute("INSERT INTO about VALUES (?)", (VERSION,))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn SQLite's errors into a sentence."""
        try:
            yield
        except sqlite3.Error as error:
            raise PreparationError(self._sentence(error)) from None

    def _sentence(self, error: sqlite3.Error) -> str:
        if "locked" in str(error):
            return f"{self.path}: another run is using this folder; wait for it, or name another --out-dir"
        if "not a database" in str(error) or "malformed" in str(error):
            return f"{self.path}: is damaged ({error}); delete it, and the images are measured again"
        return f"{self.path}: cannot be read or written ({error})"

    def clear(self) -> None:
        """Forget every image."""
        with self._reported():
            self._base.execute("DELETE FROM pictures")

    def get(self, path: str, stat: os.stat_result) -> ImageMeasures | None:
        """What was measured of this file; None if it is new or has changed."""
        with self._reported():
            row = self._base.execute(
                "SELECT sha256, phash, width, height, reason, detail FROM pictures "
                "WHERE path = ? AND bytes = ? AND changed = ?",
                (storable(path), stat.st_size, stat.st_mtime_ns),
            ).fetchone()
        measures = ImageMeasures(*row) if row else None
        return None if measures is None or measures.reason in NOT_CACHED else measures

    def put(self, path: str, stat: os.stat_result, measures: ImageMeasures) -> None:
        """Save an image's measures; after COMMIT_SECONDS at most they survive a kill."""
        if measures.reason in NOT_CACHED:
            return
        with self._reported():
            self._base.execute(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (storable(path), stat.st_size, stat.st_mtime_ns, *astuple(measures)),
            )
            if time.monotonic() - self._committed > COMMIT_SECONDS:
                self._base.execute("COMMIT")
                self._base.execute("BEGIN")
                self._committed = time.monotonic()

    def close(self) -> None:
        """Save everything that was measured and let other runs in."""
        try:
            with self._reported():
                if self._base.in_transaction:
                    self._base.execute("COMMIT")
        finally:
            self._base.close()


@dataclass(slots=True)
class _Request(Generic[T]):
    """A row on its way: the file's state when it was asked for, and its measures once they are known."""

    row: T
    path: Path | None
    key: str = ""
    stat: os.stat_result | None = None
    measures: ImageMeasures | None = None


class Measurer:
    """Measures images in `workers` processes, a few at a time, and returns them in the order of the rows.

    No process is started before one is needed.
    """

    def __init__(self, cache: MeasureCache, workers: int) -> None:
        self.cache, self.workers = cache, workers
        self.num_measured = 0  # images that were decoded, as opposed to cached
        self._pool: ProcessPoolExecutor | None = None

    def __call__(
        self, rows: Iterable[T], path_of: Callable[[T], Path | None], key_of: Callable[[Path], str]
    ) -> Iterator[tuple[T, ImageMeasures | None]]:
        """Every row with the measures of its image; None for rows without a path.

        Args:
            rows: read only a bounded distance ahead.
            path_of: the image file of a row.
            key_of: the name under which the cache knows a path.

        Raises:
            PreparationError: a worker was killed, most likely for lack of memory.
        """
        waiting: deque[tuple[list[_Request[T]], Future[list[ImageMeasures]] | None]] = deque()
        requests = (self._request(row, path_of(row), key_of) for row in rows)
        for chunk in iter(lambda: list(itertools.islice(requests, CHUNK)), []):
            waiting.append((chunk, self._submit(chunk)))
            if len(waiting) >= self.workers * CHUNKS_PER_WORKER:
                yield from self._finish(*waiting.popleft())
        while waiting:
            yield from self._finish(*waiting.popleft())

    def _request(self, row: T, path: Path | None, key_of: Callable[[Path], str]) -> _Request[T]:
        if path is None:
            return _Request(row, None)
        request = _Request(row, path, key_of(path))
        try:
            request.stat = split_path(path)[0].stat()  # of the archive, for a member
        except (OSError, ValueError):
            request.measures = measure(str(path))  # says that it is missing, and is not cached
        else:
            request.measures = self.cache.get(request.key, request.stat)
        return request

    def _submit(self, chunk: list[_Request[T]]) -> Future[list[ImageMeasures]] | None:
        paths = [
            str(request.path) for request in chunk if request.path is not None and request.measures is None
        ]
        if not paths:
            return None
        if self.workers == 1:
            future: Future[list[ImageMeasures]] = Future()
            future.set_result(_measure_all(paths))
            return future
        if self._pool is None:  # spawn: the same on every system, and no thread's lock is inherited
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _start_worker)
        try:
            with _interrupts_ignored():
                return self._pool.submit(_measure_all, paths)
        except BrokenProcessPool:
            raise PreparationError(_KILLED) from None

    def _finish(
        self, chunk: list[_Request[T]], future: Future[list[ImageMeasures]] | None
    ) -> Iterator[tuple[T, ImageMeasures | None]]:
        try:
            measured = iter(future.result()) if future else iter(())
        except BrokenProcessPool:
            raise PreparationError(_KILLED) from None
        for request in chunk:
            if request.path is not None and request.measures is None:
                request.measures = next(measured)
                self.num_measured += 1
                if request.stat is not None:
                    self.cache.put(request.key, request.stat, request.measures)
            yield request.row, request.measures

    def close(self) -> None:
        """End the workers; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


_KILLED = (
    "a worker process was killed, most likely for lack of memory; what was measured is saved: "
    "run the same command again with fewer --workers"
)


def _measure_all(paths: list[str]) -> list[ImageMeasures]:
    return [measure(path) for path in paths]


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Workers started in the block ignore Ctrl-C from the beginning; the main process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    """End with the main process even where it is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
