"""Who uploaded which file: a page's functions get only files that the same browser uploaded (see gradio_guard.py)."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skingpt4.server.access.sessions import Owner
from skingpt4.support.regular import read_regular

if TYPE_CHECKING:
    import gradio as gr

# The key in a request's scope under which `GradioGuard` puts the uploads that it names, all of them its sender's own.
NAMED = "skingpt4.server.uploads"
FORM_BYTES = 64 * 2**10  # of a request around its file
MIN_BYTES = 64 * 2**10  # what a small file counts for, so that there are not too many
NUM_OF_ONE, NUM_OF_ALL = 4, 16  # of the largest uploads may wait to be read by the page
EXPIRE_SECONDS = 10 * 60


class ForeignFileError(Exception):
    """A request names a file that its sender did not upload, or an address."""


class UploadRefused(Exception):
    """An upload for which there is no room; `key` names the sentence that says why."""

    def __init__(self, status: int, key: str) -> None:
        super().__init__(key)
        self.status, self.key = status, key


@dataclass
class _Upload:
    owner: Owner
    num_bytes: int  # that it may take


class Uploads:
    """The files in a server's upload folder, whose they are, and how many bytes there may be.

    Each upload has a folder of its own with a name that nobody can guess, so two browsers never share a path.
    """

    def __init__(self, folder: str, max_bytes: int) -> None:
        """Begin without uploads.

        Args:
            folder: for this server's uploads alone.
            max_bytes: of one upload. One owner's may take NUM_OF_ONE times as much, all of them NUM_OF_ALL times.
        """
        self.max_bytes = max_bytes
        self._folder = Path(folder).resolve()
        self._uploads: dict[Path, _Upload] = {}  # by their own folders
        self._paths: dict[str, Path] = {}  # the folder of each file

    @contextmanager
    def arriving(self, owner: Owner, num_bytes: int) -> Iterator[Path]:
        """The folder for one upload, which is deleted if the block fails, and after EXPIRE_SECONDS.

        Args:
            owner: who sends it.
            num_bytes: that the request says it has.

        Raises:
            UploadRefused: it is too large, or too much waits already.
        """
        if num_bytes > self.max_bytes + FORM_BYTES:
            raise UploadRefused(413, "upload_too_large")
        self._forget_taken()
        num_bytes = max(num_bytes, MIN_BYTES)
        for limit, key, taken in (
            (NUM_OF_ONE, "uploads_full_here", [u for u in self._uploads.values() if u.owner == owner]),
            (NUM_OF_ALL, "uploads_full", list(self._uploads.values())),
        ):
            if sum(upload.num_bytes for upload in taken) + num_bytes > limit * (self.max_bytes + FORM_BYTES):
                raise UploadRefused(429, key)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=self._folder))
        self._uploads[place] = _Upload(owner, num_bytes)
        try:
            yield place
        except BaseException:
            self._drop(place)
            raise
        asyncio.get_running_loop().call_later(EXPIRE_SECONDS, self._drop, place)

    def arrived(self, place: Path, path: str) -> None:
        """Record the file of an upload."""
        self._paths[path] = place

    def _forget_taken(self) -> None:
        """What the page has read and deleted takes no room."""
        for path, place in list(self._paths.items()):
            if not os.path.lexists(path):
                self._drop(place)

    def _drop(self, place: Path) -> None:
        self._uploads.pop(place, None)
        self._paths = {path: other for path, other in self._paths.items() if other != place}
        shutil.rmtree(place, ignore_errors=True)

    def named(self, body: Any, owner: Owner, hosts: set[str]) -> frozenset[str]:
        """The paths of all uploads that a request names.

        Args:
            body: the request's JSON; whatever has a `path` or `url` is a file.
            owner: who sent it.
            hosts: host and port that the server is reached at; a `url` may only lead there.

        Raises:
            ForeignFileError: one of the files is not an upload of this owner.
        """
        paths: list[str] = []
        parts = [body]
        while parts:
            part = parts.pop()
            if isinstance(part, list):
                parts += part
            elif isinstance(part, dict):
                parts += part.values()
                if "path" in part or "url" in part:
                    path: Any = part.get("path")
                    paths.append(path)
                    if not (self._is_own(path, owner) and _leads_here(part.get("url"), hosts)):
                        raise ForeignFileError
        return frozenset(paths)

    def _is_own(self, path: Any, owner: Owner) -> bool:
        """A file that has just been deleted is still its owner's: the page reports that it is missing."""
        upload = (
            self._uploads.get(self._paths[path]) if isinstance(path, str) and path in self._paths else None
        )
        if upload is None or upload.owner != owner:
            return False
        try:
            return _is_regular(path) and Path(path).resolve().is_relative_to(self._folder)
        except FileNotFoundError:
            return True


def max_total_bytes(max_bytes: int) -> int:
    """How much all uploads of a server may take together, if one may take `max_bytes`."""
    return NUM_OF_ALL * (max_bytes + FORM_BYTES)


def _is_regular(path: str) -> bool:
    """Whether this is a file itself: no symbolic link, folder, pipe or device."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def _leads_here(url: Any, hosts: set[str]) -> bool:
    """Whether this is None, a path, or an address at one of the hosts."""
    if url is None:
        return True
    try:
        parts = urlsplit(url)
    except (AttributeError, TypeError, ValueError):
        return False
    return parts.netloc in hosts if parts.scheme in ("http", "https") else parts[:2] == ("", "")


def vouched(upload: Any, request: gr.Request) -> bool:
    """Whether the guard recognised this file as an upload of the request's sender; never without a guard."""
    path = upload.get("path") if isinstance(upload, dict) else None
    return request.request is not None and path in request.request.scope.get(NAMED, ())


def take(path: str, read: bool = True) -> bytes | None:
    """Return an uploaded file's content and delete the file; None, deleting nothing, if it is not a regular file.

    Args:
        path: an upload that `vouched` accepted.
        read: False only deletes it.
    """
    try:
        if not _is_regular(path):
            return None
        try:
            return read_regular(path) if read else b""
        finally:
            Path(path).unlink(missing_ok=True)
    except OSError:
        return None
