"""A server that never comes to an end keeps nobody waiting, and takes no memory."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from skingpt4.config.schema import EngineConfig
from skingpt4.generation.engine import client
from skingpt4.generation.engine.client import EngineClient
from skingpt4.support.remote.http import RemoteError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def endless(first, again, pause=0.02):
    """A server that answers each request with `first`, then `again` and again; yields settings and bytes sent."""
    sent = []

    def answer(connection):
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            while True:
                connection.sendall(again)
                sent.append(len(again))
                time.sleep(pause)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        yield EngineConfig(name="vllm", url=url, timeout_seconds=0.5, retries=0), sent
        listening.shutdown(socket.SHUT_RDWR)


def used(config, work):
    """What the work gives with a client of its own, within seconds."""

    async def main():
        engine = EngineClient(config)
        try:
            return await asyncio.wait_for(work(engine), 20)
        finally:
            await engine.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("first", "again", "is_up"),
    [
        (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n", True),
        (HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", True),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", False),
        (b"", b"", False),
    ],
    ids=["body", "packed", "preludes", "head", "silence"],
)
def test_health_is_the_status_alone_and_is_known_within_seconds(monkeypatch, first, again, is_up):
    monkeypatch.setattr(client, "HEALTH_SECONDS", 0.5)
    with endless(first, again) as (config, sent):
        started = time.monotonic()
        assert used(config, lambda engine: engine.is_up()) is is_up
        assert time.monotonic() - started < 5
        if is_up:
            assert sum(sent) < 8 * 2**20, "the body is not read"


def test_an_answer_by_drops_ends_in_a_sentence():
    with (
        endless(CHUNKED, b"1\r\n \r\n") as (config, _),
        pytest.raises(RemoteError, match=r"within 0\.5 seconds"),
    ):
        used(config, lambda engine: engine.ask("GET", "/models"))


def test_a_refusal_without_end_is_read_no_further_than_its_message():
    with (
        endless(CHUNKED.replace(b"200 OK", b"400 No"), b"1000\r\n" + b"x" * 4096 + b"\r\n", 0) as (config, _),
        pytest.raises(RemoteError, match="HTTP 400: xxx"),
    ):
        used(config, lambda engine: engine.ask("GET", "/models"))


STREAM = CHUNKED.replace(b"application/json", b"text/event-stream")


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (STREAM, b"1\r\n \r\n"),
        (STREAM, b'23\r\ndata: {"choices": [{"index": 0}]}\n\n\r\n'),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (STREAM.replace(b"200 OK", b"400 No"), b"1\r\nx\r\n"),
    ],
    ids=["drops", "events", "head", "preludes", "refusal"],
)
def test_a_stream_that_never_ends_ends_after_ten_times_the_longest_silence(first, again):
    async def all_of(engine):
        return [item async for item in engine.stream("/completions", b"{}", "x")]

    started = time.monotonic()
    with (
        endless(first, again, 0.1) as (config, _),
        pytest.raises(RemoteError, match=r"did not end its answer within 2 seconds"),
    ):
        used(replace(config, timeout_seconds=0.2), all_of)
    assert 1.5 < time.monotonic() - started < 15
