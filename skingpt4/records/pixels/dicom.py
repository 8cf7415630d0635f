"""Photographs in DICOM files: VL Photographic, Dermoscopic Photography and Secondary Capture objects (PS3.3).

Only the elements that decide the pixels are read (`_TAGS`): the name of a person, a date or an institution never
becomes a value in this program. Orientation of the patient and pixel spacing are not read: the model knows neither.
Everything is bounded before it is inflated or decoded. pydicom is imported only when a DICOM file comes along.
"""

from __future__ import annotations

import functools
import io
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from skingpt4.records.pixels.headers import PictureFile
from skingpt4.records.pixels.rgb import STRIP_PIXELS, white_of
from skingpt4.records.pixels.windowing import grey_values
from skingpt4.support.errors import UserError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_PIXELS = 40_000_000  # of a frame; converting its colours takes 20 bytes a pixel
MAX_HEADER = 4 * 2**20  # bytes before the pixels
MAX_INFLATED = 256 * 2**20  # bytes of a deflated file
MAX_ELEMENTS = 10_000  # heads of elements and items that are read; a photograph has some hundreds
_PREAMBLE, _MAGIC = 128, b"DICM"
PREFIX = _PREAMBLE + len(_MAGIC)  # bytes by which a file is known
_PIXELS = 0x7FE00010
_PHOTOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.77.1.4": "VL Photographic Image",
    "1.2.840.10008.5.1.4.1.1.77.1.7": "Dermoscopic Photography Image",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image",
}
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_GREY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TAGS = [
    0x00080016,  # SOP class
    0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011,  # samples, colours, planes, frames, size
    0x00280100, 0x00280101, 0x00280102, 0x00280103,  # bits
    0x00280301,  # burnt-in annotation
    0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00283000, 0x00283010,  # windows, rescale, tables
    0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203,  # palettes
    0x7FE00001, 0x7FE00002, _PIXELS,
]  # fmt: skip


class DicomError(UserError):
    """A DICOM file that is no usable photograph; `reason` is one of `records.images.REASONS`."""

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Facts:
    """What a file says before its pixels; `burnt_in` is None where it does not say whether text is in the picture."""

    width: int
    height: int
    num_frames: int
    burnt_in: bool | None


def is_dicom(data: bytes) -> bool:
    """Whether these are the first bytes of a DICOM file (PS3.10, 7.1)."""
    return data[_PREAMBLE:PREFIX] == _MAGIC


def facts(data: bytes) -> Facts:
    """Check everything that can be checked without decoding.

    Args:
        data: the bytes of a file that `is_dicom`.

    Raises:
        DicomError: not a photograph, damaged, too large, or compressed in a way that cannot be decoded here.
    """
    with _reported():
        return _facts(_File.of(data, with_pixels=False).elements(with_pixels=False))


def first_frame(data: bytes) -> Image.Image:
    """The first frame as 8-bit RGB; raises as `facts`."""
    with _reported():
        file = _File.of(data, with_pixels=True)
        size = _facts(file.elements(with_pixels=False))
        elements = file.elements(with_pixels=True)
        if _PIXELS not in elements or not elements.PixelData:
            raise DicomError("holds no picture, or ends before its pixels")
        is_rgb = file.syntax not in _NATIVE and _require_frame(elements, file.syntax, size)
        values, kind = _decoded(elements, file.syntax)
        return _to_rgb(elements, values, "RGB" if is_rgb else kind)


@contextmanager
def _reported() -> Iterator[None]:
    """Whatever pydicom raises for a damaged file becomes one sentence, without the values that it may quote."""
    try:
        _quiet()
        yield
    except (DicomError, MemoryError):
        raise
    except Exception as error:
        raise DicomError(f"the DICOM file is damaged ({type(error).__name__})") from None


@functools.cache
def _quiet() -> None:
    """Load pydicom; its log and its warnings quote values of the file, so both are off."""
    try:
        from pydicom import config
    except ImportError:
        raise DicomError(
            "is a DICOM file, which needs pydicom: pip install 'skingpt4[clinic]'", "no_decoder"
        ) from None
    config.settings.reading_validation_mode = (
        config.IGNORE
    )  # what is wrong with a value we find out by using it
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|skingpt4\.records\.pixels")


