"""How much a HEIF or AVIF file makes its decoder do, known from its list of items before libheif or libavif reads it.

The items of such a file may share their bytes, and a picture may be laid together from the same tile thousands of
times: a file of a few kilobytes could take gigabytes, or hours. ISO/IEC 14496-12, 8.11, says how the boxes are
written, and ISO/IEC 23008-12 what the items are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_ITEMS = 2048  # tiles, thumbnails and metadata; 80 megapixels in tiles of 512 x 512 have 320
MAX_EXTENTS = 2**14
MAX_BOXES = 2**14
MAX_DECODED = 240_000_000  # pixels of all coded items, each as often as it is used
MAX_FRAMES = 8  # of a picture in AV1: it may have four layers; all that are hidden are decoded too
SHARED = 2**16  # bytes that items may have in common

_FRAME_HEADER, _FRAME = 3, 6  # kinds of AV1's units


@dataclass
class _Item:
    kind: bytes = b""
    extents: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # (where from: 0 the file, offset, length)
    properties: list[int] = field(default_factory=list)  # from 1
    made_of: list[int] = field(default_factory=list)


def is_boxed(data: bytes) -> bool:
    """Whether these are the first bytes of an ISO base media file."""
    return data[4:8] == b"ftyp"


def require_few_items(data: bytes) -> None:
    """Refuse a file of too many items, or of items that are together more than the file.

    Args:
        data: a file that `is_boxed`.

    Raises:
        ValueError: it is one.
    """
    try:
        for kind, start, end in _boxes(data, 0, len(data)):
            if kind == b"meta":
                _Meta(data, start + 4, end).check()
            elif kind == b"moov":
                for table in _inner(data, (start, end), (b"trak", b"mdia", b"minf", b"stbl")):
                    _require_few_frames(_first_sample(data, table))
    except (struct.error, IndexError):
        raise ValueError("its list of items ends early") from None


def _inner(data: bytes, place: tuple[int, int], kinds: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Where the boxes of these kinds begin and end, each inside the one before."""
    if not kinds:
        yield place
        return
    for kind, *found in _boxes(data, *place):
        if kind == kinds[0]:
            yield from _inner(data, (found[0], found[1]), kinds[1:])


def _first_sample(data: bytes, table: tuple[int, int]) -> bytes:
    """The first picture of an animation, the only one that is read; `table` is where its `stbl` lies."""
    places = {kind: start for kind, start, _ in _boxes(data, *table)}
    if b"stsz" not in places or not {b"stco", b"co64"} & places.keys():
        return b""
    same, num = struct.unpack_from(">II", data, places[b"stsz"] + 4)
    first = int.from_bytes(data[places[b"stsz"] + 12 : places[b"stsz"] + 16], "big")
    wide = b"co64" in places
    (start,) = struct.unpack_from(">Q" if wide else ">I", data, places[b"co64" if wide else b"stco"] + 8)
    return data[start : start + (same or first)] if num else b""


