"""JPEG and JPEG 2000 files of a few bytes that would keep their decoders busy for hours, or take all memory."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000

from skingpt4.records.images import ImageError, num_pixels, open_image
from skingpt4.records.pixels import codestreams
from tests.support import dicom_files


def file_of(kind, image=None, **options):
    values = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    (image or Image.fromarray(values)).save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data):
    started = time.process_time()
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert time.process_time() - started < 5
    with pytest.raises(ImageError, match="damaged"):
        num_pixels(data)
    return str(caught.value)


# ---- JPEG


def scanned(side, more):
    """A grey progressive JPEG whose last scan comes again and again."""
    data = file_of("JPEG", Image.new("L", (side, side), 128), progressive=True)
    start = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda"))
    return data[:-2] + data[start:-2] * more + b"\xff\xd9"


def resized(jpeg, side):
    """The same scans of a picture that claims another size."""
    start = jpeg.index(b"\xff\xc2")
    return jpeg[: start + 5] + struct.pack(">HH", side, side) + jpeg[start + 9 :]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"quality": 100, "optimize": True}]
)
def test_jpegs_of_encoders_stay_readable(options):
    assert open_image(file_of("JPEG", **options)).size == (300, 200)


@pytest.mark.parametrize("side", [64, 5000])
def test_a_jpeg_of_very_many_scans(side):
    assert open_image(scanned(64, 40)).size == (64, 64)
    assert "scans" in refusal(resized(scanned(64, 1200), side))


def test_scans_count_by_the_pixels_that_they_go_over():
    assert "scans" in refusal(resized(scanned(64, 40), 10_000))


def test_a_thumbnail_and_what_follows_the_picture_do_not_count(monkeypatch):
    monkeypatch.setattr(codestreams, "MAX_SCANS", 12)
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 100
    data = file_of("JPEG", exif=exif.tobytes() + b"\xff\xda" * 1000)
    assert open_image(data + b"\xff\xda\0\x02" * 1000).size == (300, 200)


def test_a_tiff_with_such_a_jpeg_inside():
    jpeg = resized(scanned(64, 60), 5000)
    rows = [
        (256, 4, 5000), (257, 4, 5000), (258, 3, 8), (259, 3, 7), (262, 3, 1), (273, 4, 8), (277, 3, 1),
        (278, 4, 5000), (279, 4, len(jpeg)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in rows)
    directory = struct.pack("<H", len(rows)) + entries + bytes(4)
    started = time.process_time()
    with pytest.raises(ImageError):
        open_image(b"II*\0" + struct.pack("<I", 8 + len(jpeg)) + jpeg + directory)
    assert time.process_time() - started < 10


# ---- JPEG 2000


def segment_of(data, marker):
    start = data.index(b"\xff" + bytes([marker]))
    return start, start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")


def restyled(side, precincts=b"", block=None, layers=None, boxed=False):
    """A picture of one colour that claims a side, cut in another way."""
    data = file_of("JPEG2000", Image.new("L", (64, 64), 128), num_resolutions=1, no_jp2=not boxed)
    start, end = segment_of(data, 0x52)
    style = bytearray(data[start + 4 : end])
    style[0] |= bool(precincts)
    if block is not None:
        style[6:8] = block
    if layers is not None:
        style[2:4] = struct.pack(">H", layers)
    style += precincts
    data = data[:start] + b"\xff\x52" + struct.pack(">H", 2 + len(style)) + style + data[end:]
    return data.replace(struct.pack(">I", 64), struct.pack(">I", side))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_jp2": True},
        {"tile_size": (64, 64), "num_resolutions": 3},
        {"codeblock_size": (32, 32)},
        {"quality_layers": [40, 20, 10]},
        {"irreversible": True, "progression": "RPCL"},
    ],
)
def test_jpeg_2000_files_of_encoders_stay_readable(options):
    assert open_image(file_of("JPEG2000", **options)).size == (300, 200)


@pytest.mark.parametrize(
    "cut",
    [
        {"precincts": b"\0"},
        {"precincts": b"\x22"},
        {"block": b"\0\0"},
        {"layers": 65535, "block": b"\2\2"},
    ],
    ids=["precincts of a pixel", "precincts of four", "blocks of four", "layers"],
)
@pytest.mark.parametrize("boxed", [False, True])
def test_a_jpeg_2000_file_that_is_cut_small(cut, boxed):
    assert "blocks" in refusal(restyled(6000, boxed=boxed, **cut))
    assert num_pixels(restyled(64, boxed=boxed, **cut)) == 64 * 64


def test_a_jpeg_2000_file_of_very_many_tiles():
    data = file_of("JPEG2000", Image.new("L", (64, 64)), tile_size=(64, 64), no_jp2=True, num_resolutions=1)
    start, _ = segment_of(data, 0x51)
    tiny = data[: start + 6] + struct.pack(">8L", 6000, 6000, 0, 0, 4, 4, 0, 0) + data[start + 38 :]
    assert "tiles" in refusal(tiny)


def test_the_style_of_one_tile_counts_too():
    data = restyled(6000)
    _, end = segment_of(data, 0x90)
    start, stop = segment_of(data, 0x52)
    style = bytearray(data[start:stop])
    style[10:12] = b"\0\0"
    assert "blocks" in refusal(data[:end] + style + data[end:])


def test_the_frame_of_a_dicom_file_is_looked_at_too():
    values = np.full((64, 64), 128, np.uint8)
    file = dicom_files.compressed([restyled(64, precincts=b"\0")], JPEG2000, values, "MONOCHROME2")
    assert open_image(file).size == (64, 64)
    values = np.zeros((6000, 6000), np.uint8)
    file = dicom_files.compressed([restyled(6000, precincts=b"\0")], JPEG2000, values, "MONOCHROME2")
    started = time.process_time()
    with pytest.raises(ImageError, match="damaged"):
        open_image(file)
    assert time.process_time() - started < 5
