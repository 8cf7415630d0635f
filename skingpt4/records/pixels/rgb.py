"""Pixels of any mode as 8-bit RGB without metadata, a strip at a time: beside the source only one copy is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

STRIP_PIXELS = 2**20
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # grey of more than 8 bits
# Values up to here come from a sensor of 14 bits or fewer, whose brightest value is white.
MAX_UNSCALED = 2**14 - 1


def flattened(image: Image.Image) -> Image.Image:
    """A new RGB image without metadata: deep grey scaled to 8 bits, transparency laid over white.

    Args:
        image: any mode; it stays as it is.
    """
    white = white_value(image) if image.mode in DEEP else None
    rgb = Image.new("RGB", image.size)
    for top, strip in strips(image):
        if white is not None:
            strip = _eight_bit(strip, white)
        if strip.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in strip.info:
            over = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        rgb.paste(strip if strip.mode == "RGB" else strip.convert("RGB"), (0, top))
    return rgb


def white_value(image: Image.Image) -> float:
    """The value of deep grey that becomes 255.

    A picture whose values need 9 to 14 bits is scaled by its own maximum: divided by 65535, a sensor's 12 bits would
    be black. Values up to 255 are 8 bits in a larger container, and fractions up to 1 are fractions of white.

    Args:
        image: of one of the modes DEEP.
    """
    values = (np.asarray(strip) for _, strip in strips(image))
    peak = max(float(np.max(strip, initial=0, where=np.isfinite(strip))) for strip in values)
    if image.mode == "F" and 0 < peak <= 1:
        return 1.0
    return white_of(peak)


def white_of(peak: float) -> float:
    """The value that becomes 255 in a picture of this maximum; see `white_value`."""
    if peak <= 255:
        return 255.0
    return peak if peak <= MAX_UNSCALED else max(peak, 65535.0)


def _eight_bit(grey: Image.Image, white: float) -> Image.Image:
    """Deep grey scaled to 8 bits (not clipped), its transparent value, if any, made white."""
    values = np.nan_to_num(np.asarray(grey, dtype=np.float64))
    scaled = np.clip(values / white * 255.0, 0, 255).astype(np.uint8)
    if isinstance(clear := grey.info.get("transparency"), int):
        scaled[values == clear] = 255
    return Image.fromarray(scaled)


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Full-width parts of about STRIP_PIXELS from top to bottom, each with its first row."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
