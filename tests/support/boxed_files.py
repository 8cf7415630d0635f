"""HEIF and AVIF files put together box by box (ISO/IEC 14496-12), so that a test can make what no encoder writes."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

from PIL import Image

from skingpt4.records.images import prepare_pillow

Extents = Sequence[tuple[int, int]]  # (offset in the data, length) of each piece of an item


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, version: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24), *parts)


def size_of(width: int, height: int) -> bytes:
    """The property that says how large an item is."""
    return full_box(b"ispe", 0, struct.pack(">II", width, height))


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """What an item of the kind `grid` holds."""
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)


def coded(kind: str, width: int, height: int, colour: str = "tan") -> tuple[bytes, bytes]:
    """The box that configures the decoder, and the coded picture, of a picture of one colour."""
    prepare_pillow()
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind, quality=50)
    data = out.getvalue()
    start = data.index(b"hvcC" if kind == "HEIF" else b"av1C") - 4
    (length,) = struct.unpack_from(">I", data, start)
    return data[start : start + length], data[data.index(b"mdat") + 4 :]


def boxed_file(
    items: Mapping[int, tuple[bytes, Extents]],
    properties: Sequence[bytes],
    has: Mapping[int, Sequence[int]],
    data: bytes,
    references: Sequence[tuple[bytes, int, Sequence[int]]] = (),
    brand: bytes = b"heic",
) -> bytes:
    """A file whose first item is the picture.

    Args:
        items: kind and extents by number.
        properties: boxes.
        has: the numbers (from 1) of each item's properties.
        data: what the items lie in.
        references: (kind, from, to).
        brand: heic or avif.
    """
    infos = [
        full_box(b"infe", 2, struct.pack(">HH4s", n, 0, kind), b"\0\0") for n, (kind, _) in items.items()
    ]
    links = [
        box(kind, struct.pack(f">HH{len(to)}H", number, len(to), *to)) for kind, number, to in references
    ]
    owned = [struct.pack(">HB", number, len(own)) + bytes(own) for number, own in sorted(has.items())]

    def head(start: int) -> bytes:
        places = [
            struct.pack(">HHH", number, 0, len(extents))
            + b"".join(struct.pack(">II", start + offset, length) for offset, length in extents)
            for number, (_, extents) in items.items()
        ]
        return box(b"ftyp", brand, bytes(4), b"mif1", brand) + full_box(
            b"meta", 0,
            full_box(b"hdlr", 0, struct.pack(">I4s13x", 0, b"pict")),
            full_box(b"pitm", 0, struct.pack(">H", next(iter(items)))),
            full_box(b"iinf", 0, struct.pack(">H", len(infos)), *infos),
            full_box(b"iloc", 0, b"\x44\0", struct.pack(">H", len(places)), *places),
            full_box(b"iref", 0, *links) if links else b"",
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", 0, struct.pack(">I", len(owned)), *owned)),
        )  # fmt: skip

    return head(len(head(0)) + 8) + box(b"mdat", data)
