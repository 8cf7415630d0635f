"""One file from the web to the disk: resumed where it broke off, checksummed while it streams, whole or not there.

What has arrived stands in `TARGET.part`, with the server's validator beside it, so that a killed download goes
on where it was. Only a file of the right size and checksum gets its name. Nothing here knows of models.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
from tqdm import tqdm

from skingpt4.support.errors import UserError

_MAKERS: dict[str, Callable[[int | None], Any]] = {
    "sha256": lambda size: hashlib.sha256(),
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
    # The id that git gives a file; the hub names small files by it.
    "git-sha1": lambda size: hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False),
}

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 20
_MARGIN = 64 << 20  # bytes that shall stay free on the disk
_LONGEST_WAIT = 60.0
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class DownloadError(UserError):
    """A file that could not be fetched; the message says what, from where and what to do.

    `status_code` is the server's answer, if that was the reason, and `headers` are those it came with.
    """

    def __init__(
        self, message: str, status_code: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Keep the server's answer beside the message."""
        super().__init__(message)
        self.status_code, self.headers = status_code, dict(headers or {})


@dataclass(frozen=True)
class Downloaded:
    """A finished file: its path, bytes, SHA-256, and what the server said of it."""

    path: Path
    size: int
    sha256: str
    checked: str | None  # the digest it was compared with, "algorithm:hex", or None where nobody gave one
    content_type: str = ""


def offline() -> str | None:
    """The environment variable that forbids downloads, or None."""
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
            return name
    return None


def free_bytes(directory: Path) -> int:
    """Free bytes on the disk of a directory that may not exist yet."""
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def remote_size(url: str, timeout_seconds: float = 30.0) -> int | None:
    """Bytes that a server says a file has, or None if it does not say.

    Raises:
        DownloadError: offline mode, not reached, or refused.
    """
    if name := offline():
        raise DownloadError(f"{url}: not asked for, since {name} is set; unset it")
    try:
        response = httpx.head(url, follow_redirects=True, timeout=timeout_seconds)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{url}: cannot be asked ({error}); check the network") from error
    if response.status_code != 200:
        raise DownloadError(f"{url}: answered {response.status_code}", response.status_code, response.headers)
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


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


def download(
    url: str,
    target: str | Path,
    *,
    size: int | None = None,
    digest: str | None = None,
    headers: Mapping[str, str] | None = None,
    max_bytes: int | None = None,
    attempts: int = 5,
    backoff_seconds: float = 1.0,
    timeout_seconds: float = 30.0,
    progress: bool = True,
    client: httpx.Client | None = None,
) -> Downloaded:
    """Fetch a URL into a file; an earlier, unfinished attempt is continued.

    Redirects are followed; an `authorization` header is sent to the host of `url` alone. A checksum that the server
    itself publishes (`x-linked-etag` of the Hugging Face hub, `x-goog-hash` of Google's storage) is verified too.

    Args:
        url: http or https.
        target: the file to write; replaced if it exists. Its directory is made.
        size: exact bytes, where known.
        digest: "sha256:HEX", "md5:HEX" or "git-sha1:HEX" (a git blob's id, which needs `size`), where known.
        headers: sent with the request, e.g. ``{"authorization": "Bearer ..."}``.
        max_bytes: refuse what is longer.
        attempts: failures in a row without progress before giving up.
        backoff_seconds: wait after the first of them, doubled each time; the server's `retry-after` goes first.
        timeout_seconds: for connecting and for every piece.
        progress: draw a bar on standard error, if that is a terminal.
        client: for many small files, one client with its open connections; it must follow redirects.

    Returns:
        What was written.

    Raises:
        DownloadError: offline mode, no space, refused by the server, given up, or of wrong size or checksum. What
            arrived is kept for the next call, unless it was wrong.
    """
    target = Path(target)
    if name := offline():
        raise DownloadError(
            f"{target.name}: not downloaded, since {name} is set; unset it, or bring {target}"
        )
    try:
        with contextlib.ExitStack() as stack:
            if client is None:
                client = stack.enter_context(httpx.Client(follow_redirects=True, timeout=timeout_seconds))
            target.parent.mkdir(parents=True, exist_ok=True)
            part = stack.enter_context(_opened(target))
            given = dict(headers or {})
            transfer = _Transfer(client, url, target, part, size, digest, given, max_bytes, progress)
            _with_retries(transfer, attempts, backoff_seconds)
            return transfer.finish()
    except OSError as error:
        raise DownloadError(
            f"{target}: cannot be written ({error.strerror or error}); check the free space and rights of "
            f"{target.parent}, then run it again"
        ) from error


