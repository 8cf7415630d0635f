"""Every picture that a server takes in is decoded through here, so that no number of requests takes all memory.

A picture of 80 megapixels takes 0.6 to 1.2 GiB while it is decoded, however small its file is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image

from skingpt4.server.decoding.process import decode, measure
from skingpt4.support.memory import return_freed_memory

MAX_AT_ONCE = 2
# Pixels above which pictures come one at a time: there is always a turn left for those of ordinary size.
LARGE = 24_000_000
TRIMMED = 2**22  # pixels from which the C library holds on to the freed memory: Pillow takes blocks of 16 MiB

_turns = threading.BoundedSemaphore(MAX_AT_ONCE)
_large_turn = threading.Lock()


def num_pixels(data: bytes, name: str = "the picture") -> int:
    """How many pixels a picture has, from its header alone; it waits for its turn, and raises as `decoded`."""
    with _turns:  # a header may take time and memory too
        return measure(data, name)


@contextmanager
def decoded(data: bytes, name: str = "the picture") -> Iterator[tuple[Image.Image, tuple[str, ...]]]:
    """A picture as `open_image` returns it and its `remarks`, for as long as the block lasts; it waits for its turn.

    What is needed of the picture later is to be made small in the block: its pixels are gone afterwards.

    Args:
        data: a file's bytes.
        name: what to call it in an error.

    Raises:
        ImageError: not an image, truncated, too large or too small; or its decoder crashed or broke a limit.
    """
    size = num_pixels(data, name)
    try:
        with ExitStack() as turns:
            if size > LARGE:
                turns.enter_context(_large_turn)
            turns.enter_context(_turns)
            image, known = decode(data, name)
            try:
                yield image, known
            finally:
                image.close()
    finally:
        if size >= TRIMMED:
            return_freed_memory()
