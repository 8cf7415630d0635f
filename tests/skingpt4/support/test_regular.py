"""What is no regular file, and what grows while it is read, is refused at once by every reader."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.reading.phi import PhiError, read_lines
from data.reading.rows import SourceError
from data.reading.tables import Table
from data.sources.folders import read_class_map
from eval.rating.ratings import RatingsError, read_ratings
from skingpt4.cli import taxonomy
from skingpt4.config.load import load_config
from skingpt4.config.schema import ConfigError
from skingpt4.records.archives import read_bytes
from skingpt4.records.images import ImageError, open_image
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import RecordError
from skingpt4.support.files import file_sha256
from skingpt4.support.parse import read_json_object
from skingpt4.support.regular import (
    open_regular,
    open_regular_text,
    read_regular,
    read_regular_text,
    require_regular,
)
from skingpt4.weights.files.headers import UnreadableWeights, read_header

SECONDS = 20
READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "open_regular": (open_regular, OSError),
    "open_regular_text": (open_regular_text, OSError),
    "read_regular": (read_regular, OSError),
    "read_regular_text": (read_regular_text, OSError),
    "require_regular": (require_regular, OSError),
    "a picture": (open_image, ImageError),
    "a picture's bytes": (read_bytes, OSError),
    "a manifest": (read_manifest, RecordError),
    "a table": (Table, SourceError),
    "a JSONL table": (lambda path: Table(path.with_suffix(".jsonl")), SourceError),
    "ratings": (read_ratings, RatingsError),
    "a map of classes": (read_class_map, SourceError),
    "a list of names": (read_lines, PhiError),
    "a file to hash": (file_sha256, OSError),
    "a configuration": (load_config, ConfigError),
    "a card": (read_json_object, OSError),
}


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


MAKERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is a pipe and not a file"),
    "a link to a pipe": (lambda path: path.symlink_to(made(os.mkfifo)), "is a pipe and not a file"),
    "a socket": (socket_at, "is a socket and not a file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "is a device and not a file"),
    "an empty device": (lambda path: path.symlink_to("/dev/null"), "is a device and not a file"),
    "a folder": (Path.mkdir, "directory"),
}
folders: list[Path] = []


def made(make: Callable[[Path], object]) -> Path:
    path = folders[-1] / "behind"
    make(path)
    return path


def at_once(call: Callable[[], object]) -> BaseException | None:
    """What a call raises; it fails where the call hangs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for ever"
    return raised[0] if raised else None


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(reader, kind, tmp_path):
    read, expected = READERS[reader]
    make, reason = MAKERS[kind]
    folders.append(tmp_path)
    for suffix in (".csv", ".jsonl"):
        (tmp_path / "behind").unlink(missing_ok=True)
        make(tmp_path / f"file{suffix}")
    error = at_once(lambda: read(tmp_path / "file.csv"))
    assert isinstance(error, expected)
    assert reason in str(error)


@pytest.mark.parametrize("kind", MAKERS)
def test_weights_are_regular_files_too(kind, tmp_path):
    folders.append(tmp_path)
    MAKERS[kind][0](tmp_path / "model.safetensors")
    assert isinstance(at_once(lambda: read_header(tmp_path / "model.safetensors")), UnreadableWeights)


def test_a_command_says_so(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert at_once(lambda: taxonomy.main(["--file", str(tmp_path / "pipe")])) is None
    said = capsys.readouterr().err
    assert "is a pipe and not a file" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(), lambda file: list(file), lambda file: list(iter(lambda: file.read(100), b"")),
        lambda file: hashlib.file_digest(file, "sha256"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [0, 10, 2_000_000])
def test_a_file_that_grows_while_it_is_read_is_refused(read, before, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"line\n" * (before // 5))
    with open_regular(path) as file:
        with path.open("ab") as more:
            more.write(b"line\n")
        with pytest.raises(OSError, match="grew while it was read"):
            read(file)


def test_a_growing_picture_and_manifest_are_refused_in_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"{}\n" * 100)
    real = os.fstat

    def stale(descriptor: int) -> os.stat_result:
        """As if the file had grown since."""
        values = list(real(descriptor))
        values[6] = min(values[6], 10)
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", stale)
    with pytest.raises(ImageError, match="grew while it was read") as caught:
        open_image(path)
    assert caught.value.reason == "unreadable"
    with pytest.raises(RecordError, match="grew while it was read"):
        read_manifest(path)
    with pytest.raises(SourceError, match="grew while it was read"):
        Table(path)


@given(content=st.binary(max_size=2000), size=st.integers(1, 700), newline=st.sampled_from([None, "", "\n"]))
@settings(max_examples=100, deadline=None)
def test_regular_files_are_read_as_by_open(content, size, newline, tmp_path_factory):
    path = tmp_path_factory.mktemp("regular") / "file"
    path.write_bytes(content)
    assert read_regular(path) == content
    with open_regular(path) as file:
        assert b"".join(iter(lambda: file.read(size), b"")) == content
        assert file.seek(0) == 0
        with path.open("rb") as plain:
            assert list(file) == list(plain)
    with (
        open_regular_text(path, "latin-1", newline) as ours,
        path.open(encoding="latin-1", newline=newline) as plain,
    ):
        assert list(ours) == list(plain)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_text_is_read_as_by_read_text(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("a\r\nä\rb\n".encode())
    assert read_regular_text(path) == path.read_text(encoding="utf-8")


def test_more_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes, more than 4"):
        read_regular(path, 4)
    with path.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(OSError, match="more than"):
        read_regular_text(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "gone")
