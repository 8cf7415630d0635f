"""The page's server, which Gradio starts, ends connections whose clients are slow, as the HTTP API does."""

import socket
import time

import pytest

import demo
from skingpt4.server.address import stay_local
from skingpt4.server.http import connections

stay_local()

from tests.support.gradio_page import Page  # noqa: E402  (Gradio reads the environment when it is imported)
from tests.support.hostile import photo  # noqa: E402
from tests.support.page_stub import Stub, tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402


class Slow(Stub):
    def stream(self, question, generation):
        time.sleep(2)
        yield from super().stream(question, generation)


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    port = free_port()
    blocks = demo.launch(tools(lambda: Slow(words=("slow ",))), demo.Address(port=port))
    yield "127.0.0.1", port
    blocks.close(verbose=False)


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(data, address):
    with socket.create_connection(address, timeout=60) as line:
        line.sendall(data)
        assert line.recv(1000) == b""


def test_a_head_that_comes_byte_by_byte_too(address):
    with socket.create_connection(address, timeout=0.2) as line:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                line.sendall(b"G")
                if line.recv(1000) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("the connection is still open")


def test_an_answer_may_take_longer_than_a_head(address):
    page = Page("http://{}:{}".format(*address))
    page.begin()
    page.add(photo(size=(640, 480)))
    assert "slow" in page.ask("What is it?")
