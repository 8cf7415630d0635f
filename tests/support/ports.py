"""Ports for servers that a test starts a moment later.

The kernel gives a port of its ephemeral range (`ip_local_port_range`, from 32768) to every outgoing connection and to
every bind to port 0, so one that is asked for that way may belong to somebody else when the server comes to it. The
ports below that range are given to nobody who does not name them.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

PORTS = range(16384, 32768)


def _order() -> Iterator[int]:
    """All ports, from a place that differs by process: the processes of one run ask at the same time."""
    start = random.Random(os.getpid()).randrange(len(PORTS))
    return (PORTS[(start + step) % len(PORTS)] for step in itertools.count())


_ports = _order()
os.register_at_fork(after_in_child=lambda: globals().update(_ports=_order()))


def free_port(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, and that this process has not been given before.

    Raises:
        OSError: this machine has no such address, or none of 100 ports is free.
    """
    for port in itertools.islice(_ports, 100):
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            refused = error
        else:
            return port
    raise refused
