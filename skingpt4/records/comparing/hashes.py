"""Hashes of image files whose records lack them: computed on all cores, and cached beside the manifest."""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from skingpt4.records.archives import StoreError, exists, read_bytes, split_path
from skingpt4.records.images import MAX_BYTES, ImageError, open_image
from skingpt4.support.locks import private_file
from skingpt4.support.threads import num_cores

MIN_CACHED = 200  # images; fewer are hashed so fast that no file is written
CHUNK = 64  # images between two commits
WAIT_SECONDS = 5.0  # for another process that writes the same cache


class Hashes(NamedTuple):
    """SHA-256 of a file's bytes (64 hex digits) and perceptual hash of its image (16 hex digits).

    Both are None without a file that can be read, `phash` alone where the file is not an image.
    """

    sha256: str | None = None
    phash: str | None = None


def perceptual_hash(image: Image.Image) -> str:
    """ImageHash's 64-bit pHash of an upright RGB image, as 16 hex digits."""
    import imagehash  # takes a third of a second, and most manifests have their hashes

    return str(imagehash.phash(image))


def hashes_of(path: str | Path) -> Hashes:
    """The hashes of an image file or of an archive's member; never raises for what is wrong with the file."""
    if not exists(path):
        return Hashes()
    try:
        data = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError, StoreError):
        return Hashes()
    digest = hashlib.sha256(data).hexdigest()
    try:
        return Hashes(digest, perceptual_hash(open_image(data)))
    except ImageError:
        return Hashes(digest)


def file_hashes(manifest: Path, images: Sequence[str], paths: Sequence[Path]) -> list[Hashes]:
    """The hashes of images of one manifest, from its cache where the file is unchanged, else computed.

    Args:
        manifest: the cache is a hidden file beside it, written if there are MIN_CACHED images or more. A folder that
            cannot be written costs the time of the next run, not this one.
        images: as the records name them.
        paths: where they are.
    """
    with closing(_Cache(manifest, len(images) >= MIN_CACHED)) as cache:
        states = [_state(path) for path in paths]
        result = [cache.get(image, state) for image, state in zip(images, states, strict=True)]
        missing = [row for row, hashes in enumerate(result) if hashes is None and states[row]]
        with (
            ThreadPoolExecutor(num_cores()) as pool,
            tqdm(
                total=len(missing), desc=f"hashing pictures of {manifest.name}", unit="picture", delay=1
            ) as bar,
        ):
            for start in range(0, len(missing), CHUNK):
                rows = missing[start : start + CHUNK]
                for row, hashes in zip(rows, pool.map(hashes_of, [paths[row] for row in rows]), strict=True):
                    result[row] = hashes
                    cache.put(images[row], states[row], hashes)
                cache.commit()
                bar.update(len(rows))
    return [hashes or Hashes() for hashes in result]


def _state(path: Path) -> str:
    """What changes with a file's content: size and time of change, of the archive for a member; '' without a file."""
    try:
        status = split_path(path)[0].stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {_versions()}"


@functools.cache
def _versions() -> str:
    return f"imagehash {version('imagehash')} pillow {version('pillow')}"


class _Cache:
    """Hashes by image and state in a SQLite file; without one, or if it fails, nothing is cached."""

    def __init__(self, manifest: Path, wanted: bool) -> None:
        path = manifest.with_name(f".{manifest.name}.hashes.sqlite")
        self._base: sqlite3.Connection | None = None
        if not wanted:
            return
        try:
            private_file(path)
            self._base = sqlite3.connect(path, timeout=WAIT_SECONDS)
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS hashes (image TEXT PRIMARY KEY, state TEXT, sha256 TEXT, phash TEXT)"
            )
        except (OSError, sqlite3.Error):
            self.close()

    def get(self, image: str, state: str) -> Hashes | None:
        if self._base is not None:
            with suppress(sqlite3.Error):
                row = self._base.execute(
                    "SELECT sha256, phash FROM hashes WHERE image = ? AND state = ?", (image, state)
                ).fetchone()
                return Hashes(*row) if row else None
        return None

    def put(self, image: str, state: str, hashes: Hashes) -> None:
        """Remember what was computed; a file that could not be read is tried again by the next run."""
        if self._base is not None and hashes.sha256:
            with suppress(sqlite3.Error):
                self._base.execute(
                    "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (image, state, *hashes)
                )

    def commit(self) -> None:
        if self._base is not None:
            with suppress(sqlite3.Error):
                self._base.commit()

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None
