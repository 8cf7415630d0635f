"""What servers send is their answer or one sentence; how long to wait before asking again."""

import time
from dataclasses import replace

import httpx
import pytest

from skingpt4.support.remote.address import RemoteAddressError, checked_host, is_loopback, read_key
from skingpt4.support.remote.http import (
    MAX_LINE,
    MAX_WAIT,
    EventReader,
    Limits,
    Options,
    RemoteError,
    RemoteGone,
    Retryable,
    refusal,
    transport_failure,
)

OPTIONS = Options("engine.url", "engine.key_env", "engine.timeout_seconds")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)
    assert not is_loopback(f"{host}.example")


@pytest.mark.parametrize("url", ["", "gpu:8000/v1", "ftp://gpu/v1", "http://", "http://gpu:x/v1",
                                 "http://a:" + "b@gpu/v1", "https://gpu/v1?key=1"])  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(RemoteAddressError, match=r"^engine.url"):
        checked_host(url, "engine.url", "engine.key_env")


def test_a_key_comes_from_the_environment(monkeypatch):
    assert read_key(None, "k") is None
    monkeypatch.setenv("KEY", " secret ")
    assert read_key("KEY", "k") == "secret"
    monkeypatch.setenv("KEY", "schlüssel")
    with pytest.raises(RemoteAddressError, match="KEY holds no key"):
        read_key("KEY", "k")


def test_pauses_double_and_end():
    limits = Limits(retries=3, first_wait=1.0)
    pauses = [limits.pause(Retryable("is busy"), attempt, "host") for attempt in (1, 2, 3)]
    assert all(0.75 * 2**n <= pause <= 1.25 * 2**n for n, pause in enumerate(pauses))
    assert limits.pause(Retryable("is busy", wait=60.0), 1, "host") == 60.0
    assert limits.pause(Retryable("is busy", wait=1e9), 1, "host") == MAX_WAIT
    hurried = replace(limits, longest_wait=10.0)
    assert hurried.pause(Retryable("is busy", wait=1e9), 1, "host") == 10.0
    with pytest.raises(RemoteError, match=r"^host is busy \(4 attempts\)$"):
        limits.pause(Retryable("is busy"), 4, "host")
    with pytest.raises(RemoteGone):
        limits.pause(Retryable("is away", gone=True), 4, "host")
    with pytest.raises(RemoteError, match="2 attempts"):
        limits.pause(Retryable("is slow", max_attempts=2), 2, "host")


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (
            401,
            RemoteGone,
            "host wants a key; name the environment variable that holds it with engine.key_env",
        ),
        (404, RemoteGone, "does not have this model or path"),
        (307, RemoteGone, "redirects to elsewhere.example, which is not followed"),
        (400, RemoteError, "failure HTTP 400: too long"),
        (503, Retryable, "failure HTTP 503: too long"),
    ],
)
def test_refusals(status, kind, sentence):
    sent = {"location": "https://elsewhere.example/v1", "retry-after": "7"}
    error = refusal(status, sent, b'{"error": {"message": "too long"}}', "host", OPTIONS)
    assert type(error) is kind
    assert sentence in str(error)
    assert getattr(error, "wait", None) == (7.0 if status == 503 else None)


def test_transport_failures():
    request = httpx.Request("GET", "http://gpu")
    gone = transport_failure(httpx.ConnectError("refused", request=request), "u", 5.0, OPTIONS)
    assert isinstance(gone, Retryable)
    assert gone.gone
    slow = transport_failure(httpx.ReadTimeout("x", request=request), "u", 5.0, OPTIONS)
    assert "within 5 seconds (engine.timeout_seconds)" in str(slow)
    assert isinstance(transport_failure(httpx.InvalidURL("x"), "u", 5.0, OPTIONS), RemoteGone)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_come_whole_however_their_bytes_are_cut(size):
    text = b': hello\n\ndata: {"choices": [{"finish_reason": null}]}\r\n\ndata:{"a": "\xc3\xa9"}\n\ndata: [DONE]\n\n'
    reader = EventReader("host")
    items = [item for at in range(0, len(text), size) for item in reader.feed(text[at : at + size])]
    assert items == [{"choices": [{"finish_reason": None}]}, {"a": "é"}]
    reader.end()


def test_a_stream_that_breaks_off_is_noticed():
    reader = EventReader("host")
    list(reader.feed(b'data: {"choices": [{"finish_reason": null}]}\n\n'))
    with pytest.raises(Retryable, match="in the middle"):
        reader.end()
    list(reader.feed(b'data: {"choices": [{"finish_reason": "stop"}]}\n\n'))
    reader.end()
    with pytest.raises(RemoteError, match="not JSON"):
        list(reader.feed(b"data: {\n\n"))


def test_a_long_line_costs_no_more_for_coming_byte_by_byte():
    reader, started = EventReader("host"), time.process_time()
    for _ in range(200_000):
        assert not list(reader.feed(b"x"))
    assert time.process_time() - started < 4, "it is not copied for each of them"


def test_a_line_without_end_is_refused():
    reader = EventReader("host")
    for _ in range(MAX_LINE // 4096 + 1):
        assert not list(reader.feed(b"data: " + b"x" * 4090))
    with pytest.raises(RemoteError, match="a line of more than 1048576 bytes"):
        list(reader.feed(b"x"))
