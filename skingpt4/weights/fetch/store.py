"""Where weights are in the weights directory, what is recorded beside them, and in which state they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError
from skingpt4.support.parse import read_json_object
from skingpt4.weights.fetch.catalogue import Delta, Entry, Repository, Url, UserFile, Wheel
from skingpt4.weights.files.headers import UnreadableWeights
from skingpt4.weights.files.inspect_directory import inspect

MARKER = "source.json"
# Raise it when a converter begins to write something else: what an older one wrote is then made again.
CONVERTER_VERSION = 1

# What `state` returns, as `list` shows it.
STATES = {
    "yes": "yes",
    "no": "no",
    "own": "yes (brought)",
    "part": "begun",
    "outdated": "out of date",
    "foreign": "in the way",
    "anywhere": "-",
}
PRESENT = ("yes", "own")  # the states in which nothing has to be fetched


class WeightsError(UserError):
    """Weights that are missing, damaged or cannot be fetched; the message says what to do."""


def target(entry: Entry, weights_dir: Path) -> Path | None:
    """The file or directory of an entry; None for what may be anywhere."""
    if isinstance(entry.source, Url):
        return weights_dir / entry.source.file
    if isinstance(entry.source, UserFile):
        return weights_dir / entry.source.file if entry.source.file else None
    return weights_dir / entry.name


def marker_path(entry: Entry, weights_dir: Path) -> Path:
    """The file that records what the files are and where they came from."""
    if isinstance(entry.source, Url):
        return weights_dir / f"{entry.source.file}.{MARKER}"
    return weights_dir / entry.name / MARKER


def part_paths(entry: Entry, weights_dir: Path) -> list[Path]:
    """What an interrupted fetch left, to be continued."""
    if isinstance(entry.source, Url):
        part = weights_dir / f"{entry.source.file}.part"
        return [part] if part.exists() else []
    return sorted(weights_dir.glob(f".{entry.name}-{'[0-9a-f]' * 12}.part"))


def read_marker(entry: Entry, weights_dir: Path) -> dict[str, Any] | None:
    """What `write_marker` wrote, or None if it is missing or damaged."""
    try:
        marker = read_json_object(marker_path(entry, weights_dir))
        files = marker["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return marker if isinstance(files, dict) else None


def write_marker(path: Path, entry: Entry, files: dict[str, str], **origin: Any) -> None:
    """Record name, licence, origin and the SHA-256 of every file."""
    marker = {"name": entry.name, "licence": entry.licence, **origin, "files": files}
    path.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def state(entry: Entry, weights_dir: Path) -> str:
    """One of STATES: "outdated" is of another source or converter or lacks a file, "foreign" was not made here."""
    place = target(entry, weights_dir)
    if place is None:
        return "anywhere"
    if not place.exists():
        return "part" if part_paths(entry, weights_dir) else "no"
    if isinstance(entry.source, UserFile):
        return "own"
    marker = read_marker(entry, weights_dir)
    if marker is None:
        return "foreign" if isinstance(entry.source, Wheel) else "own"
    if isinstance(entry.source, Repository) and marker.get("repo") not in (None, entry.source.repo):
        return "foreign"
    folder = marker_path(entry, weights_dir).parent
    complete = all((folder / file).is_file() for file in marker["files"])
    return "yes" if complete and _same_source(entry, marker) else "outdated"


def _same_source(entry: Entry, marker: dict[str, Any]) -> bool:
    source = entry.source
    if not isinstance(source, Wheel):
        return True  # a hub repository may move on; what was fetched stays what it was
    made_from = [marker.get(key) for key in ("wheel_sha256", "member_sha256", "converter_version")]
    return made_from == [source.wheel_sha256, source.member_sha256, CONVERTER_VERSION]


def require_catalogued(entry: Entry, path: Path) -> None:
    """Read the headers of what arrived and compare them with the catalogue.

    Raises:
        WeightsError: truncated, a page instead of a file, of another kind, or of other shapes.
    """
    try:
        inspection = inspect(path)
    except UnreadableWeights as error:
        raise WeightsError(str(error)) from None
    is_delta = inspection.kind == "vicuna_delta" and isinstance(entry.source, Delta)
    if inspection.problem and not is_delta:
        raise WeightsError(f"{entry.name}: {inspection.problem}")
    if inspection.missing:
        raise WeightsError(f"{entry.name}: {path} lacks {', '.join(inspection.missing[:4])}; get it again")
    for name, shape in entry.shapes.items():
        info = inspection.tensors.get(name) or inspection.tensors.get(f"model.{name}")
        if info is None or info.shape != shape:
            actual = f"has {name} {list(info.shape)}" if info else f"has no {name}"
            raise WeightsError(
                f"{entry.name}: {path} {actual}, it should be {list(shape)}; this is another file than {entry.origin}"
            )


def how_to_fetch(name: str, weights_dir: Path) -> str:
    """The instruction to run the command that fetches it."""
    return f"run `skingpt4 weights fetch {name} --weights-dir {weights_dir}`"
