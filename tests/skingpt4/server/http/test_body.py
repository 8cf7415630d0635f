"""A body is refused before it is read or parsed, if it is too large, too slow or has too many values."""

import anyio
import pytest
from starlette.requests import Request

from skingpt4.server.http import body
from skingpt4.server.http.failures import ApiError


def request(*parts, pause=0.0, **headers):
    """A request whose body comes in parts."""
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        await anyio.sleep(pause)
        return waiting.pop(0)

    headers = {"content-type": "application/json", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": pairs}, receive)


@pytest.mark.parametrize(
    ("headers", "num_bytes"),
    [({"content_length": "5"}, 5), ({"content_length": "x"}, 9), ({}, 9), ({"content_length": "-1"}, 9)],
)
def test_the_size_is_known_before_the_body(headers, num_bytes):
    assert body.declared_bytes(request(**headers), 9) == num_bytes


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_length": "10"}, 413),
        ({"content_length": "9" * 3000}, 413),
        ({"content-type": "text/plain"}, 415),
    ],
)
def test_a_body_is_refused_by_its_headers(headers, status):
    with pytest.raises(ApiError) as refusal:
        body.declared_bytes(request(**headers), 9)
    assert refusal.value.status_code == status


def test_a_body_that_is_longer_than_it_says_is_refused():
    with pytest.raises(ApiError, match="larger than 9 bytes"):
        anyio.run(body.read_body, request(b"12345", b"67890", b"x" * 10**6), 9)
    assert anyio.run(body.read_body, request(b"12345", b"6789"), 9) == b"123456789"


@pytest.mark.parametrize("part", [b"", b"[", b"[" * 60_000])
def test_a_body_that_comes_too_slowly_is_refused(monkeypatch, part):
    monkeypatch.setattr(body, "STALL_SECONDS", 0.1)
    with pytest.raises(ApiError, match="came too slowly") as refusal:
        anyio.run(body.read_body, request(*[part] * 50, pause=0.05), 10**7)
    assert (refusal.value.status_code, refusal.value.headers) == (408, {"connection": "close"})


def test_a_body_that_takes_too_long_in_all_is_refused(monkeypatch):
    monkeypatch.setattr(body, "MAX_SECONDS", 0.2)
    with pytest.raises(ApiError, match="came too slowly"):
        anyio.run(body.read_body, request(*[b"[" * 70_000] * 50, pause=0.02), 10**7)


@pytest.mark.parametrize("text", [b"[[],[],[],[]]", b"[{},{},{},{}]", b"[1,2,3,4,5,6,7]", b'",,,,,,,"'])
def test_many_values_are_refused_before_they_take_memory(text):
    with pytest.raises(ApiError, match="more than 3 values"):
        body.parse_json(text, 3)
    assert body.parse_json(text, 20)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[NaN]",
        b"[1e999]",
        b"\xff",
        b'"\\ud800"',
        b"[" * 5000,
        b"1" * 5000,
        "{}".encode("utf-16"),
        b"{}x",
    ],
)
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ApiError, match="not JSON"):
        body.parse_json(text, 10_000)
