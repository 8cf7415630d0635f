"""Changes of a picture at a stated strength, to test how robust answers are, and pictures that show no case.

A change is named `KIND:STRENGTH`, for example `rotate:15` or `jpeg:20`; `python -m eval.run --perturb` takes it.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from skingpt4.support.errors import UserError


class PerturbationError(UserError):
    """A change that does not exist, or a strength out of range; the message lists what exists."""


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Turned, then cut to the largest middle part without empty corners."""
    angle = np.deg2rad(abs(degrees) % 180)
    sine, cosine = abs(np.sin(angle)), abs(np.cos(angle))
    width, height = image.size
    # of a part with the image's own shape
    scale = min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    left, top = (turned.width - width * scale) / 2, (turned.height - height * scale) / 2
    return turned.crop((round(left), round(top), round(left + width * scale), round(top + height * scale)))


def _crop(image: Image.Image, share: float) -> Image.Image:
    """The middle part with this share of each side."""
    width, height = image.size
    left, top = width * (1 - share) / 2, height * (1 - share) / 2
    return image.crop((round(left), round(top), round(width - left), round(height - top)))


def _resolution(image: Image.Image, share: float) -> Image.Image:
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image, quality: float) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=round(quality))
    return Image.open(buffer).convert("RGB")


# kind: (change, lowest and highest strength, the strengths that are run where none is named)
KINDS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float, tuple[float, ...]]] = {
    "rotate": (_rotate, -180, 180, (15,)),
    "light": (lambda i, factor: ImageEnhance.Brightness(i).enhance(factor), 0.1, 3, (0.7, 1.3)),
    "blur": (lambda i, radius: i.filter(ImageFilter.GaussianBlur(radius)), 0, 20, (2,)),
    "jpeg": (_jpeg, 1, 95, (20,)),
    "crop": (_crop, 0.1, 1, (0.8,)),
    "resolution": (_resolution, 0.02, 1, (0.5,)),
}
STANDARD = tuple(f"{kind}:{strength:g}" for kind, (_, _, _, usual) in KINDS.items() for strength in usual)
BLANK, NOISE, OTHER = CONTROLS = ("blank_image", "noise_image", "other_image")


def perturb(image: Image.Image, name: str) -> Image.Image:
    """The picture (RGB) changed as the name says; the given one stays as it is.

    Raises:
        PerturbationError: unknown kind, or a strength out of its range.
    """
    kind, _, text = name.partition(":")
    if kind not in KINDS:
        raise PerturbationError(f"{name!r} is not a change of a picture; there are {', '.join(STANDARD)}")
    change, low, high, _ = KINDS[kind]
    try:
        strength = float(text)
    except ValueError:
        strength = float("nan")
    if not low <= strength <= high:
        raise PerturbationError(f"{name!r}: the strength of {kind} is a number from {low:g} to {high:g}")
    return change(image, strength)


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of uniform noise, a function of the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def other_cases(classes: list[str | None], seed: int) -> list[int]:
    """For each case the number of another, of another class where there is one, each shown about equally often."""
    rng = np.random.default_rng(seed)
    count = len(classes)
    shown = np.zeros(count)
    chosen = []
    for place, own in enumerate(classes):
        others = [i for i in range(count) if i != place]
        different = [i for i in others if classes[i] != own] or others
        if not different:
            raise PerturbationError("other_image needs at least two cases")
        choice = min(different, key=lambda i: (shown[i], rng.random()))
        shown[choice] += 1
        chosen.append(choice)
    return chosen
