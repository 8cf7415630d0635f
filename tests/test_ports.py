"""Ports that tests give to servers."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.ports import PORTS, free_port

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(not EPHEMERAL.exists(), reason="no Linux")
def test_no_port_is_one_that_the_kernel_gives_away():
    first, last = map(int, EPHEMERAL.read_text().split())
    if first < 32768:
        pytest.skip(f"this machine gives away ports from {first} on")
    assert not {*PORTS} & {*range(first, last + 1)}


def test_no_port_is_given_twice_or_while_somebody_listens():
    given = [free_port() for _ in range(50)]
    assert len({*given}) == 50
    assert {*given} <= {*PORTS}
    following = PORTS[(PORTS.index(given[-1]) + 1) % len(PORTS)]
    try:
        taken = socket.create_server(("127.0.0.1", following))
    except OSError:  # by another program: as good for the test
        assert free_port() != following
    else:
        with taken:
            assert free_port() != following


def test_processes_begin_at_different_ports():
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(free_port()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        given = int(answer.read())
    os.waitpid(child, 0)
    assert abs(given - free_port()) > 1
