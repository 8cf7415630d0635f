"""Notes every address that a Python process connects to, sends to or looks up; see test_privacy.py."""

import json
import sys
from typing import Any

EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")


def watch(path: str) -> None:
    """Append [event, host] lines to a file; the environment cannot name it, since workers get none."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        where = args[1] if event in EVENTS[:3] else args[0]
        if isinstance(where, str | bytes) and event in EVENTS[:3]:
            return  # a socket of this machine's file system
        host = where[0] if isinstance(where, tuple) else where
        host = host.decode() if isinstance(host, bytes) else str(host)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps([event, host]) + "\n")

    sys.addaudithook(hook)
