"""The catalogue of pretrained weights: `catalogue.yaml`, validated strictly into typed entries."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from skingpt4.support.errors import UserError
from skingpt4.support.files import read_yaml
from skingpt4.weights.names import is_hub_id

HUB = "hf-hub:"  # before the name of a repository of the hub
PATH = Path(__file__).with_name("catalogue.yaml")
# In the order in which an image passes through them; lists are printed in it.
Role = Literal["vision_encoder", "qformer", "encoder", "projection", "language_model"]
ROLES: tuple[Role, ...] = get_args(Role)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CatalogueError(UserError):
    """A catalogue that cannot be read, or a name that is not in it; the message says which."""


class _Strict:
    """What is read from the file has exactly the declared keys and types."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Wheel(_Strict):
    """A network inside a wheel of the package registry; `convert` names its converter."""

    package: str
    version: str
    wheel: str
    wheel_sha256: Sha256
    member: str
    member_sha256: Sha256
    convert: str
    kind: Literal["wheel"] = "wheel"

    @property
    def requirement(self) -> str:
        """The package as pip spells it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Url(_Strict):
    """One file at an address."""

    url: Annotated[str, Field(pattern="^https://")]
    file: str
    sha256: Sha256 | None = None
    kind: Literal["url"] = "url"


@dataclass(frozen=True)
class Repository(_Strict):
    """A repository of the Hugging Face hub; with `tensors` only the shards that hold such a prefix are fetched."""

    repo: str
    revision: str = "main"
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hub(Repository):
    """A hub repository that is used as it is."""

    kind: Literal["hub"] = "hub"


@dataclass(frozen=True)
class Delta(Repository):
    """A hub repository of differences; `base` says what they must be added to."""

    base: str = ""
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True)
class UserFile(_Strict):
    """What only the user can bring: `bring` says what and from where, `file` under which name it is looked for."""

    bring: str
    file: str | None = None
    kind: Literal["user_file"] = "user_file"


Source = Wheel | Url | Hub | Delta | UserFile


@dataclass(frozen=True)
class Gate(_Strict):
    """What has to be accepted before a download is allowed, and on which page."""

    accept: str
    where: str


@dataclass(frozen=True)
class Entry(_Strict):
    """One set of weights.

    `size` is the bytes to download, rounded, or None; `disk_bytes` what a conversion leaves, where there is one.
    `shapes` are tensors that must be there. `config_key` says where a configuration names it.
    """

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]*$")]  # also the name of a directory
    role: Role
    description: str
    licence: str
    config_key: str
    source: Annotated[Source, Field(discriminator="kind")]
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
        return source.repo if isinstance(source, Repository) else "you bring it"


@dataclass(frozen=True)
class _File(_Strict):
    entries: tuple[Entry, ...]
    groups: dict[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Catalogue:
    """All entries by name, and names that stand for several of them.

    `hf-hub:ORG/NAME` is the entry of that repository, or a vision encoder that is not listed.
    """

    entries: dict[str, Entry]
    groups: dict[str, tuple[str, ...]]

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            CatalogueError: there is none; the message has the nearest names.
        """
        if name.startswith(HUB):
            return self._of_hub(name.removeprefix(HUB))
        if name not in self.entries:
            near = difflib.get_close_matches(name, [*self.entries, *self.groups], cutoff=0.5)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise CatalogueError(f"no weights are called {name!r}{hint}; `skingpt4 weights list` shows all")
        return self.entries[name]

    def _of_hub(self, repo: str) -> Entry:
        listed = (e for e in self.entries.values() if getattr(e.source, "repo", None) == repo)
        if entry := next(listed, None):
            return entry
        if repo.count("/") != 1 or not is_hub_id(repo):
            raise CatalogueError(
                f"{HUB}{repo}: write it as {HUB}ORG/NAME, as the hub's page of the model spells it"
            )
        name = repo.rpartition("/")[2].lower()
        if name in self.entries or name in self.groups:
            raise CatalogueError(
                f"{HUB}{repo}: would be put where {name} of the catalogue belongs; download it yourself "
                f"(hf download {repo} --local-dir FOLDER) and name that folder in vision.model"
            )
        return Entry(
            name=name, role="vision_encoder", description=f"{repo}, which the catalogue does not list",
            licence="its own, see its page", config_key="vision.model", source=Hub(repo),
        )  # fmt: skip

    def expand(self, names: Iterable[str]) -> list[str]:
        """Names with groups replaced by their members, each once."""
        return list(dict.fromkeys(member for name in names for member in self.groups.get(name, (name,))))


def fetch_command(path: str) -> str | None:
    """The command that fetches what a configuration names: a file or directory of the weights directory, or a hub id.

    Args:
        path: e.g. `weights/eva_vit_g.pth`, `weights/dinov2-vit-s14-reg4/model.safetensors`, `lmsys/vicuna-7b-v1.5`.

    Returns:
        None where nothing in the catalogue is meant. For a merged Vicuna: the fetch of its delta, and the merge.
    """
    known, parts = catalogue(), Path(path).parts
    for entry in known.entries.values():
        if isinstance(entry.source, Delta) and entry.name.replace("-delta", "") in parts[-2:]:
            return (
                f"skingpt4 weights fetch {entry.name}, then skingpt4 delta --base LLAMA --delta weights/{entry.name} "
                f"--out {path}"
            )
        file = getattr(entry.source, "file", None)
        is_named = parts[-1:] == (file,) if file else entry.name in parts[-2:]
        if is_named or getattr(entry.source, "repo", None) == path:
            group = next((g for g, members in known.groups.items() if entry.name in members), entry.name)
            return f"skingpt4 weights fetch {group}"
    return None


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of this software."""
    return read(PATH)


def read(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises:
        CatalogueError: not YAML, a key that is unknown, missing or of the wrong type, a name used twice.
    """
    try:
        content = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    try:
        # As JSON, because pydantic's strict mode takes a list for a tuple only from there.
        file = TypeAdapter(_File).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise CatalogueError(f"{path}: {_first_problem(error, content)}") from None
    entries: dict[str, Entry] = {}
    for entry in file.entries:
        if entry.name in entries:
            raise CatalogueError(f"{path}: entry {entry.name}: is listed twice")
        entries[entry.name] = entry
    groups = file.groups or {}
    for name, members in groups.items():
        unknown = [member for member in members if member not in entries]
        if unknown or name in entries:
            raise CatalogueError(f"{path}: group {name}: {', '.join(unknown) or 'is also an entry'}")
    return Catalogue(entries, groups)


def _first_problem(error: ValidationError, content: Any) -> str:
    """The first thing that pydantic refuses, with the name of its entry and its key."""
    problem = error.errors()[0]
    place = list(problem["loc"])
    words = []
    if len(place) > 1 and place[0] == "entries":
        number = int(place[1])
        mapping = content["entries"][number]
        words.append(f"entry {mapping.get('name', number + 1) if isinstance(mapping, dict) else number + 1}")
        place = place[2:]
        if len(place) > 1 and place[0] == "source":
            del place[1]  # the kind of source
    if place:
        words.append(".".join(map(str, place)))
    value = problem["input"]
    given = "" if isinstance(value, dict) else f" (it is {value!r})"
    return ": ".join([*words, f"{problem['msg']}{given}"])
