"""Ports that tests give to servers."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.ports import PORTS, free_port

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(not EPHEMERAL.exists(), reason="no Linux")
def test_no_port_is_one_that_the_kernel_gives_away():
    assert PORTS.stop <= int(EPHEMERAL.read_text().split()[0])


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
        os.write(writing, str(free_port()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert abs(int(os.read(reading, 9)) - free_port()) > 1
    os.close(reading), os.close(writing)
