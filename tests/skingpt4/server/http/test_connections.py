"""Connections that cost little: each step of a client has a time limit and a size."""

import socket
import time
from contextlib import ExitStack, suppress

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from skingpt4.server.http import connections
from skingpt4.server.http.server import served

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def echo(request):
    size = len(await request.body())
    return PlainTextResponse(f"{size} bytes" if size < 10**6 else "x" * 30 * 10**6)


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "REFUSED_SECONDS", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    with served(Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def get(line):
    """Ask, and read the complete answer."""
    line.sendall(GET)
    answer = b""
    while not answer.endswith(b"0 bytes"):
        answer += line.recv(1000)


def talk(address, data, pause=0.0):
    """Everything that comes back until the server ends the connection; nothing is sent after `data`."""
    with socket.create_connection(address, timeout=30) as line:
        line.sendall(data)
        time.sleep(pause)
        answer = b""
        try:
            while part := line.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize("data", [b"", b"GET", GET[:-2], GET[:-2] + b"a: b\r\n" * 10])
def test_a_head_that_does_not_come_ends_the_connection(address, data):
    assert talk(address, data) == b""


def test_an_answered_connection_stays_for_the_next_request_and_ends_then(address):
    with socket.create_connection(address, timeout=30) as line:
        for _ in range(3):
            get(line)
        assert line.recv(1000) == b""


def test_a_byte_after_an_answer_does_not_hold_the_connection(address):
    with socket.create_connection(address, timeout=30) as line:
        get(line)
        line.sendall(b"G")
        assert line.recv(1000) == b""


def test_bodies_that_do_not_come_do_not_keep_others_out(address):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n["
    lines = [socket.create_connection(address, timeout=30) for _ in range(5)]
    for line in lines:
        line.sendall(head)
    time.sleep(0.2)
    with socket.create_connection(address, timeout=30) as line:
        get(line)
    for line in lines:
        line.close()


@pytest.mark.parametrize(
    "data",
    [
        GET[:-2] + b"a: b\r\n" * 20_000 + b"\r\n",
        GET[:-2] + b"a: " + b"b" * 200_000,
        b"\0" * 100_000,
        CHUNKED + b"1\r\n[\r\n" * 5000,
        CHUNKED + b"zz\r\n",
        CHUNKED[:-2] + b"Content-Length: 4\r\n\r\n1\r\n[\r\n0\r\n\r\n",
        CHUNKED[:-2]
        + b"Content-Length: 4\r\n\r\n"
        + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 200
        + b"0\r\n\r\n",
    ],
)
def test_what_is_not_plain_http_is_refused(address, data):
    assert talk(address, data).startswith(b"HTTP/1.1 400 ")


def test_a_body_in_ordinary_chunks_is_read(address):
    data = CHUNKED + b"1\r\n[\r\n" * 10 + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 200 + b"0\r\n\r\n"
    assert b"%d bytes" % (10 + 1024 * 200) in talk(address, data)


def test_who_does_not_wait_for_an_answer_gets_one_and_must_connect_again(address):
    assert talk(address, GET * 500).count(b"200 OK") == 1


def test_an_answer_that_is_not_read_ends_the_connection(address):
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
    answer = talk(address, data, pause=3)
    assert b"200 OK" in answer
    assert len(answer) < 30 * 10**6


def test_the_connection_that_was_idle_for_longest_makes_room(address):
    lines = []
    for _ in range(5):
        lines.append(socket.create_connection(address, timeout=30))
        time.sleep(0.02)
    with socket.create_connection(address, timeout=30) as line:
        started = time.monotonic()
        get(line)
        assert lines[0].recv(10) == b""
        assert time.monotonic() - started < 0.4, "it did not wait for its time limit"
    for line in lines:
        line.close()


def test_a_refused_connection_makes_room_before_an_older_one(address, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 30)
    monkeypatch.setattr(connections, "REFUSED_SECONDS", 30)
    with ExitStack() as stack:
        older = stack.enter_context(socket.create_connection(address, 30))
        get(older)
        for _ in range(4):
            line = stack.enter_context(socket.create_connection(address, 30))
            line.sendall(b"no HTTP\r\n\r\n")
            assert b"400" in line.recv(1000)
        newest = stack.enter_context(socket.create_connection(address, 30))
        get(newest)
        older.sendall(GET)
        assert older.recv(1000), "it is still there"


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="no TCP_INFO on this system")
def test_clients_that_left_cost_nothing():
    """Whoever sends a request and leaves before it is accepted reaches neither parser nor application."""
    with connections.Listening() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.setblocking(False)
        for _ in range(20):
            with socket.create_connection(listening.getsockname()) as line:
                line.sendall(CHUNKED + b"1\r\n[\r\n" * 1000)
        with socket.create_connection(listening.getsockname()) as stays:
            stays.sendall(GET)
            connection, address = listening.accept()
            with connection:
                assert address == stays.getsockname()
                assert connection.recv(1000) == GET
            with pytest.raises(BlockingIOError):
                listening.accept()


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="no TCP_INFO on this system")
def test_those_that_left_are_closed_a_few_at_a_time(monkeypatch):
    """So that the loop does something else too, however fast they come."""
    monkeypatch.setattr(connections, "LEFT_SECONDS", 0)
    with connections.Listening() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        listening.setblocking(False)
        for _ in range(2):
            socket.create_connection(listening.getsockname()).close()
        with socket.create_connection(listening.getsockname()) as stays:
            for _ in range(2):
                with pytest.raises(BlockingIOError):
                    listening.accept()
            connection, address = listening.accept()
            connection.close()
            assert address == stays.getsockname()


def test_few_refused_connections_are_held(address, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 500)
    monkeypatch.setattr(connections, "REFUSED_SECONDS", 60)
    monkeypatch.setattr(connections, "MAX_REFUSED", 3)
    with ExitStack() as stack:
        lines = []
        for _ in range(6):
            lines.append(stack.enter_context(socket.create_connection(address, 30)))
            lines[-1].sendall(b"no HTTP\r\n\r\n")
            assert b"400" in lines[-1].recv(1000)
        for line in lines[:3]:
            with suppress(ConnectionResetError):
                while line.recv(1000):
                    pass
        lines[5].settimeout(0.3)
        pieces = iter(lambda: lines[5].recv(1000), b"")
        with pytest.raises(TimeoutError):  # the rest of the answer, and then nothing rather than the end
            list(pieces)


def test_a_request_that_was_refused_in_its_body_does_not_reach_the_application():
    asked = []

    async def app(scope, receive, send):
        asked.append(scope["path"])
        await PlainTextResponse("ok")(scope, receive, send)

    with served(app) as url:
        host, port = url.removeprefix("http://").split(":")
        assert talk((host, int(port)), CHUNKED + b"1\r\n[\r\n" * 1000).startswith(b"HTTP/1.1 400 ")
        assert asked == []
        assert b"200 OK" in talk((host, int(port)), GET[:-2] + b"Connection: close\r\n\r\n")
        assert asked == ["/"]
