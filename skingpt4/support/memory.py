"""Memory of this process: what it took at most, and what the C library holds after it was freed."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    except (OSError, TypeError):  # Windows
        return None


def peak_bytes(of_children: bool = False) -> int:
    """The most memory that this process had at once; of its ended child processes, that of the largest.

    Where the system does not count it, the memory that the process has now, and 0 for children.
    """
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        now = psutil.Process().memory_info()
        return 0 if of_children else int(getattr(now, "peak_wset", now.rss))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def spare_loaded_objects() -> None:
    """Take what is there now out of every later garbage collection.

    A collection holds Python's lock; one over all objects of the libraries takes some tenths of a second, in which a
    server answers nobody.
    """
    gc.collect()
    gc.freeze()


def return_freed_memory() -> None:
    """Give freed memory back to the system, as far as the C library can."""
    if trim := _trim():
        trim(0)
