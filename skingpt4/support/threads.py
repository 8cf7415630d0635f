"""Threads that compute: on a CPU each of them gets OpenMP workers of its own, and too many workers make all slow.

Workers wait actively for their next task only while all threads together have no more workers than there are cores.
With one worker more, each of a token's hundreds of small products starts by waking a worker: a token of the default
took 55 ms instead of 33 ms after a model had been loaded in another thread that still existed. So a thread that has
computed should end, unless it is the only one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def num_cores() -> int:
    """Cores that this process may use; where the system does not say, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    """Do some work, and set what it returns or raises as the future's result."""
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def in_own_thread(work: Callable[[], T]) -> T:
    """Do some work in a thread that ends afterwards, together with its workers; returns the result.

    Ctrl-C ends the waiting at once; the process ends when the work is done.

    Raises:
        BaseException: what the work raises.
    """
    future: Future[T] = Future()
    # Not a daemon: at exit Python would kill it inside the library it computes in, which aborts the process.
    thread = threading.Thread(target=fulfil, args=(future, work))
    thread.start()
    result = future.result()
    thread.join()
    return result
