"""One file from the web: continued where an earlier attempt stopped, verified, and complete or not there at all.

huggingface_hub makes the requests and repeats them while a server is busy. Its `snapshot_download` and pooch would do
more, but both delete an unfinished file when the process ends, and one shard of a language model has ten gigabytes;
neither compares what came over HTTP with the checksum that a server announces.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
from tqdm import tqdm

from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import file_sha256, move_into_place

_MARGIN = 64 << 20  # bytes that shall stay free on the disk
_MAX_FAILURES = 5  # broken connections in a row without progress
_TIMEOUT_SECONDS = 30.0
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class DownloadError(UserError):
    """A file that could not be fetched; the message says what, from where and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download; size in bytes and checksum where they are known.

    `digest` is "sha256:HEX", "md5:HEX" or "git-sha1:HEX", the id that git and the hub give a small file.
    """

    name: str
    url: str
    size: int | None = None
    digest: str | None = None


def require_online(what: str) -> None:
    """Refuse to use the network in offline mode.

    Raises:
        DownloadError: one of OFFLINE_VARIABLES is set.
    """
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
            raise DownloadError(f"{what}: the network is not used, because {name} is set; unset it")


def free_bytes(directory: Path) -> int:
    """Free bytes on the disk of a directory that may not exist yet."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_space(directory: Path, num_bytes: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        directory: where it shall go; it, or a parent of it, exists.
        num_bytes: how much is still to be written.
        what: its name, for the message.

    Raises:
        DownloadError: less is free than that and a small margin.
    """
    free = free_bytes(directory)
    if free < num_bytes + _MARGIN:
        raise DownloadError(
            f"{what} needs {(num_bytes + _MARGIN) / 1e6:,.0f} MB in {directory}, {free / 1e6:,.0f} MB are free; "
            "make room or choose another directory"
        )


def remote_file(url: str, name: str, sha256: str | None = None) -> RemoteFile:
    """Ask a server for a file's size and, if no SHA-256 is given, for its MD5, which Google's storage announces.

    Raises:
        DownloadError: offline mode, or the server cannot be reached or refuses.
    """
    require_online(url)
    try:
        response = httpx.head(url, follow_redirects=True, timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{url}: cannot be reached ({reason_of(error)}); check the network") from error
    if response.status_code != 200:
        raise DownloadError(f"{url}: the server answered {response.status_code}")
    length = response.headers.get("content-length", "")
    md5 = re.search(r"md5=([A-Za-z0-9+/]{22}==)", response.headers.get("x-goog-hash", ""))
    digest = f"md5:{base64.b64decode(md5[1]).hex()}" if md5 else None
    return RemoteFile(
        name, url, int(length) if length.isdigit() else None, f"sha256:{sha256}" if sha256 else digest
    )


def download(file: RemoteFile, target: Path, headers: Mapping[str, str] | None = None) -> str:
    """Fetch a file; an earlier, unfinished attempt is continued if size and checksum are known.

    Args:
        file: what to fetch.
        target: the file to write; replaced if it exists. Its directory is made. What has arrived of it is in
            `TARGET.part`, which is kept for the next call unless it is wrong.
        headers: sent with the request; an `authorization` is not sent to another host after a redirect.

    Returns:
        The file's SHA-256 in hex.

    Raises:
        DownloadError: offline mode, refused by the server, broken off, a full disk, wrong size or checksum.
        GatedRepoError: the hub's; the caller knows what has to be accepted.
    """
    require_online(file.name)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer(file, part, headers or {})
        sha256 = _verified_sha256(file, part)
        move_into_place(part, target)
    except OSError as error:
        if isinstance(error, httpx.HTTPError):  # the hub's errors are both
            raise
        raise DownloadError(
            f"{target}: cannot be written ({error.strerror or error}); check the free space and the rights in "
            f"{target.parent}, then run it again"
        ) from error
    return sha256


def _transfer(file: RemoteFile, part: Path, headers: Mapping[str, str]) -> None:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        with part.open("ab") as output:
            # Without a checksum nobody could tell that the file has changed since the earlier attempt.
            if file.size is None or file.digest is None or output.tell() > file.size:
                _empty(output)
            _receive_with_retries(file, output, headers)
            output.flush()
            os.fsync(output.fileno())
    except GatedRepoError:
        raise
    except HfHubHTTPError as error:
        raise DownloadError(
            f"{file.name}: the server answered {error.response.status_code} for {file.url}; check the address, or "
            "run it again later"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(
            f"{file.name}: {file.url} cannot be reached or broke off ({reason_of(error)}); check "
            f"the network and run it again, {part.stat().st_size:,} bytes are kept"
        ) from error
    finally:
        if part.exists() and part.stat().st_size == 0 and file.size != 0:
            part.unlink()
    size = part.stat().st_size
    if file.size not in (None, size):
        raise DownloadError(
            f"{file.name}: {file.url} sent {size:,} bytes in place of {file.size:,}; run it again"
        )


def _receive_with_retries(file: RemoteFile, output: IO[bytes], headers: Mapping[str, str]) -> None:
    furthest, failures = output.tell(), 0
    while output.tell() != file.size or not file.size:
        try:
            return _receive(file, output, headers)
        except httpx.TransportError:
            # A server without ranges makes us start over, so only what goes beyond the best attempt is progress.
            failures = 0 if output.tell() > furthest else failures + 1
            furthest = max(furthest, output.tell())
            if failures == _MAX_FAILURES:
                raise
            time.sleep(2.0**failures)


def _receive(file: RemoteFile, output: IO[bytes], headers: Mapping[str, str]) -> None:
    """Append to `output` what is missing; returns when the server has sent everything."""
    from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

    headers = {"accept-encoding": "identity", **headers}
    if output.tell():
        headers["range"] = f"bytes={output.tell()}-"
    with http_stream_backoff(
        "GET", file.url, headers=headers, timeout=_TIMEOUT_SECONDS, retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the complete file, whatever range was asked for
            _empty(output)
        with tqdm(
            desc=file.name, total=file.size, initial=output.tell(), unit="B", unit_scale=True, disable=None
        ) as bar:
            for chunk in response.iter_raw():
                output.write(chunk)
                bar.update(len(chunk))


def _empty(output: IO[bytes]) -> None:
    if output.tell():
        output.seek(0)
        output.truncate()


def _verified_sha256(file: RemoteFile, part: Path) -> str:
    """The SHA-256 of a part that has the expected checksum; any other is deleted."""
    sha256 = file_sha256(part)
    algorithm, _, expected = (file.digest or f"sha256:{sha256}").partition(":")
    actual = sha256 if algorithm == "sha256" else _hex_digest(part, algorithm)
    if actual != expected:
        part.unlink()
        raise DownloadError(
            f"{file.name}: came with {algorithm}:{actual} instead of {file.digest} from {file.url}; it is damaged or "
            "another file and was deleted, run it again"
        )
    return sha256


def _hex_digest(path: Path, algorithm: str) -> str:
    if algorithm == "git-sha1":
        git_header = b"blob %d\0" % path.stat().st_size
        digest = hashlib.sha1(git_header, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: digest).hexdigest()
