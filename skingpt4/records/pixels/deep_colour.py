"""Colour of 16 bits a channel whose values need 14 bits or fewer, such as a camera's 12 in a TIFF.

Pillow reads only the high byte of each value, in which such a picture is black. The low bytes are read as if they
were the high ones, by swapping the order of bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from skingpt4.records.pixels.rgb import MAX_UNSCALED, strips, white_of

# Pillow's names of how values are stored, and of the opposite order of bytes.
_OPPOSITE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_SWAPPED = {f"{mode};16{a}": f"{mode};16{b}" for mode in ("RGB", "RGBA") for a, b in _OPPOSITE.items()}


def has_deep_colour(opened: Image.Image) -> bool:
    """Whether a file that is not loaded yet has 16 bits for each of several channels."""
    tiles = getattr(opened, "tile", ())
    return opened.mode in ("RGB", "RGBA") and any(_raw_mode(tile.args) in _SWAPPED for tile in tiles)


def is_dark(loaded: Image.Image) -> bool:
    """Whether no colour needs more than 14 of its 16 bits; Pillow has read the high byte of each."""
    return all(high <= MAX_UNSCALED >> 8 for _, high in loaded.getextrema()[:3])  # type: ignore[misc]


def brighten(loaded: Image.Image, opened: Image.Image) -> None:
    """Replace a picture's high bytes by its full values, scaled to 8 bits.

    Args:
        loaded: a picture that `has_deep_colour` and `is_dark`; its colours are changed.
        opened: the same file, opened again and not loaded.
    """
    opened.tile = [tile._replace(args=_swap_bytes(tile.args)) for tile in opened.tile]  # type: ignore[attr-defined]
    opened.load()
    white = white_of(max(float(high.max()) for _, high in _colours(loaded, opened)))
    for top, values in _colours(loaded, opened):
        scaled = (values / white * 255.0).astype(np.uint8)
        box = (0, top, loaded.width, top + len(scaled))
        if loaded.mode == "RGBA":
            scaled = np.dstack([scaled, np.asarray(loaded.crop(box))[..., 3]])
        loaded.paste(Image.fromarray(scaled), box)


def _colours(high: Image.Image, low: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(First row, (rows, w, 3) values) of each strip."""
    for (top, upper), (_, lower) in zip(strips(high), strips(low), strict=True):
        yield top, np.asarray(upper)[..., :3].astype(np.uint16) << 8 | np.asarray(lower)[..., :3]


def _raw_mode(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _swap_bytes(args: Any) -> Any:
    swapped = _SWAPPED[_raw_mode(args)]
    return swapped if isinstance(args, str) else (swapped, *args[1:])
