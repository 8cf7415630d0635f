"""Writes a bundle: wheels by pip, this software, weights, checkpoints, install.sh and the SHA-256 sums of all."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skingpt4 import __version__
from skingpt4.support.cli import NOT_A_DEVICE
from skingpt4.support.errors import UserError
from skingpt4.support.files import file_sha256, write_text

if TYPE_CHECKING:
    from skingpt4.cli.deploy.locked import Locked, Target

ROOT = Path(__file__).parents[3]
LEFT_OUT = ("skingpt4/", "tests/", "benchmarks/", ".ci/", ".github/")  # of the application's archive
UNPACKED = 3  # times the size of the wheels: an environment's size, with a margin


class BundleError(UserError):
    """A bundle that cannot be made; the message says why."""


@dataclass(frozen=True)
class Contents:
    """What a bundle shall hold, and for which machine.

    Attributes:
        out: the bundle's folder.
        target: the machine.
        packages: from the lock.
        torch: from `torch_index`, in place of the lock's; the lock has no hashes for them.
        torch_index: the address of an index of PyTorch's, or None.
        trees: folders to copy, by their places in the bundle.
    """

    out: Path
    target: Target
    packages: Sequence[Locked]
    torch: Sequence[Locked]
    torch_index: str | None
    trees: dict[str, Path]


def megabytes(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / 1e6:,.0f} MB"


def tree_bytes(path: Path) -> int:
    """The bytes of all files of a folder, or of one file."""
    return sum(
        file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
    )


def arrived(contents: Contents) -> set[str]:
    """The names of those packages whose wheels are in the bundle with a hash of the lock."""
    from packaging.utils import canonicalize_name, parse_wheel_filename

    hashes = {canonicalize_name(each.name): each for each in contents.packages}
    names = set()
    for path in contents.out.glob("wheels/*.whl"):
        package = hashes.get(parse_wheel_filename(path.name)[0])
        if package is not None and file_sha256(path) in package.hashes:
            names.add(package.name)
    return names


def collect(contents: Contents, wheel_bytes: int) -> None:
    """Write the bundle; SHA256SUMS comes last, so a bundle without it is not complete.

    Raises:
        BundleError: pip or git cannot do its part.
    """
    out = contents.out
    for folder in ("wheels", "own"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "SHA256SUMS").unlink(missing_ok=True)
    lines = _download(contents)
    write_text(out / "requirements.txt", "\n".join(lines) + "\n")
    _add_own(out / "own")
    for place, tree in contents.trees.items():
        _copy(tree, out / place)
    needed_kib = (wheel_bytes * UNPACKED + sum(tree_bytes(tree) for tree in contents.trees.values())) // 1024
    _write_texts(contents, needed_kib)
    wanted = {out / name for name in ("wheels", "own", *contents.trees)}
    files = sorted(
        path for path in out.rglob("*")
        if path.is_file() and (path.parent == out or wanted & set(path.parents))
    )  # fmt: skip
    sums = [f"{file_sha256(path)}  {path.relative_to(out)}\n" for path in files]
    write_text(out / "SHA256SUMS", "".join(sums))
    print(f"{out}: {megabytes(tree_bytes(out))}; copy it to the other machine and run: sh install.sh")


def _download(contents: Contents) -> list[str]:
    """Let pip fetch the wheels that are missing, one at a time, so that each that has arrived stays.

    Returns:
        The lines of a requirements file with the hash of each wheel in the bundle.
    """
    from tqdm import tqdm

    there = arrived(contents)
    for package in tqdm(contents.packages, desc="wheels", unit=" packages"):
        if package.name not in there:
            _pip_download(contents, package.line, "--require-hashes")
    lines = [package.line for package in contents.packages]
    return lines + [_torch_line(contents, package) for package in contents.torch]


def _torch_line(contents: Contents, package: Locked) -> str:
    """Fetch a package from PyTorch's index, which the lock has no hash for; one that is there already stays."""
    wheels = contents.out / "wheels"
    there = [path for path in wheels.glob(f"{package.name}-{package.version}*.whl")
             if file_sha256(path) not in package.hashes]  # fmt: skip
    if not there:
        with tempfile.TemporaryDirectory(dir=wheels) as folder:
            options = ["--index-url", str(contents.torch_index), "--dest", folder]
            _pip_download(contents, f"{package.name}=={package.version}", *options)
            (wheel,) = Path(folder).glob("*.whl")
            there = [wheel.replace(wheels / wheel.name)]
    return f"{package.name}=={package.version} --hash=sha256:{file_sha256(there[0])}"


