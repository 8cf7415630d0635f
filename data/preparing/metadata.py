"""An image file without what a camera or person wrote into it: place, time, names; the pixels stay as they are.

JPEG (ITU-T T.81, Annex B) and PNG (W3C Portable Network Graphics, third edition) lose their metadata without being
decoded; other formats, which may carry some, are saved as lossless PNG.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

from skingpt4.records.images import ImageError, open_image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# What decides the pixels. Colour profiles (iCCP, APP2) are read by no training here and may name a device.
PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD"}
APP0, APP1, APP15, COM, SOS, EOI, ADOBE = 0xE0, 0xE1, 0xEF, 0xFE, 0xDA, 0xD9, 0xEE


class _MalformedError(Exception):
    """A file that deviates from its standard, though Pillow reads it."""


def without_metadata(data: bytes) -> tuple[bytes, str]:
    """The same image without metadata, and its file's suffix.

    Args:
        data: a file's bytes.

    Returns:
        Bytes that `open_image` reads to the same pixels (those given, if there is nothing to drop), and
        `.jpg` or `.png`.

    Raises:
        ImageError: not a usable image.
    """
    image = open_image(data)
    orientation = _orientation(data)
    try:
        if data.startswith(b"\xff\xd8"):
            stripped, suffix = _strip_jpeg(data, orientation), ".jpg"
        elif data.startswith(PNG_MAGIC) and orientation == 1:
            stripped, suffix = _strip_png(data), ".png"
        else:
            return _saved(image), ".png"
        same = open_image(stripped)
    except (_MalformedError, ImageError):
        return _saved(image), ".png"
    if same.size != image.size or same.tobytes() != image.tobytes():
        return _saved(image), ".png"
    return stripped, suffix


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return int(opened.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data of any kind: `open_image` leaves such an image as it is stored
        return 1


def _unpack(layout: str, data: bytes, place: int) -> tuple:
    """As `struct.unpack_from`.

    Raises:
        _MalformedError: the data end before.
    """
    try:
        return struct.unpack_from(layout, data, place)
    except struct.error:
        raise _MalformedError from None


def _strip_jpeg(data: bytes, orientation: int) -> bytes:
    out = bytearray(b"\xff\xd8")
    if orientation in range(2, 9):  # the only metadata that the pixels need
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
        out += struct.pack(">BBH", 0xFF, APP1, len(exif) + 2) + exif
    place = 2
    while True:
        prefix, marker = _unpack(">BB", data, place)
        if prefix != 0xFF:
            raise _MalformedError
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == EOI:  # whatever follows is not part of the image
            return bytes(out + b"\xff\xd9")
        (length,) = _unpack(">H", data, place + 2)
        segment = data[place : place + 2 + length]
        place += 2 + length
        if marker == SOS:
            end = _end_of_scan(data, place)
            out += segment + data[place:end]
            place = end
        elif marker in (APP0, ADOBE):  # JFIF without its thumbnail; Adobe's says how colours are stored
            out += _plain_jfif(segment) if marker == APP0 else segment
        elif not (APP0 <= marker <= APP15 or marker == COM):
            out += segment


def _plain_jfif(segment: bytes) -> bytes:
    if segment[4:9] != b"JFIF\0":
        return b""
    return segment[:2] + struct.pack(">H", 16) + segment[4:16] + b"\0\0"


def _end_of_scan(data: bytes, place: int) -> int:
    """Where the next marker is that is neither a stuffed byte nor a restart."""
    while True:
        place = data.find(b"\xff", place)
        if place < 0:
            raise _MalformedError
        (after,) = _unpack(">B", data, place + 1)
        if after == 0 or 0xD0 <= after <= 0xD7:
            place += 2
        elif after == 0xFF:
            place += 1
        else:
            return place


def _strip_png(data: bytes) -> bytes:
    out, place = bytearray(PNG_MAGIC), len(PNG_MAGIC)
    while True:
        length, kind = _unpack(">I4s", data, place)
        end = place + 12 + length
        if kind in PNG_KEPT:
            out += data[place:end]
        place = end
        if kind == b"IEND":
            return bytes(out)