class _Retry(Exception):
    """A passing failure; `seconds` is how long the server wants us to wait."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


def _with_retries(transfer: _Transfer, attempts: int, backoff_seconds: float) -> None:
    failures, best = 0, transfer.have
    while True:
        try:
            return transfer.run()
        except (httpx.TransportError, _Retry) as error:
            # A server without Range support makes us start over: progress is what goes beyond the best so far.
            failures = 0 if transfer.have > best else failures + 1
            best = max(best, transfer.have)
            host = httpx.URL(transfer.url).host
            if failures >= attempts or isinstance(error, httpx.UnsupportedProtocol):
                reason = str(error) or type(error).__name__
                raise DownloadError(
                    f"{transfer.target.name}: {host} cannot be reached or broke off ({reason}); check the network "
                    f"and run it again, {transfer.have:,} bytes are kept"
                ) from error
            wait = max(backoff_seconds * 2**failures / 2, getattr(error, "seconds", 0.0))
            time.sleep(min(wait, _LONGEST_WAIT))


@dataclass
class _Transfer:
    """The state of one file under way."""

    client: httpx.Client
    url: str
    target: Path
    part: IO[bytes]
    size: int | None
    digest: str | None
    headers: dict[str, str]
    max_bytes: int | None
    progress: bool
    have: int = 0
    content_type: str = ""
    hashes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.have = self.part.seek(0, os.SEEK_END)
        # Without a validator or a checksum nobody could tell that the file was changed meanwhile.
        if self.have and not (self.digest or self.validator()):
            self.start_over()

    @property
    def notes(self) -> Path:
        return _beside(self.target, ".part.json")

    def validator(self) -> str | None:
        try:
            held = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(held, dict) and held.get("url") == self.url
        return held.get("validator") if same else None

    def start_over(self) -> None:
        self.part.truncate(0)
        self.have, self.hashes = 0, {}

    def run(self) -> None:
        """One request; returns when the body came to its end."""
        if self.size is not None and self.have > self.size:
            self.start_over()
        if self.have and self.have == self.size:
            return
        headers = {**self.headers, "accept-encoding": "identity"}
        if self.have:
            headers["range"] = f"bytes={self.have}-"
            if validator := self.validator():
                headers["if-range"] = validator
        try:
            with self.client.stream("GET", self.url, headers=headers) as response:
                self.take(response)
        except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise DownloadError(f"{self.url}: cannot be followed ({error}); check the address") from error

    def take(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 416:  # nothing lies behind what we have, so what we have is another file
            self.start_over()
            raise _Retry("416, range not satisfiable")
        if status in _AGAIN:
            raise _Retry(f"answered {status}", _retry_after(response))
        if status not in (200, 206):
            raise DownloadError(
                f"{self.target.name}: {response.url.host} answered {status} {response.reason_phrase} for {self.url}",
                status,
                response.headers,
            )
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if status == 206 and (not begins or int(begins[1]) != self.have):
            self.start_over()
            raise _Retry("sent another part than asked for")
        if status == 200 and self.have:
            self.start_over()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadError(f"{self.url}: comes compressed although it was asked for plainly")
        self.require_agreement(response)
        self.content_type = response.headers.get("content-type", "")
        validator = response.headers.get("etag") or response.headers.get("last-modified")
        if validator and not validator.startswith("W/"):
            self.notes.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")
        self.stream(response)

    def require_agreement(self, response: httpx.Response) -> None:
        """Compare what the server announces with what we were told, before anything is written."""
        length = response.headers.get("content-length", "")
        total = self.have + int(length) if length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            raise DownloadError(
                f"{self.target.name}: {response.url.host} offers {total:,} bytes, {self.size:,} were expected; "
                "the file was replaced there or is not the right one"
            )
        if self.size is None:
            self.size = total
        theirs = announced(response)
        self.digest = self.digest or theirs
        if theirs != self.digest and algorithm(theirs) == algorithm(self.digest):
            raise DownloadError(
                f"{self.target.name}: {response.url.host} announces {theirs}, {self.digest} was expected; "
                "the file was replaced there or is not the right one"
            )
        if self.max_bytes is not None and (total or 0) > self.max_bytes:
            raise DownloadError(f"{self.url}: has {total:,} bytes, more than the {self.max_bytes:,} allowed")
        if total is not None:
            require_space(self.target.parent, total - self.have, self.target.name)

    def stream(self, response: httpx.Response) -> None:
        self.hashes = self.hashes or self.hash_of_part()
        with tqdm(
            desc=self.target.name, total=self.size, initial=self.have, unit="B", unit_scale=True, unit_divisor=1000,
            disable=None if self.progress else True, leave=False,
        ) as bar:  # fmt: skip
            # With a chunk size, what has not filled one would be lost when the connection breaks.
            for chunk in response.iter_raw():
                self.part.write(chunk)
                for known in self.hashes.values():
                    known.update(chunk)
                self.have += len(chunk)
                bar.update(len(chunk))
                if self.max_bytes is not None and self.have > self.max_bytes:
                    self.start_over()
                    raise DownloadError(f"{self.url}: is longer than the {self.max_bytes:,} bytes allowed")

    def hash_of_part(self) -> dict[str, Any]:
        """Hashes that have seen what is there: SHA-256 always, and the algorithm that was asked for."""
        hashes = {name: new_hash(name, self.size) for name in {"sha256", algorithm(self.digest)} - {""}}
        self.part.seek(0)
        for start in range(0, self.have, _CHUNK):
            chunk = self.part.read(min(_CHUNK, self.have - start))
            for known in hashes.values():
                known.update(chunk)
        return hashes

    def finish(self) -> Downloaded:
        """Check the whole and give it its name."""
        if self.size is not None and self.have != self.size:
            raise DownloadError(
                f"{self.target.name}: ended after {self.have:,} of {self.size:,} bytes; run it again"
            )
        name = algorithm(self.digest)
        if not {"sha256", name} - {""} <= self.hashes.keys():
            self.hashes = self.hash_of_part()
        if self.digest:
            found = f"{name}:{self.hashes[name].hexdigest()}"
            if found != self.digest:
                self.start_over()
                raise DownloadError(
                    f"{self.target.name}: came with {found} instead of {self.digest} from {self.url}; it is damaged "
                    "or another file and was deleted, run it again"
                )
        self.part.flush()
        os.fsync(self.part.fileno())
        os.replace(self.part.name, self.target)
        self.notes.unlink(missing_ok=True)
        sha256 = self.hashes["sha256"].hexdigest()
        return Downloaded(self.target, self.have, sha256, self.digest, self.content_type)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextlib.contextmanager
def _opened(target: Path) -> Iterator[IO[bytes]]:
    """`TARGET.part`, for us alone; an empty one is not left behind."""
    path = _beside(target, ".part")
    with path.open("a+b") as part:
        if fcntl is not None:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(
                    f"{target}: another process is downloading it; wait for that one"
                ) from None
        try:
            yield part
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which is told elsewhere
                part.flush()
            if path.exists() and path.stat().st_size == 0:
                path.unlink()
                _beside(target, ".part.json").unlink(missing_ok=True)


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def algorithm(digest: str | None) -> str:
    """The part before the colon, or ""."""
    return (digest or "").partition(":")[0]


def new_hash(name: str, size: int | None) -> Any:
    """An object with `update` and `hexdigest`.

    Args:
        name: sha256, md5 or git-sha1.
        size: bytes of the whole file; git-sha1 begins with them.

    Raises:
        ValueError: another algorithm, or git-sha1 without a size.
    """
    if name not in _MAKERS or (name == "git-sha1" and size is None):
        raise ValueError(f"a checksum '{name}' cannot be computed here")
    return _MAKERS[name](size)


def announced(response: httpx.Response) -> str | None:
    """The checksum of the whole file that a server publishes in its headers, redirects included."""
    for answer in (*response.history, response):
        linked = answer.headers.get("x-linked-etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            return f"sha256:{linked}"
        hashed = re.search(r"md5=([A-Za-z0-9+/]{22}==)", answer.headers.get("x-goog-hash", ""))
        if hashed:
            return f"md5:{base64.b64decode(hashed[1]).hex()}"
    return None
