"""What a picture's file holds beside its pixels, bounded before Pillow reads it: little memory and little time.

Pillow copies the data of every entry of a directory (TIFF, and EXIF in any format), though thousands of entries may
point at the same bytes; it inflates every text and profile of a PNG, and joins the blocks of a GIF's comment one by
one. So a file of 100 kB could take gigabytes or minutes before its size in pixels is known.
"""

from __future__ import annotations

import io
import struct
from typing import IO

from PIL import Image, PngImagePlugin, TiffImagePlugin

from skingpt4.records.pixels.codestreams import is_jpeg2000, require_few_blocks, require_few_scans
from skingpt4.records.pixels.items import is_boxed, require_few_items

MAX_READS = 2**17  # calls that read a header; Pillow skips what it does not know byte by byte
MAX_GIF_HEADER = (
    2**19
)  # bytes before the first frame: comments and profiles, joined in time that grows quadratically
MAX_EXIF_BLOCKS = 256  # of a JPEG with all that are embedded in it, joined likewise
MAX_PNG_CHUNKS = 2**15  # of 8 KiB in most files
MAX_INFLATED_CHUNKS = 64  # texts and profiles of a PNG; Pillow inflates each to 1 MiB at most
MAX_PNG_TEXT = 2**23  # characters of all texts, of up to 4 bytes
MAX_ENTRIES = 512  # of a directory
MAX_NUMBERS = 2**18  # of all entries of a directory: 40 bytes each as Python's integers
MAX_RATIONALS = 2**12  # of all entries of a directory: 600 bytes each as Pillow's fractions
SHARED = 2**16  # bytes that entries may have in common

_PREFIX = b"Exif\0\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_INFLATED = (b"iCCP", b"iTXt", b"zTXt")
# Bytes of a value by its type: TIFF 6.0, section 2, and the BigTIFF extension.
_UNITS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_BYTES, _RATIONALS = (1, 2, 7), (5, 10)


class PictureFile(io.BytesIO):
    """The bytes of a picture's file; how much is read is bounded while `reads_header` is true.

    Raises:
        ValueError: more is stored beside the pixels than any photograph has; at once, or from `read`.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads_header = True
        self._reads_left = MAX_READS
        self._bytes_left = MAX_GIF_HEADER if data.startswith(b"GIF8") else None
        if data.startswith(_PNG):
            _require_few_chunks(data)
        elif data.startswith(b"\xff\xd8"):
            if data.count(_PREFIX) > MAX_EXIF_BLOCKS:
                raise ValueError(f"it has more than {MAX_EXIF_BLOCKS} EXIF blocks")
            require_few_scans(data)
        elif is_jpeg2000(data):
            require_few_blocks(data)
        elif is_boxed(data):
            require_few_items(data)

    def read(self, size: int | None = -1) -> bytes:
        """As of every file; raises ValueError where a header goes on for too long."""
        data = super().read(size)
        if self.reads_header:
            self._reads_left -= 1
            if self._bytes_left is not None:
                self._bytes_left -= len(data)
            if self._reads_left < 0 or (self._bytes_left or 0) < 0:
                raise ValueError("too much comes before its pixels")
        return data


def _require_few_chunks(data: bytes) -> None:
    place, num_inflated = len(_PNG), 0
    for _ in range(MAX_PNG_CHUNKS):
        if place + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, place)
        num_inflated += kind in _INFLATED
        if num_inflated > MAX_INFLATED_CHUNKS:
            raise ValueError(f"it has more than {MAX_INFLATED_CHUNKS} texts and colour profiles")
        place += 12 + length
    raise ValueError(f"it has more than {MAX_PNG_CHUNKS} chunks")


def require_small_directory(file: IO[bytes], layout: str, is_big: bool) -> None:
    """Refuse a directory whose entries together have more data than the file; the place in the file stays.

    Entries whose data lie behind the end do not count: nobody reads them.

    Args:
        file: a TIFF file or an EXIF block, at the directory.
        layout: `<` or `>`, the order of bytes.
        is_big: BigTIFF.

    Raises:
        ValueError: too many entries, or too much data.
    """
    start = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = struct.Struct(layout + ("Q" if is_big else "H"))
    row = struct.Struct(layout + ("HHQQ" if is_big else "HHLL"))
    inline = 8 if is_big else 4
    try:
        (num_entries,) = head.unpack(file.read(head.size))
        if num_entries > MAX_ENTRIES:
            raise ValueError(f"its directory has {num_entries} entries; at most {MAX_ENTRIES} are read")
        rows = file.read(num_entries * row.size)
    except struct.error:  # the file ends here
        return
    finally:
        file.seek(start)
    num_bytes = num_numbers = num_rationals = 0
    for _, kind, count, offset in row.iter_unpack(rows[: len(rows) // row.size * row.size]):
        size = count * _UNITS.get(kind, 1)
        if size <= inline or offset + size > length:
            continue
        num_bytes += size
        num_rationals += count if kind in _RATIONALS else 0
        num_numbers += count if kind not in (*_BYTES, *_RATIONALS) else 0
    if num_bytes > length + SHARED:
        raise ValueError(f"its directory claims {num_bytes} bytes of {length}")
    if num_numbers > MAX_NUMBERS or num_rationals > MAX_RATIONALS:
        raise ValueError("its directory holds more numbers than a photograph has")


def limit_pillow() -> None:
    """Make Pillow check every directory before it reads it, whatever format it is in, and keep few texts of a PNG.

    To be called once. Pillow has no setting for directories, and reads some (of AVIF) before it returns a picture.
    """
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_TEXT
    directory, exif = TiffImagePlugin.ImageFileDirectory_v2, Image.Exif
    load_directory, load_exif = directory.load, exif.load

    def load_small(self: TiffImagePlugin.ImageFileDirectory_v2, fp: IO[bytes]) -> None:
        require_small_directory(fp, self._endian, self._bigtiff)
        load_directory(self, fp)

    def load_once_prefixed(self: Image.Exif, data: bytes) -> None:
        place = 0  # Pillow copies the rest of the block for each prefix
        while data.startswith(_PREFIX, place):
            place += len(_PREFIX)
        load_exif(self, data[place:])

    directory.load = load_small  # type: ignore[method-assign]
    exif.load = load_once_prefixed  # type: ignore[method-assign]
