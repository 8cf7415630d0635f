"""Which packages of requirements.lock a machine needs, which of their wheels fit it, and how large those are.

The lock holds the packages of all systems and all extras. pip judges the conditions in it by the Python that runs it,
also where it downloads for another one, so they are judged here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from skingpt4.support.errors import UserError

ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)\s*(?:;(?P<marker>[^\\]*))?")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
# What only builds of torch for NVIDIA GPUs need; PyTorch's own indexes have builds that bring it along or go without.
GPU_ALONE = re.compile(r"(?:nvidia|cuda)-.*|triton")
TORCH = ("torch", "torchvision")
MACHINES = ("x86_64", "aarch64")
NEWEST_GLIBC = 28  # 2.28: Debian 10, Ubuntu 18.10, RHEL 8, and newer
DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"  # of this pip
JSON = "application/vnd.pypi.simple.v1+json"
TIMEOUT_SECONDS = 30


class LockError(UserError):
    """A lock that does not fit; the message says why."""


@dataclass(frozen=True)
class Target:
    """The machine that a bundle is for: Linux with a Python such as "3.11", and a processor of `MACHINES`."""

    python: str
    machine: str

    @property
    def environment(self) -> dict[str, str]:
        """By which a lock's conditions are judged."""
        return {
            "python_version": self.python, "python_full_version": f"{self.python}.0", "sys_platform": "linux",
            "platform_system": "Linux", "platform_machine": self.machine, "os_name": "posix",
            "implementation_name": "cpython", "platform_python_implementation": "CPython",
        }  # fmt: skip

    @property
    def platforms(self) -> list[str]:
        """Names of all platforms whose wheels run there, the newest first."""
        numbered = [f"manylinux_2_{minor}_{self.machine}" for minor in range(NEWEST_GLIBC, 16, -1)]
        older = [f"manylinux2014_{self.machine}"]
        if self.machine == "x86_64":
            older += [f"manylinux_2_{minor}_x86_64" for minor in range(16, 4, -1)]
            older += ["manylinux2010_x86_64", "manylinux1_x86_64"]
        return [*numbered, *older, f"linux_{self.machine}"]

    @property
    def pip_options(self) -> list[str]:
        """By which `pip download` takes wheels for it alone."""
        platforms = [word for platform in self.platforms for word in ("--platform", platform)]
        abi = f"cp{self.python.replace('.', '')}"
        return [*platforms, "--python-version", self.python, "--implementation", "cp", "--abi", abi]

    @property
    def tags(self) -> frozenset[Tag]:
        """All tags of wheels that it can install."""
        major, minor = (int(part) for part in self.python.split("."))
        name = f"cp{major}{minor}"
        own = cpython_tags((major, minor), [name], self.platforms)
        return frozenset([*own, *compatible_tags((major, minor), name, self.platforms)])


@dataclass(frozen=True)
class Locked:
    """One line of the lock. `hashes` are SHA-256 sums (64 hex digits) of its files for all systems."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def line(self) -> str:
        """As pip reads it, without a condition."""
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{sha256}" for sha256 in self.hashes)]
        )


def read_lock(path: Path, target: Target) -> dict[str, Locked]:
    """The packages of a lock by name, whose conditions are met on a machine.

    Raises:
        LockError: no such file, or a line that is not name==version with hashes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise LockError(f"{path}: no such file; a bundle is made from a checkout of the repository") from None
    packages: dict[str, Locked] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if entry.lstrip().startswith("#") or not entry.strip():
            continue
        parts, hashes = ENTRY.match(entry), tuple(HASH.findall(entry))
        if parts is None or not hashes:
            raise LockError(f"{path}: {entry.splitlines()[0]!r} is not name==version with --hash")
        if parts["marker"] is None or Marker(parts["marker"]).evaluate(target.environment):
            packages[canonicalize_name(parts["name"])] = Locked(parts["name"], parts["version"], hashes)
    return packages


def requirements_of(root: Path, extras: Collection[str]) -> list[Requirement]:
    """What the checkout in a folder requires, with these extras of its pyproject.toml.

    Raises:
        LockError: an extra that does not exist.
    """
    known = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    if unknown := sorted(set(extras) - known.keys()):
        raise LockError(f"--extras: there is no {unknown[0]!r}; there are {', '.join(sorted(known))}")
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    base = [line for line in (line.split("#")[0].strip() for line in lines) if line]
    return [Requirement(line) for line in (*base, *(line for extra in extras for line in known[extra]))]


def needed(lock: dict[str, Locked], required: Sequence[Requirement], target: Target, gpu: bool) -> list[str]:
    """The names of those packages of a lock that a machine needs for these requirements.

    What a package requires itself is read from the environment that runs this.

    Args:
        lock: of that machine.
        required: to begin with.
        target: the machine.
        gpu: whether the lock's own torch, for NVIDIA GPUs, is used.

    Raises:
        LockError: the lock lacks a package.
    """
    names: set[str] = set()
    waiting: list[tuple[Requirement, str, tuple[str, ...]]]
    waiting = [(requirement, "this software", ("",)) for requirement in required]
    while waiting:
        requirement, parent, extras = waiting.pop()
        environments = [target.environment | {"extra": extra} for extra in extras]
        if requirement.marker and not any(requirement.marker.evaluate(each) for each in environments):
            continue
        name = canonicalize_name(requirement.name)
        if name not in lock:
            raise LockError(f"requirements.lock lacks {name}, which {parent} needs; lock it again")
        if name not in names or requirement.extras:
            names.add(name)
            waiting += [(child, name, ("", *requirement.extras)) for child in _requirements(name)]
    names = {name for name in names if not GPU_ALONE.fullmatch(name)}
    return sorted(names | ({name for name in lock if GPU_ALONE.fullmatch(name)} if gpu else set()))


def _requirements(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:  # only other machines have it; what it needs, others need too
        return []


def index_url() -> str:
    """The package index that pip uses here."""
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"].rstrip("/")
    for arguments in (["-m", "pip", "config", "get", "global.index-url"], ["-c", DEFAULT_INDEX]):
        url = subprocess.run(
            [sys.executable, "-I", *arguments], capture_output=True, text=True
        ).stdout.strip()
        if url:
            break
    return url.rstrip("/")


def wheel_bytes(package: Locked, target: Target, client: httpx.Client, index: str) -> int | None:
    """The size of the wheel that a machine gets of a package, as the index states it; None if it does not."""
    try:
        answer = client.get(f"{index}/{canonicalize_name(package.name)}/", headers={"Accept": JSON})
        files = answer.json()["files"] if answer.status_code == 200 else []
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
    sizes = [
        file["size"]
        for file in files
        if file.get("hashes", {}).get("sha256") in package.hashes
        and isinstance(file.get("size"), int)
        and fits(file["filename"], target)
    ]
    return max(sizes, default=None)


def fits(file_name: str, target: Target) -> bool:
    """Whether a machine can install a wheel of that name."""
    try:
        return bool(parse_wheel_filename(file_name)[3] & target.tags)
    except InvalidWheelFilename:
        return False
