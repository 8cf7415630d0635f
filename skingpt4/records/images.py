"""Images: opened safely with Pillow, brought to upright RGB, and turned into normalised tensors."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from skingpt4.records.archives import MAX_BYTES, StoreError, TooLarge, read_bytes
from skingpt4.records.naming import hint
from skingpt4.records.pixels import dicom
from skingpt4.records.pixels.deep_colour import brighten, has_deep_colour, is_dark
from skingpt4.records.pixels.headers import PictureFile, limit_pillow
from skingpt4.records.pixels.rgb import flattened
from skingpt4.support.errors import UserError, reason_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 80_000_000  # a decompression bomb otherwise
# Of a JPEG: telephones write 108 megapixels. One with more than MAX_PIXELS is decoded at half its width and height,
# which takes a quarter of the memory. Of a smaller one every pixel is decoded, as it always was.
MAX_JPEG_PIXELS = 120_000_000
# OpenJPEG takes 20 to 25 bytes a pixel, where the others take 8 to 16, and ten seconds for 80 megapixels.
MAX_JPEG2000_PIXELS = 40_000_000
LIMITS = {"JPEG": MAX_JPEG_PIXELS, "MPO": MAX_JPEG_PIXELS, "JPEG2000": MAX_JPEG2000_PIXELS}
MAX_TIFF_SCANS = 20  # of a JPEG inside; libtiff's own 100 take half a minute
MIN_SIDE = 8
# Formats of photographs. Pillow knows more; some of them (EPS) start another program to be drawn.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
# Why an image is refused, for programs; the message says it for people.
REASONS = (
    "missing", "unreadable", "not_an_image", "damaged", "too_large", "too_small",
    "not_a_photograph", "no_decoder",  # of DICOM files
)  # fmt: skip
PASSING = ("missing", "unreadable")  # a file that is away, a time-out: the next run tries again
# What makes a picture upright, by its EXIF orientation. `ImageOps.exif_transpose` writes all of EXIF again as well,
# which takes minutes where there is much.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# What people should know about a picture that is used.
REMARKS = {
    "burnt_in_text": "the DICOM file says that text is burnt into the picture; it may name a person",
    "burnt_in_unknown": "the DICOM file does not say whether text is burnt into the picture; look before sharing it",
    "first_frame": "the DICOM file holds several frames; the first one is used",
}


class ImageError(UserError):
    """A file that is not a usable image; the message says which and why, `reason` is one of REASONS."""

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


def open_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Open a file, an archive's member, or a file's bytes as an upright RGB image without metadata.

    EXIF orientation is applied, transparency is laid over white, and an animation gives its first frame. A JPEG of
    more than MAX_PIXELS comes at half its width and height. `remarks` says what else is known of a DICOM file.

    Args:
        source: a path (`shards/000000.tar/images/x.jpg` is a member) or the file's bytes.
        name: what to call it in an error; the path by default.

    Raises:
        ImageError: missing, not an image, truncated, too large or too small.
    """
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else read_picture(source, name)
    if dicom.is_dicom(data):
        _dicom_facts(data, name)
        with _dicom_errors(name):
            return dicom.first_frame(data)
    with _header(data, name) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            opened.draft(None, (opened.width // 2, opened.height // 2))
        deep = has_deep_colour(opened)
        opened.load()
        if deep and is_dark(opened):
            with _header(data, name) as low:
                brighten(opened, low)
        upright = _upright(opened)
        if upright is not opened:
            opened.close()  # so that there are never more than two copies of the pixels
        return flattened(upright)


def num_pixels(data: bytes, name: str = "the picture") -> int:
    """How many pixels a picture that `open_image` would take has, from its header alone.

    Raises:
        ImageError: not an image, too large or too small.
    """
    if dicom.is_dicom(data):
        facts = _dicom_facts(data, name)
        return facts.width * facts.height
    with _header(data, name) as opened:
        return opened.width * opened.height


def remarks(data: bytes) -> tuple[str, ...]:
    """Which of REMARKS hold for a picture that `open_image` takes."""
    if not dicom.is_dicom(data):
        return ()
    facts = _dicom_facts(data, "the picture")
    burnt_in = {True: "burnt_in_text", None: "burnt_in_unknown"}.get(facts.burnt_in)
    return (*([burnt_in] if burnt_in else []), *(["first_frame"] if facts.num_frames > 1 else []))


def _dicom_facts(data: bytes, name: str) -> dicom.Facts:
    with _dicom_errors(name):
        facts = dicom.facts(data)
    _require_min_side(facts.width, facts.height, name)
    return facts


@contextlib.contextmanager
def _dicom_errors(name: str) -> Iterator[None]:
    try:
        yield
    except dicom.DicomError as error:
        raise ImageError(f"{name}: {error}", error.reason) from None


@contextlib.contextmanager
def _header(data: bytes, name: str) -> Iterator[Image.Image]:
    """A picture whose header is read and whose size is allowed; what goes wrong in the block is an `ImageError`."""
    prepare_pillow()
    try:
        file = PictureFile(data)
        with Image.open(file, formats=FORMATS) as opened:
            file.reads_header = False
            limit = LIMITS.get(opened.format or "", MAX_PIXELS)
            if opened.width * opened.height > limit:
                raise ImageError(
                    f"{name}: {opened.width} x {opened.height} pixels is more than {limit}", "too_large"
                )
            _require_min_side(*opened.size, name)
            yield opened
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: is not a picture that can be read (JPEG, PNG, WebP, HEIC, AVIF, DICOM, ... are)",
            "not_an_image",
        ) from None
    except Image.DecompressionBombError:  # the header alone promises a multiple of what any format may have
        raise ImageError(f"{name}: has more than {MAX_JPEG_PIXELS} pixels", "too_large") from None
    except (OSError, SyntaxError, EOFError, ValueError, RuntimeError) as error:  # Pillow's, of damaged files
        raise ImageError(f"{name}: the picture is damaged ({error})", "damaged") from None


def read_picture(path: str | Path, name: str) -> bytes:
    """The bytes of a picture's file or of an archive's member, at most MAX_BYTES.

    Raises:
        ImageError: it is missing, too large, or cannot be read.
    """
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such picture{hint(path)}", "missing") from None
    except TooLarge:
        raise ImageError(f"{name}: has more than {MAX_BYTES} bytes", "too_large") from None
    except StoreError as error:
        raise ImageError(f"{name}: cannot be read ({error})", "unreadable") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({reason_of(error)})", "unreadable") from None


@functools.cache
def prepare_pillow() -> None:
    """Teach Pillow HEIC, the format of phones (it reads AVIF itself), and limits; that of pixels stays with us."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    limit_pillow()
    os.environ["LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER"] = str(MAX_TIFF_SCANS)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def to_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A copy as upright RGB without metadata; see `open_image`.

    Raises:
        ImageError: a side has fewer than MIN_SIDE pixels.
    """
    _require_min_side(*image.size, name)
    return flattened(_upright(image))


def clean_rgb(image: Image.Image) -> Image.Image:
    """The image itself if it is as `open_image` returns one; otherwise a copy, see `to_rgb`."""
    if image.mode != "RGB" or image.info or min(image.size) < MIN_SIDE:
        return to_rgb(image)
    return image


def _require_min_side(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{name}: {width} x {height} pixels show nothing; at least {MIN_SIDE} a side",
            "too_small",
        )


def _upright(image: Image.Image) -> Image.Image:
    """A turned copy if the EXIF orientation says so, otherwise the image itself."""
    with contextlib.suppress(Exception):  # damaged EXIF data, of many kinds: the pixels are as good as before
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return image if turn is None else image.transpose(turn)
    return image


def to_tensor(
    image: Image.Image,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    box: tuple[float, float, float, float] | None = None,
    crops: int = 1,
    interpolation: str = "bicubic",
) -> Tensor:
    """Resize (aspect ratio not kept, as BLIP-2 evaluates) and normalise.

    Args:
        image: RGB.
        size: side of the square result in pixels.
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        box: (left, top, right, bottom) of a crop to take first, in pixels.
        crops: 1, or 1 + n x n: the picture, then its tiles row by row, each resized to the same size.
        interpolation: `vision.interpolation`, one of Pillow's names.

    Returns:
        (3, size, size) float32; (crops, 3, size, size) with several crops.
    """
    import torch  # here: there are many processes that only read images, and each should stay small

    if crops > 1:
        boxes = (box, *tile_boxes(box or (0, 0, *image.size), math.isqrt(crops - 1)))
        return torch.stack([to_tensor(image, size, mean, std, each, 1, interpolation) for each in boxes])
    resized = image.resize((size, size), Image.Resampling[interpolation.upper()], box=box)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255.0
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def tile_boxes(
    box: tuple[float, float, float, float], num_rows: int
) -> list[tuple[float, float, float, float]]:
    """A box cut into rows and as many columns of equal tiles, row by row; of a tiny image a tile has one pixel."""
    left, top, right, bottom = box
    width, height = (right - left) / num_rows, (bottom - top) / num_rows
    places = [(column, row) for row in range(num_rows) for column in range(num_rows)]
    return [
        (left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height)
        for column, row in places
    ]


def random_crop_box(
    width: int, height: int, rng: np.random.Generator, scale: tuple[float, float] = (0.5, 1.0)
) -> tuple[float, float, float, float]:
    """A random crop of `scale` of the area and aspect ratio 3/4 to 4/3 (torchvision's RandomResizedCrop)."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, 3 / 4), 4 / 3)  # the middle, as wide or high as the ratio allows
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
