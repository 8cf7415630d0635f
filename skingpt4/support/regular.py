"""Opening only regular files: a pipe lets its reader wait for ever, and a device or a growing file has no end."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

MAX_TEXT = 16 * 2**20  # bytes of a card, a configuration or another text that is read as a whole
BUFFER = 2**18
BINARY = getattr(os, "O_BINARY", 0)  # Windows changes line ends and stops at Ctrl-Z without it
_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | BINARY
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """Refuse what is not a file (a symbolic link may lead to one); for files that a library opens by its path.

    Raises:
        OSError: it is missing, or a folder, pipe, socket or device; the reason completes "cannot be read".
    """
    status = os.stat(path)
    _require(status, path)
    return status


def _require(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "something")
        raise OSError(errno.EINVAL, f"is {what} and not a file; name a file", os.fspath(path))


class _Unchanging(io.FileIO):
    """A regular file that ends where it ended when it was opened; a read beyond that is an error."""

    def __init__(self, descriptor: int, path: str | os.PathLike[str]) -> None:
        super().__init__(descriptor)
        self.path = os.fspath(path)
        self.size = os.fstat(descriptor).st_size

    def readinto(self, buffer: Buffer) -> int | None:
        count = super().readinto(buffer)
        self._require_end()
        return count

    def readall(self) -> bytes:
        data = self.read(max(0, self.size - self.tell()) + 1) or b""
        self._require_end()
        return data

    def _require_end(self) -> None:
        if self.tell() > self.size:
            raise OSError(errno.EBUSY, "grew while it was read; try again when it is complete", self.path)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """`open(path, "rb")` of a regular file; see `require_regular`. It never waits.

    What is written to the file after it was opened ends in an OSError as soon as it is read.
    """
    require_regular(path)  # before it is opened: opening alone has an effect on some devices
    descriptor = os.open(path, os.O_RDONLY | _NEVER_WAIT)
    try:
        _require(os.fstat(descriptor), path)  # what is there by now
    except OSError:
        os.close(descriptor)
        raise
    return io.BufferedReader(_Unchanging(descriptor, path), BUFFER)


def open_regular_text(
    path: str | os.PathLike[str], encoding: str = "utf-8", newline: str | None = None
) -> TextIO:
    """`open(path, encoding=..., newline=...)` of a regular file; see `require_regular`."""
    return io.TextIOWrapper(open_regular(path), encoding=encoding, newline=newline)


def read_regular(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The bytes of a regular file; see `require_regular`.

    Args:
        path: of the file.
        limit: the most bytes it may have; they are compared before anything is read.

    Raises:
        OSError: also if it has more bytes, or is written to meanwhile.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"has {size} bytes, more than {limit}", os.fspath(path))
        return file.read()


def read_regular_text(path: str | os.PathLike[str], limit: int | None = MAX_TEXT) -> str:
    """The UTF-8 text of a regular file; see `read_regular`. Line ends become line feeds, as with `Path.read_text`.

    Raises:
        OSError: see `read_regular`.
        UnicodeDecodeError: it is not UTF-8.
    """
    text = read_regular(path, limit).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
