"""A server decodes two pictures at once, large ones one after the other, and gives their memory back."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from skingpt4.records.images import ImageError
from skingpt4.server.decoding import turns as decoding
from skingpt4.server.decoding.turns import decoded
from tests.conftest import ROOT

SECONDS = 20


def png(width: int = 16, height: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


class Turns:
    """Counts the pictures that are decoded at once, each of which stays until `leave` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self.changed, self.leave = threading.Condition(), threading.Event()
        self.real = decoding.decode
        monkeypatch.setattr(decoding, "decode", self.open)

    def open(self, data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
        return self.real(data, name)

    def take(self, data: bytes) -> tuple[int, int]:
        with decoded(data) as (image, _):
            assert self.leave.wait(SECONDS)
            with self.changed:
                self.now -= 1
            return image.size

    def wait_for(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.now == number, SECONDS)


def test_two_are_decoded_at_once_and_all_get_their_turn(monkeypatch):
    turns = Turns(monkeypatch)
    with ThreadPoolExecutor(16) as pool:
        taken = [pool.submit(turns.take, png()) for _ in range(16)]
        turns.wait_for(2)
        turns.leave.set()
        assert [one.result(SECONDS) for one in taken] == [(16, 12)] * 16
    assert turns.most == 2


def test_large_pictures_leave_a_turn_to_small_ones(monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 40 * 30 - 1)
    turns = Turns(monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        large = [pool.submit(turns.take, png(40, 30)) for _ in range(6)]
        turns.wait_for(1)
        small = pool.submit(turns.take, png())
        turns.wait_for(2)
        turns.leave.set()
        assert small.result(SECONDS) == (16, 12)
        assert [one.result(SECONDS) for one in large] == [(40, 30)] * 6


@pytest.mark.parametrize("large", [0, decoding.LARGE])
def test_a_failure_gives_its_turn_back(large, monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", large)
    truncated = png(400, 300)[:-30]

    def fail() -> None:
        for _ in range(decoding.MAX_AT_ONCE + 1):
            with pytest.raises(ImageError), decoded(b"words"):
                pass
            with pytest.raises(ImageError), decoded(truncated):
                pass
            with pytest.raises(ZeroDivisionError), decoded(png()):
                raise ZeroDivisionError
        ended.set()

    ended = threading.Event()
    threading.Thread(target=fail, daemon=True).start()
    assert ended.wait(SECONDS), "the next one waits for ever"


def test_headers_are_read_in_turns_too(monkeypatch):
    """One of a few kilobytes may take time and memory; its size in pixels is only known afterwards."""
    now, most, lock, full = 0, 0, threading.Lock(), threading.Barrier(decoding.MAX_AT_ONCE)
    real = decoding.measure

    def counted(data: bytes, name: str) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        full.wait(SECONDS)
        with lock:
            now -= 1
        return real(data, name)

    def take() -> tuple[int, int]:
        with decoded(png()) as (image, _):
            return image.size

    monkeypatch.setattr(decoding, "measure", counted)
    with ThreadPoolExecutor(16) as pool:
        assert [one.result(SECONDS) for one in [pool.submit(take) for _ in range(16)]] == [(16, 12)] * 16
    assert most == decoding.MAX_AT_ONCE


def test_the_pixels_are_gone_after_the_block():
    with decoded(png()) as (image, _):
        assert image.size == (16, 12)
    with pytest.raises(ValueError, match="closed image"):
        image.load()


def test_no_server_opens_a_picture_elsewhere():
    """Page, HTTP API and review form go through `decoded`."""
    sources = [*Path(ROOT, "skingpt4/server").rglob("*.py"), *Path(ROOT, "eval/rating").rglob("*.py")]
    users = {
        path.name
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module == "skingpt4.records.images"
        and {"open_image", "to_rgb", "num_pixels", "remarks"} & {alias.name for alias in node.names}
    }
    assert users == {"process.py"}


MEMORY = """
import io, threading
from PIL import Image
from skingpt4.server.decoding.turns import decoded

def memory(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) // 1024

buffer = io.BytesIO()
Image.new("L", (6000, 6000)).save(buffer, "PNG", compress_level=1)
data = buffer.getvalue()

def use():
    with decoded(data) as (image, _):
        image.thumbnail((1200, 1200))

with decoded(data[:0] + data) as image:  # what is imported on the way is no memory of pictures
    pass
before = memory("VmRSS")
threads = [threading.Thread(target=use) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(memory("VmHWM") - before, memory("VmRSS") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_six_at_once_take_the_memory_of_one_and_give_it_back():
    """36 megapixels: 36 MB of grey and 144 MB of RGB each."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    peak, left = map(int, done.stdout.split())
    assert 120 < peak < 300, "MiB while six threads decode"
    assert left < 40, "MiB afterwards"
