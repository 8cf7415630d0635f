"""A packed manifest and its shards, copied from object storage through fsspec; repeated, it copies what is missing.

Everything after it (features, training, evaluation) reads the copy in place. Only the user's address is asked; fsspec
finds keys and servers where the storage's own tools do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from tqdm import tqdm

from data.preparing.files import complete_file
from skingpt4.records.archives import StoreError, member_names
from skingpt4.records.manifest import manifest_lines, read_manifest
from skingpt4.records.record import parse_line
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import move_into_place

THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
PIECE = 8 * 2**20  # bytes that are in memory at once


class StageError(UserError):
    """A copy that cannot be made; the message says why. Complete shards stay and are not copied again."""


def stage(address: str, out_dir: Path, progress: bool = True) -> Path:
    """Copy a manifest and the shards it names; returns the copied manifest.

    The manifest comes last, so that its existence means that everything is there. A shard whose copy has the size
    that the storage names is not copied again.

    Args:
        address: of the manifest, e.g. ``s3://bucket/packed/train.jsonl``, as fsspec reads it.
        out_dir: gets the manifest and ``shards/``.
        progress: show a bar on stderr.

    Raises:
        StageError: the storage cannot be reached or lacks a file, or the copy cannot be written.
        RecordError: the manifest cannot be used.
    """
    system, remote = _opened(address)
    folder, _, name = remote.rpartition("/")
    target = out_dir / name
    first = out_dir / f".{name}.staged"  # the manifest until all its shards are there
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _copy(system, remote, first, None)
        shards = {shard: _size(system, f"{folder}/{shard}") for shard in _shards(first)}
        with tqdm(
            total=sum(shards.values()), unit="B", unit_scale=True, desc="copying", disable=not progress
        ) as bar:
            for shard, size in shards.items():
                path = out_dir / shard
                if path.is_file() and path.stat().st_size == size:
                    bar.update(size)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                _copy(system, f"{folder}/{shard}", path, bar)
                if path.stat().st_size != size:
                    path.unlink()
                    raise StageError(
                        f"{shard}: arrived with another size than {size} bytes; run the same again"
                    )
                next(member_names(path), None)  # refuses what is not a tar that can be read in place
        with complete_file(target) as out, first.open(encoding="utf-8", errors="surrogateescape") as text:
            out.writelines(text)
        first.unlink()
    except StageError:
        raise
    except StoreError as error:
        raise StageError(f"{error}; pack it with python -m data.pack") from None
    except Exception as error:  # each storage has its own exceptions
        raise StageError(f"{address}: cannot be copied ({reason_of(error)})") from None
    return target


def _opened(address: str) -> tuple[Any, str]:
    """The storage of an address, and the path in it."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname not in THIS_MACHINE:
        raise StageError(f"{parts.scheme}://{parts.hostname}: pictures would travel unencrypted; use https")
    try:
        system, remote = fsspec.core.url_to_fs(address)
    except ImportError as error:  # a storage whose package is not installed
        raise StageError(f"{parts.scheme}: {str(error).splitlines()[0]}") from None
    except Exception as error:
        raise StageError(f"{address}: is no address of a storage ({reason_of(error)})") from None
    return system, str(remote)


def _size(system: Any, remote: str) -> int:
    try:
        return int(system.size(remote))
    except FileNotFoundError:
        raise StageError(f"{remote}: is not in the storage, but the manifest names it") from None


def _shards(manifest: Path) -> Iterator[str]:
    """The shards that a manifest names, each once."""
    read_manifest(manifest)  # every line is a record
    seen = set()
    for number, line, _ in manifest_lines(manifest):
        image = PurePosixPath(parse_line(line, f"line {number}")["image"])
        place = next((k for k, part in enumerate(image.parts) if part.endswith(".tar")), None)
        if place is None:
            raise StageError(
                f"line {number}: the picture is in no tar shard; pack it with python -m data.pack"
            )
        shard = PurePosixPath(*image.parts[: place + 1])
        if shard.is_absolute() or ".." in shard.parts:
            raise StageError(f"line {number}: the shard {shard} lies outside the manifest's folder")
        if shard not in seen:
            seen.add(shard)
            yield str(shard)


def _copy(system: Any, remote: str, path: Path, bar: tqdm | None) -> None:
    """Copy one file, which is there when it is complete."""
    part = path.with_name(f"{path.name}.part")
    try:
        with system.open(remote, "rb") as source, part.open("wb") as file:
            while piece := source.read(PIECE):
                file.write(piece)
                if bar is not None:
                    bar.update(len(piece))
        move_into_place(part, path)
    finally:
        part.unlink(missing_ok=True)