def _pip_download(contents: Contents, line: str, *options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(line + "\n")
        command = [
            sys.executable,
            "-I",
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--only-binary", ":all:", *contents.target.pip_options, "-r", str(requirements)]
        command += ["--dest", str(contents.out / "wheels"), *options]
        done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        reasons = [text for text in done.stderr.splitlines() if text.startswith("ERROR:")]
        raise BundleError(
            f"pip cannot get {line.split(' ')[0]} ({reasons[-1] if reasons else f'exit code {done.returncode}'}); "
            "check the network and repeat the command: what has arrived stays"
        )


def _add_own(own: Path) -> None:
    """Put this software's wheel and an archive of what runs from a checkout into the bundle."""
    git = shutil.which("git")
    tracked = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if not tracked or tracked.returncode != 0:
        raise BundleError(f"{ROOT}: is not a git checkout, from which a bundle is made")
    names = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name.startswith("skingpt4/") or "/" not in name:
                copy = Path(folder) / "source" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy)
        command = [
            sys.executable,
            "-I",
            "-m",
            "pip",
            "wheel",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--no-index", "--no-build-isolation", "-w", folder, str(Path(folder) / "source")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BundleError(
                f"pip cannot build this software's wheel: {done.stderr.strip().splitlines()[-1:]}"
            )
        for old in own.iterdir():
            old.unlink()
        (wheel,) = Path(folder).glob("*.whl")
        shutil.copyfile(wheel, own / wheel.name)
    with tarfile.open(own / "application.tar.gz", "w:gz") as archive:
        for name in names:
            if not name.startswith(LEFT_OUT):
                archive.add(ROOT / name, name, filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the name of whoever makes the bundle."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder whose links would bring files from elsewhere, such as a private key, into the bundle.

    Raises:
        BundleError: names the first link that leads out of the folder.
    """
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise BundleError(
                f"{path}: is a link to {path.resolve()}, outside {folder}; put the file itself there"
            )


def _copy(source: Path, place: Path) -> None:
    """Copy a file or folder; what is there with the same size and content is not copied again."""
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        copy = place / path.relative_to(source)
        if path.is_file() and not (copy.is_file() and filecmp.cmp(path, copy, shallow=False)):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _write_texts(contents: Contents, needed_kib: int) -> None:
    """install.sh, and a README for whoever finds the folder."""
    import jinja2

    template = Path(__file__).with_name("install.sh.j2").read_text(encoding="utf-8")
    target = contents.target
    facts = {"version": __version__, "python": target.python, "machine": target.machine}
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)  # noqa: S701  (a shell script)
    rendered = environment.from_string(template).render(
        facts, needed_kib=needed_kib, not_a_device=NOT_A_DEVICE
    )
    write_text(contents.out / "install.sh", rendered)
    held = ", ".join(contents.trees) or "none"
    text = (
        f"skingpt4 {__version__} for Linux on {target.machine} with Python {target.python}\n\n"
        f"Install it without a network: sh install.sh [FOLDER]\nThen follow docs/deploy.md in FOLDER/current/app.\n"
        f"Weights and models: {held}\n{NOT_A_DEVICE}\n"
    )
    write_text(contents.out / "README.txt", text)