def _boxes(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin, end) of what each box holds."""
    num = 0
    while place + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = end if size == 0 else min(end, place + size)
        num += 1
        if num > MAX_BOXES:
            raise ValueError(f"it has more than {MAX_BOXES} boxes in one")
        if stop < start:
            return
        yield kind, start, stop
        place = stop


class _Meta:
    """The items of a `meta` box."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data, self.items = data, dict[int, _Item]()
        self.sizes: dict[int, int] = {}  # pixels, by the number of the property
        self.inner = 0  # where the data box inside begins
        self.num_extents = 0
        self._known: dict[int, int] = {}  # pixels that are decoded for an item
        readers = {
            b"iloc": self._places,
            b"iinf": self._kinds,
            b"iref": self._references,
            b"iprp": self._properties,
        }
        for kind, begin, stop in _boxes(data, start, end):
            if kind == b"idat":
                self.inner = begin
            elif kind in readers:
                readers[kind](begin, stop)

    def _item(self, number: int) -> _Item:
        if number not in self.items and len(self.items) >= MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} items")
        return self.items.setdefault(number, _Item())

    def _numbers(self, layout: str, place: int) -> tuple[tuple[int, ...], int]:
        """Big-endian numbers, and where they end."""
        size = struct.calcsize(">" + layout)
        return struct.unpack_from(">" + layout, self.data, place), place + size

    def _sized(self, size: int, place: int) -> tuple[int, int]:
        """A number of 0, 4 or 8 bytes, and where it ends."""
        return int.from_bytes(self.data[place : place + size], "big"), place + size

    def _places(self, place: int, _: int) -> None:
        version = self.data[place]
        (sizes, more), place = self._numbers("BB", place + 4)
        (num,), place = self._numbers("I" if version == 2 else "H", place)
        index_size = more & 15 if version else 0
        for _ in range(min(num, MAX_ITEMS + 1)):
            (number,), place = self._numbers("I" if version == 2 else "H", place)
            method = 0
            if version:
                (method,), place = self._numbers("H", place)
            base, place = self._sized(more >> 4, place + 2)
            (num_extents,), place = self._numbers("H", place)
            item = self._item(number)
            self.num_extents += num_extents
            if self.num_extents > MAX_EXTENTS:
                raise ValueError(f"its items are in more than {MAX_EXTENTS} pieces")
            for _extent in range(num_extents):
                offset, place = self._sized(sizes >> 4, place + index_size)
                length, place = self._sized(sizes & 15, place)
                item.extents.append((method & 15, base + offset, length or len(self.data)))

    def _kinds(self, place: int, end: int) -> None:
        place += 6 if self.data[place] == 0 else 8
        for kind, begin, _ in _boxes(self.data, place, end):
            if kind == b"infe" and self.data[begin] >= 2:
                (number,), place = self._numbers("H" if self.data[begin] == 2 else "I", begin + 4)
                self._item(number).kind = self.data[place + 2 : place + 6]

    def _references(self, place: int, end: int) -> None:
        layout = "I" if self.data[place] else "H"
        for kind, begin, _ in _boxes(self.data, place + 4, end):
            (number, num), begin = self._numbers(f"{layout}H", begin)
            if kind == b"dimg":
                others, _ = self._numbers(f"{num}{layout}", begin)
                self._item(number).made_of += others

    def _properties(self, place: int, end: int) -> None:
        for kind, begin, stop in _boxes(self.data, place, end):
            if kind == b"ipco":
                for number, (name, start, _) in enumerate(_boxes(self.data, begin, stop), 1):
                    if name == b"ispe":
                        (width, height), _ = self._numbers("II", start + 4)
                        self.sizes[number] = width * height
            elif kind == b"ipma":
                self._associations(begin)

    def _associations(self, place: int) -> None:
        version, is_wide = self.data[place], self.data[place + 3] & 1
        (num,), place = self._numbers("I", place + 4)
        for _ in range(min(num, MAX_ITEMS + 1)):
            (number, count), place = self._numbers("IB" if version else "HB", place)
            values, place = self._numbers(f"{count}{'H' if is_wide else 'B'}", place)
            self._item(number).properties += [value & (0x7FFF if is_wide else 0x7F) for value in values]

    def check(self) -> None:
        """Raise ValueError if the items are more than any photograph has."""
        num_bytes = sum(length for item in self.items.values() for _, _, length in item.extents)
        if num_bytes > len(self.data) + SHARED:
            raise ValueError(f"its items claim {num_bytes} bytes of {len(self.data)}")
        parts = {number for item in self.items.values() for number in item.made_of}
        pixels = sum(self._pixels(number, ()) for number in self.items.keys() - parts)
        if pixels > MAX_DECODED or (parts and parts >= self.items.keys()):
            raise ValueError(f"its pictures are made of {pixels} pixels")
        for item in self.items.values():
            if item.kind == b"av01":
                _require_few_frames(self._content(item))

    def _pixels(self, number: int, above: tuple[int, ...]) -> int:
        """Pixels that are decoded for an item."""
        if number in above or len(above) > 8:
            raise ValueError("its pictures are made of each other")
        if number not in self._known:
            item = self.items.get(number, _Item())
            own = max((self.sizes.get(place, 0) for place in item.properties), default=0)
            if above and not own and not item.made_of:
                raise ValueError("a part of its picture does not say how large it is")
            inner = sum(self._pixels(part, (*above, number)) for part in item.made_of)
            self._known[number] = inner if item.made_of else own
        return self._known[number]

    def _content(self, item: _Item) -> bytes:
        starts = {0: 0, 1: self.inner}
        return b"".join(
            self.data[starts[method] + offset : starts[method] + offset + length]
            for method, offset, length in item.extents
            if method in starts
        )


def _require_few_frames(content: bytes) -> None:
    if _num_frames(content) > MAX_FRAMES:
        raise ValueError(f"a picture has more than {MAX_FRAMES} frames")


def _num_frames(content: bytes) -> int:
    """Frames of an AV1 item, by the heads of its units (AV1 specification, 5.3); counting ends above MAX_FRAMES."""
    place = num = 0
    while place < len(content) and num <= MAX_FRAMES:
        head = content[place]
        place += 2 if head & 4 else 1
        num += (head >> 3) & 15 in (_FRAME_HEADER, _FRAME)
        if not head & 2:  # without a size: up to the end
            break
        size = shift = 0
        while place < len(content):
            byte = content[place]
            size |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128 or shift > 56:
                break
        place += size
    return num
