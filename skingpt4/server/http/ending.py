"""When a server is asked to end: a signal is noted, so that running answers, pictures and files end in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP: the terminal was closed; Windows has none


@contextlib.contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set while the block lasts; afterwards they act as before.

    What is ignored stays ignored: a server that was started by `nohup` outlives its terminal.
    """
    ended = threading.Event()
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda *_: ended.set())
    try:
        yield ended
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: a handler of C, which Python cannot put back
                signal.signal(number, handler)
