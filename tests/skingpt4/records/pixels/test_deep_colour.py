"""Colour of 12 bits in 16 is not black; the other colours of 16 bits are read as Pillow reads them."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skingpt4.records.images import open_image

WIDTH, HEIGHT = 30, 20


def tiff(values: np.ndarray, byte_order: str = "<", compressed: bool = False) -> bytes:
    """A TIFF of 16 bits a channel, which Pillow does not write; values (h, w, 3 or 4)."""
    height, width, channels = values.shape
    data = values.astype(f"{byte_order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    num_tags = 9 + (channels == 4)
    depths = 8 + 2 + 12 * num_tags + 4  # after header and directory
    tags = {
        256: (3, 1, width), 257: (3, 1, height), 258: (4, channels, depths), 259: (3, 1, 8 if compressed else 1),
        262: (3, 1, 2), 273: (4, 1, depths + 2 * channels), 277: (3, 1, channels), 278: (3, 1, height),
        279: (4, 1, len(data)),
    }  # fmt: skip
    if channels == 4:
        tags[338] = (3, 1, 2)
    out = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}IH", 8, num_tags)
    for tag, (kind, count, value) in sorted(tags.items()):
        layout = "HHIHxx" if kind == 3 else "HHII"
        out += struct.pack(f"{byte_order}{layout}", tag, 3 if tag == 258 else kind, count, value)
    return out + bytes(4) + struct.pack(f"{byte_order}{channels}H", *[16] * channels) + data


def png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel; values (h, w, 3 or 4)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


WRITERS = {
    "png": png,
    "little-endian tiff": tiff,
    "big-endian tiff": lambda values: tiff(values, ">"),
    "compressed tiff": lambda values: tiff(values, compressed=True),
}


def random_values(peak: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, peak + 1, (HEIGHT, WIDTH, 3))
    values[0, 0, 0] = peak
    return values


@pytest.mark.parametrize("writer", WRITERS)
@given(peak=st.integers(256, 16383), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_fewer_bits_in_sixteen_are_scaled_by_the_pictures_own_maximum(writer, peak, seed):
    values = random_values(peak, seed)
    expected = (values / peak * 255.0).astype(np.uint8)
    assert np.array_equal(np.asarray(open_image(WRITERS[writer](values))), expected)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("peak", [16384, 65535])
def test_sixteen_bits_are_read_as_pillow_reads_them(writer, peak):
    data = WRITERS[writer](random_values(peak))
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(np.asarray(open_image(data)), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("writer", WRITERS)
def test_transparency_lies_over_white(writer):
    values = np.dstack([random_values(4095), np.full((HEIGHT, WIDTH), 65535)])
    values[5:, :, 3] = 0
    result = np.asarray(open_image(WRITERS[writer](values)))
    assert np.array_equal(result[:5], (values[:5, :, :3] / 4095 * 255.0).astype(np.uint8))
    assert result[5:].min() == 255


@pytest.mark.parametrize("writer", WRITERS)
def test_eight_bits_in_sixteen_are_eight_bits(writer):
    values = random_values(255)
    assert np.array_equal(np.asarray(open_image(WRITERS[writer](values))), values)


def test_black_stays_black():
    assert np.asarray(open_image(png(np.zeros((HEIGHT, WIDTH, 3), int)))).max() == 0
