"""How much a JPEG or JPEG 2000 file makes its decoder do, known from its markers before anything is decoded.

A scan of a progressive JPEG goes over the complete picture, and an empty one has some dozen bytes: a megabyte can
hold an hour of them. OpenJPEG makes kilobytes of each code-block and precinct, which may be four pixels wide, or one:
a file of a hundred bytes could take all memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

MAX_SCANS = 1000
MAX_SCANNED = 2**31  # pixels of all scans together; encoders write about ten scans
MAX_COUNTED = 2**27  # pixels of a picture; a larger one is refused because of its size
MAX_BLOCKS = 2**18  # of JPEG 2000: code-blocks and precincts; 40 megapixels in blocks of 32 x 32 have 160,000
MAX_TILES = 2**13
MAX_LAYERED = 2**24  # blocks of all quality layers together

_MARKER = re.compile(rb"\xff[\x01-\xfe]")  # a stuffed zero, or a byte that fills, is none
_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # restart markers are part of a scan
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # among the numbers of frames: tables
_SIZ, _COD, _COC, _SOT, _SOD = 0x51, 0x52, 0x53, 0x90, 0x93
_CODESTREAM = b"\xff\x4f\xff\x51"
_BOX = b"\0\0\0\x0cjP  "


def require_few_scans(data: bytes) -> None:
    """Refuse a JPEG whose scans go over too many pixels.

    Args:
        data: a file that begins with FF D8.

    Raises:
        ValueError: it has too many.
    """
    place, num_scans, pixels = 2, 0, 0
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return
        if marker in _BARE or place + 2 > len(data):
            continue
        segment, place = place, place + max(2, int.from_bytes(data[place : place + 2], "big"))
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and segment + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, segment + 3)
            pixels = max(pixels, min(height * width, MAX_COUNTED))
        elif marker == 0xDA:
            num_scans += 1
            if num_scans > MAX_SCANS or num_scans * pixels > MAX_SCANNED:
                raise ValueError(f"it is written in more than {num_scans - 1} scans of {pixels} pixels")
            end = _IN_SCAN.search(data, place)
            place = len(data) if end is None else end.start()


def is_jpeg2000(data: bytes) -> bool:
    """Whether these are the first bytes of a JPEG 2000 file."""
    return data.startswith((_CODESTREAM, _BOX))


def require_few_blocks(data: bytes) -> None:
    """Refuse a JPEG 2000 file that is cut into too many code-blocks, precincts or tiles.

    Args:
        data: the file; the codestream may be in a box.

    Raises:
        ValueError: it is.
    """
    start = data.find(_CODESTREAM)
    while start >= 0:
        _require_few_blocks(data, start)
        start = data.find(_CODESTREAM, start + 4)


def _require_few_blocks(data: bytes, start: int) -> None:
    size = None
    for marker, segment in _segments(data, start + 2):
        if marker == _SIZ and len(segment) >= 36:
            size = _Tiles(segment)
        elif size is not None and marker in (_COD, _COC):
            size.require_few(*_style(segment, marker, size.num_components))


def _segments(data: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """(marker, what follows its length) of the main header and of each tile-part's."""
    tile_part_end = None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SOD:  # the pixels, up to the next tile-part
            if tile_part_end is None or tile_part_end <= place:
                return
            place = tile_part_end
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker == _SOT and len(segment) >= 6:
            tile_part_length = int.from_bytes(segment[2:6], "big")
            tile_part_end = place + tile_part_length if tile_part_length else None  # None: the last one
        yield marker, segment
        place += 2 + max(2, length)


def _style(segment: bytes, marker: int, num_components: int) -> tuple[int, int, tuple[int, int], bytes]:
    """(layers, levels, exponents of a code-block's width and height, a byte of exponents for each precinct)."""
    if marker == _COC:
        skipped = 1 if num_components < 257 else 2
        has_precincts, layers, rest = segment[skipped : skipped + 1], 1, segment[skipped + 1 :]
    else:
        has_precincts, layers = segment[:1], int.from_bytes(segment[2:4], "big")
        rest = segment[5:]
    if len(rest) < 5:
        raise ValueError("a marker of its header ends early")
    levels = min(rest[0], 32)
    block = (rest[1] & 15) + 2, (rest[2] & 15) + 2
    precincts = rest[5 : 5 + levels + 1] if has_precincts[0] & 1 else b""
    return layers, levels, block, precincts.ljust(levels + 1, b"\xff")


class _Tiles:
    """The SIZ segment (ISO/IEC 15444-1, A.5.1): how large a tile is, and how many there are."""

    def __init__(self, segment: bytes) -> None:
        right, bottom, left, top, width, height, first_x, first_y = struct.unpack_from(">8L", segment, 2)
        self.num_components = int.from_bytes(segment[34:36], "big")
        across, down = max(0, right - left), max(0, bottom - top)
        self.width, self.height = min(width, across), min(height, down)
        self.num = _parts(right - first_x, width) * _parts(bottom - first_y, height)
        if self.num > MAX_TILES:
            raise ValueError(f"it is cut into {self.num} tiles")

    def require_few(self, layers: int, levels: int, block: tuple[int, int], precincts: bytes) -> None:
        """Raise ValueError for a coding style that cuts the tiles into too many parts; arguments as of `_style`."""
        num = 0
        for resolution, sizes in enumerate(precincts):
            scale = 1 << (levels - resolution)
            width, height = _parts(self.width, scale), _parts(self.height, scale)
            precinct = 1 << (sizes & 15), 1 << (sizes >> 4)
            num += _parts(width, precinct[0]) * _parts(height, precinct[1])
            # Above the first resolution a precinct holds parts of three bands of half its size.
            half = resolution > 0
            cut = [max(1, min(1 << b, p >> half)) for b, p in zip(block, precinct, strict=True)]
            band = _parts(width, 1 + half), _parts(height, 1 + half)
            num += (3 if half else 1) * _parts(band[0], cut[0]) * _parts(band[1], cut[1])
        num *= self.num * self.num_components
        if num > MAX_BLOCKS or num * layers > MAX_LAYERED:
            raise ValueError(f"it is cut into {num} blocks in {layers} layers")


def _parts(length: int, size: int) -> int:
    """How many parts of a size cover a length."""
    return -(-max(0, length) // max(1, size))
