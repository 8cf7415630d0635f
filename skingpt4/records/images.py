"""Images: opened safely with Pillow, brought to upright RGB, and turned into normalised tensors."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skingpt4.records.archives import StoreError, TooLarge, read_bytes
from skingpt4.records.naming import hint
from skingpt4.support.errors import UserError, reason_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 80_000_000  # a decompression bomb otherwise; a 48-megapixel phone picture passes
MAX_BYTES = 512 * 2**20  # of a file, before it is read
MIN_SIDE = 8
# Formats of photographs. Pillow knows more; some of them (EPS) start another program to be drawn.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
# Why an image is refused, for programs; the message says it for people.
REASONS = ("missing", "unreadable", "not_an_image", "damaged", "too_large", "too_small")
PASSING = ("missing", "unreadable")  # a file that is away, a time-out: the next run tries again


class ImageError(UserError):
    """A file that is not a usable image; the message says which and why, `reason` is one of REASONS."""

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


def open_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Open a file, an archive's member, or a file's bytes as an upright RGB image without metadata.

    EXIF orientation is applied, transparency is laid over white, and an animation gives its first frame.

    Args:
        source: a path (`shards/000000.tar/images/x.jpg` is a member) or the file's bytes.
        name: what to call it in an error; the path by default.

    Raises:
        ImageError: missing, not an image, truncated, too large or too small.
    """
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _read(source, name)
    register_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ImageError(
                        f"{name}: {opened.width} x {opened.height} pixels is more than {MAX_PIXELS}",
                        "too_large",
                    )
                opened.load()
                return to_rgb(opened, name)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: is not a picture that can be read (JPEG, PNG, WebP, HEIC, AVIF, ... are)",
            "not_an_image",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: has more than {MAX_PIXELS} pixels", "too_large") from None
    except (OSError, SyntaxError, EOFError, ValueError, RuntimeError) as error:  # Pillow's, of damaged files
        raise ImageError(f"{name}: the picture is damaged ({error})", "damaged") from None


def _read(path: str | Path, name: str) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such picture{hint(path)}", "missing") from None
    except TooLarge as error:
        raise ImageError(str(error), "too_large") from None
    except StoreError as error:
        raise ImageError(f"{name}: cannot be read ({error})", "unreadable") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({reason_of(error)})", "unreadable") from None


@functools.cache
def register_heif() -> None:
    """Teach Pillow HEIC, the format of phones; it reads AVIF itself."""
    from pillow_heif import register_heif_opener

    register_heif_opener()


def to_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """Upright RGB without metadata; see `open_image`.

    Raises:
        ImageError: a side has fewer than MIN_SIDE pixels.
    """
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels show nothing; at least {MIN_SIDE} a side",
            "too_small",
        )
    with contextlib.suppress(Exception):  # damaged EXIF data, of many kinds: the pixels are as good as before
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    clean = Image.new("RGB", rgb.size)
    clean.paste(rgb)
    return clean


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits (not clipped), its transparent value, if any, made white."""
    grey = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I;16") or grey.max() > 255 else 255.0
    scaled = np.clip(grey / top * 255.0, 0, 255).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[grey == clear] = 255
    return Image.fromarray(scaled)


def to_tensor(
    image: Image.Image,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    box: tuple[float, float, float, float] | None = None,
) -> Tensor:
    """Resize (bicubic, aspect ratio not kept, as BLIP-2 evaluates) and normalise.

    Args:
        image: RGB.
        size: side of the square result in pixels.
        mean: per channel, on the scale 0 to 1.
        std: per channel, on the scale 0 to 1.
        box: (left, top, right, bottom) of a crop to take first, in pixels.

    Returns:
        (3, size, size) float32.
    """
    import torch  # here: there are many processes that only read images, and each should stay small

    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255.0
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


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
