"""Who uploaded which file: a page's functions get only files that the same browser uploaded (see guard.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skingpt4.support.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

# The key in a request's scope under which `Guard` puts the uploads that it names, all of them its sender's own.
NAMED = "skingpt4.server.uploads"


class ForeignFileError(UserError):
    """A request names a file that its sender did not upload, or an address."""


class Uploads:
    """The files in a server's upload folder, and the cookies of the browsers that uploaded each."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).resolve()
        self._senders: dict[str, set[str]] = {}

    def add(self, sender: str, paths: Iterable[str]) -> None:
        """Record what a browser uploaded, and forget deleted files. Equal files of one name are one file."""
        present = {path: senders for path, senders in self._senders.items() if os.path.lexists(path)}
        for path in paths:
            present.setdefault(path, set()).add(sender)
        self._senders = present

    def named(self, body: Any, sender: str, hosts: set[str]) -> frozenset[str]:
        """The paths of all uploads that a request names.

        Args:
            body: the request's JSON; whatever has a `path` or `url` is a file.
            sender: the cookie of the browser that sent it.
            hosts: host and port that the server is reached at; a `url` may only lead there.

        Raises:
            ForeignFileError: one of the files is not an upload of this sender.
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
                    if not (self._is_own(path, sender) and _leads_here(part.get("url"), hosts)):
                        raise ForeignFileError("this file was not uploaded by this browser: add it again")
        return frozenset(paths)

    def _is_own(self, path: Any, sender: str) -> bool:
        """A file that has been deleted stays its sender's: the page reports that it is missing."""
        if not isinstance(path, str) or sender not in self._senders.get(path, ()):
            return False
        try:
            return _is_regular(path) and Path(path).resolve().is_relative_to(self._folder)
        except FileNotFoundError:
            return True


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


def vouched(upload: dict[str, Any], request: gr.Request) -> bool:
    """Whether the guard recognised this file as an upload of the request's sender; never without a guard."""
    return request.request is not None and upload.get("path") in request.request.scope.get(NAMED, ())


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
            return Path(path).read_bytes() if read else b""
        finally:
            Path(path).unlink(missing_ok=True)
    except OSError:
        return None
