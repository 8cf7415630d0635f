"""A server that is asked to end: every signal of its kind is noted, and none of its handlers is left behind."""

import signal

import pytest

from skingpt4.server.http.ending import ENDING, asked_to_end

NUMBERS = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted_and_its_handler_put_back(number):
    received = []
    original = signal.signal(number, lambda *_: received.append("before"))
    try:
        with asked_to_end() as ended:
            assert not ended.is_set()
            signal.raise_signal(number)
            assert ended.is_set()
        assert not received
        signal.raise_signal(number)
    finally:
        signal.signal(number, original)
    assert received == ["before"]


def test_handlers_are_put_back_after_an_error():
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(OSError, match="in use"), asked_to_end():
        raise OSError("the port is in use")
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_server_of_nohup_outlives_its_terminal():
    original = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with asked_to_end() as ended:
            signal.raise_signal(signal.SIGHUP)
            assert not ended.is_set()
    finally:
        signal.signal(signal.SIGHUP, original)
