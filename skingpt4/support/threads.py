"""Threads that compute: on a CPU each gets OpenMP workers of its own, and too many workers make all of them slow.

Workers wait awake for their next piece of work only while all threads' workers together are no more than there are
cores. One more, and each of a token's hundreds of small products begins with waking somebody: a token of the default
took 55 ms in place of 33 after a model had been loaded in another thread that was still there. So a thread that has
computed should end, or be the only one that does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    """Do some work and give what it returns or raises to whoever waits for the future."""
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def in_own_thread(work: Callable[[], T]) -> T:
    """Do some work in a thread that ends with it, its workers too; returns what it returns.

    Ctrl-C ends the waiting at once; the process ends when the work has.

    Raises:
        BaseException: what the work raises.
    """
    future: Future[T] = Future()
    # Not a daemon: Python, when it ends, would tear it out of the library it computes in, which aborts the process.
    thread = threading.Thread(target=fulfil, args=(future, work))
    thread.start()
    found = future.result()
    thread.join()
    return found