@dataclass(frozen=True)
class _File:
    """The elements of a file as bytes, and how they are written."""

    syntax: str  # of the elements, and of the pixels
    body: bytes

    @classmethod
    def of(cls, data: bytes, with_pixels: bool) -> _File:
        """Read the file's own header; what is deflated is inflated only as far as it is needed."""
        from pydicom.filereader import read_dataset

        stream = _Elements(data[: PREFIX + MAX_HEADER])
        stream.seek(PREFIX)
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if "FileMetaInformationGroupLength" in meta:  # itself takes 12 bytes
            end = PREFIX + 12 + int(meta.FileMetaInformationGroupLength)
        else:
            end = stream.tell()
        if "TransferSyntaxUID" not in meta:
            raise DicomError("the DICOM file is damaged: it does not say how it is written")
        syntax = str(meta.TransferSyntaxUID)
        _require_class(str(meta.get("MediaStorageSOPClassUID", "")))
        if syntax == _DEFLATED:
            return cls(_NATIVE[1], _inflated(data[end:], with_pixels))
        _require_decoder(syntax)
        return cls(syntax, data[end:])

    def elements(self, with_pixels: bool) -> Dataset:
        """The elements in _TAGS, up to or with the pixels."""
        from pydicom.filereader import read_dataset
        from pydicom.uid import UID

        has_pixels = False

        def is_after(tag: int, vr: str | None, length: int) -> bool:
            nonlocal has_pixels
            is_behind, has_pixels = has_pixels, tag == _PIXELS  # whatever its tag: padding has low ones
            return is_behind or tag > _PIXELS or (tag == _PIXELS and not with_pixels)

        uid = UID(self.syntax)
        data = self.body if with_pixels else self.body[:MAX_HEADER]
        implicit, little = uid.is_implicit_VR, uid.is_little_endian
        return read_dataset(_Elements(data), implicit, little, stop_when=is_after, specific_tags=list(_TAGS))


class _Elements(io.BytesIO):
    """A file of at most MAX_ELEMENTS elements and items: pydicom also reads through those that are not asked for."""

    num_read = 0

    def read(self, size: int | None = -1) -> bytes:
        """As of every file; raises DicomError where there are too many heads of elements."""
        if size in (4, 8):  # of a tag, or of a tag and a length
            self.num_read += 1
            if self.num_read > MAX_ELEMENTS:
                raise DicomError(f"has more than {MAX_ELEMENTS} elements before its pixels")
        return super().read(size)


def _inflated(data: bytes, with_pixels: bool) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflate.decompress(data, MAX_INFLATED if with_pixels else MAX_HEADER)
    if with_pixels and inflate.unconsumed_tail:
        raise DicomError(f"has more than {MAX_INFLATED} bytes when it is inflated", "too_large")
    return body


def _require_class(uid: str) -> None:
    """Refuse what is not a photograph, by its SOP class.

    Raises:
        DicomError: another kind of object; its name is the standard's, never the file's own text.
    """
    from pydicom.uid import UID, UID_dictionary

    if uid not in _PHOTOGRAPHS:
        name = (
            UID(uid).name.removesuffix(" Storage") if uid in UID_dictionary else "an unknown kind of object"
        )
        raise DicomError(
            f"holds no photograph but {name}; VL Photographic, Dermoscopic Photography and Secondary Capture "
            "images are read",
            "not_a_photograph",
        )


def _require_decoder(syntax: str) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, UID_dictionary

    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:  # a video, or a private syntax
        pass
    name = UID(syntax).name if syntax in UID_dictionary else "a way that is not in the standard"
    raise DicomError(
        f"its pixels are compressed as {name}, which cannot be decoded here; save it uncompressed, as JPEG Baseline, "
        "JPEG 2000 or RLE, or as an ordinary JPEG or PNG file",
        "no_decoder",
    )


