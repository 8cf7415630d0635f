"""Memory that the C library holds after it was freed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone


def return_freed_memory() -> None:
    """Give freed memory back to the system, as far as the C library can."""
    if trim := _trim():
        trim(0)
