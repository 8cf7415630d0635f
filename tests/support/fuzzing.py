"""Damaged files: mutations of good ones, and a watch that nothing else is touched while they are read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

# What readers trip over, as JSON values and as bytes.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", " ", "nan", "-", "x",
    "\x00", "\ud800", "\u202e", "${oc.env:HOME}", "{0.__class__}", "../../etc/passwd", "a" * 5000, [], {},
    [[]], [None], {"": None}, ["x"] * 50, {"a": {"b": {"c": []}}}, "01", "1e3", "=1+1", "http://example.org/x",
)  # fmt: skip
TOKENS = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\n", b'"', b'""', b"'", b",", b";", b"\t", b"[" * 3000,
    b'{"a":' * 1500, b"9" * 5000, b"\\ud800", b"NaN", b"null", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system",
    b"\xc3\x28", b"\xe2\x80\xa8", b"-", b":", b"#", b"}", b"]", b"PK\x03\x04", b"\x80\x04", b"GGUF",
)  # fmt: skip


@st.composite
def mutated(draw: Callable[..., Any], corpus: tuple[bytes, ...]) -> bytes:
    """One of the good files, with values exchanged where it is JSON, and with its bytes changed."""
    content = draw(st.sampled_from(corpus))
    if draw(st.booleans()):
        content = _with_other_values(draw, content)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + draw(st.sampled_from((0, 1, 4, 40, 10**6))))))
        middle = draw(
            st.sampled_from(TOKENS) | st.binary(max_size=6) | st.just(content[start:end] * 2) | st.just(b"")
        )
        content = content[:start] + middle + content[end:]
    return content


def _with_other_values(draw: Callable[..., Any], content: bytes) -> bytes:
    lines = content.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    for first, last in ((0, len(lines)), (number, number + 1)):  # one document, or one object a line
        try:
            value = json.loads(b"\n".join(lines[first:last]))
        except ValueError:
            continue
        changed = json.dumps(_exchanged(draw, value)).encode()
        return b"\n".join([*lines[:first], changed, *lines[last:]])
    return content


def _exchanged(draw: Callable[..., Any], value: Any) -> Any:
    """The value with one part, at any depth, exchanged, removed or added."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        copy = value.copy()
        action = draw(st.integers(0, 5))
        if action == 0:
            del copy[key]
        elif action == 1 and isinstance(copy, dict):
            copy[draw(st.sampled_from(("x", "", "__class__", "step")))] = draw(st.sampled_from(VALUES))
        else:
            copy[key] = _exchanged(draw, value[key])
        return copy
    return draw(st.sampled_from(VALUES))


class Hang(BaseException):
    """A reader that does not end; no `except Exception` hides it."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `Hang` in code that runs longer."""

    def ring(signum: int, frame: Any) -> None:
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_ADDRESSES = (
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
)


class Watch:
    """Everything that this process writes, runs or asks for while `on`, by Python's audit events."""

    def __init__(self) -> None:
        self.on = False
        self.paths: list[str] = []
        self.others: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITES:
                self.paths.append(os.path.realpath(os.fsdecode(path)))
        elif event in _CHANGES:
            places = args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]
            self.paths += [
                os.path.realpath(os.fsdecode(p)) for p in places if isinstance(p, str | bytes | os.PathLike)
            ]
        elif event == "subprocess.Popen" and sys.executable in (args[0], args[1][0]):
            return  # workbooks are read in a process of their own
        elif event in _RUNS or event in _ADDRESSES:
            self.others.append(f"{event} {args[:2]!r}"[:300])

    @contextlib.contextmanager
    def only_inside(self, folder: Path) -> Iterator[None]:
        """Fail if anything outside of the folder is written, a program is run, or an address is asked for."""
        self.paths, self.others, self.on = [], [], True
        try:
            yield
        finally:
            self.on = False
        allowed = (f"{os.path.realpath(folder)}/", "/dev/null", "/dev/tty")
        assert [path for path in self.paths if not f"{path}/".startswith(allowed)] == []
        assert self.others == []