def _facts(elements: Dataset) -> Facts:
    if "SOPClassUID" in elements:  # the header of the file may say something else
        _require_class(str(elements.SOPClassUID))
    if "Rows" not in elements or "Columns" not in elements:
        raise DicomError("holds no picture, or ends before its pixels")
    width, height = int(elements.Columns), int(elements.Rows)
    if width * height > MAX_PIXELS:
        raise DicomError(f"{width} x {height} pixels is more than {MAX_PIXELS}", "too_large")
    kind, samples = str(elements.PhotometricInterpretation), int(elements.SamplesPerPixel)
    if samples != (3 if kind in _COLOUR else 1) or kind not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        known = ", ".join((*_GREY, *_COLOUR, "PALETTE COLOR"))
        raise DicomError(f"its pixels are in none of the colour systems {known}", "no_decoder")
    if kind == "PALETTE COLOR" and "RedPaletteColorLookupTableData" not in elements:
        # One in segments: some bytes stand for gigabytes, and pydicom does not count while it writes them out.
        raise DicomError("its palette is not written as a table", "no_decoder")
    if int(elements.BitsAllocated) not in (1, 8, 16):
        raise DicomError("its values have neither 1, 8 nor 16 bits", "no_decoder")
    burnt_in = {"YES": True, "NO": False}.get(str(elements.get("BurnedInAnnotation", "")).strip().upper())
    return Facts(width, height, max(1, int(elements.get("NumberOfFrames") or 1)), burnt_in)


def _require_frame(elements: Dataset, syntax: str, size: Facts) -> bool:
    """Compare the first compressed frame's own size with the header's before it is decoded.

    Returns:
        Whether it is decoded to RGB whatever the header says: a JPEG with Adobe's marker, which Pillow follows.

    Raises:
        DicomError: it would become another picture, or a far larger one.
    """
    from pydicom.encaps import get_frame

    frame = get_frame(elements.PixelData, 0, number_of_frames=size.num_frames)
    if syntax == _RLE:
        expected = size.width * size.height * int(elements.SamplesPerPixel) * int(elements.BitsAllocated) // 8
        if _rle_length(frame, 2 * expected + 2**16) > 2 * expected + 2**16:
            raise DicomError("its RLE pixels are more than its size says", "damaged")
        return False
    with Image.open(PictureFile(frame), formats=("JPEG", "JPEG2000")) as opened:
        if opened.size != (size.width, size.height):
            raise DicomError("its compressed picture has another size than its header says")
        return opened.mode == "RGB" and opened.info.get("adobe_transform") == 1


def _rle_length(frame: bytes, limit: int) -> int:
    """How many bytes the segments of an RLE frame (PS3.5, Annex G) become; counting ends above `limit`."""
    place, length = 64, 0
    while place < len(frame) and length <= limit:
        code = frame[place]
        literal = code < 128
        length += code + 1 if literal else 257 - code if code > 128 else 0
        place += code + 2 if literal else 2 if code > 128 else 1
    return length


def _decoded(elements: Dataset, syntax: str) -> tuple[np.ndarray, str]:
    """(h, w) or (h, w, 3) values of the first frame, and the colour system that they are in."""
    from pydicom.pixels import get_decoder

    values, about = get_decoder(syntax).as_array(elements, index=0, raw=True)
    return values, str(about["photometric_interpretation"])


def _to_rgb(elements: Dataset, values: np.ndarray, kind: str) -> Image.Image:
    """8-bit RGB, a strip at a time."""
    height, width = values.shape[:2]
    rows = max(1, STRIP_PIXELS // width)
    convert = _converter(elements, values, kind)
    rgb = Image.new("RGB", (width, height))
    for top in range(0, height, rows):
        strip = Image.fromarray(convert(values[top : top + rows]))
        rgb.paste(strip if strip.mode == "RGB" else strip.convert("RGB"), (0, top))
    return rgb


def _converter(elements: Dataset, values: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """What turns values into 8-bit grey or RGB."""
    from pydicom.pixels.processing import apply_color_lut, convert_color_space

    if kind in _GREY:
        return grey_values(elements, values, inverted=kind == "MONOCHROME1")
    if kind == "PALETTE COLOR":
        palette = apply_color_lut(np.arange(int(values.min()), int(values.max()) + 1), elements)
        return lambda strip: _eight_bit(apply_color_lut(strip, elements), int(palette.max()))
    if kind.startswith("YBR_FULL"):
        if values.dtype != np.uint8:
            raise DicomError("its YBR_FULL values do not have 8 bits", "no_decoder")
        return lambda strip: convert_color_space(strip, "YBR_FULL", "RGB")
    peak = int(values.max())
    return lambda strip: _eight_bit(strip, peak)


def _eight_bit(values: np.ndarray, peak: int) -> np.ndarray[Any, Any]:
    """Colours scaled as those of other deep pictures are; see `rgb.white_of`."""
    if values.dtype == np.uint8:
        return values
    return (values / white_of(peak) * 255.0).astype(np.uint8)
