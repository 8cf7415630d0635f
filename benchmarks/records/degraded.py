"""Images with one known fault each: phantoms blurred, exposed, hazed or shrunk by known amounts; images of no skin.

A phantom is drawn at 448 x 448 pixels and enlarged twofold, so that it has more than 800 x 600; the quality gate
assesses focus on a copy with the area of 448 x 448 pixels, where the enlargement has lost nothing. Every image, clean
ones included, gets noise and JPEG compression at the end, after its fault, as from a camera.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, uniform_filter1d

from data.phantoms.scene import choose_scene
from data.phantoms.splits import render_phantom
from skingpt4.taxonomy.taxonomy import CLASSES

SIDE, ENLARGED = 448, 2  # pixels; the sigma of a blur below is in pixels of the 448
SKIN_TYPES = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Fault:
    """The finding expected of the gate (`kind`), the strength, and what adds the fault to (h, w, 3) of 0 to 1."""

    kind: str
    strength: str
    apply: Callable[[np.ndarray], np.ndarray]


def clean_phantoms(seed: int, per_type: int) -> Iterator[tuple[int, np.ndarray]]:
    """(Fitzpatrick type, image (896, 896, 3) float32 of 0 to 1), of all classes and body sites in turn."""
    index = 0
    for number in range(per_type):
        for tone in SKIN_TYPES:
            name = CLASSES[(number * len(SKIN_TYPES) + tone) % len(CLASSES)]
            while choose_scene(seed, "quality", index, name).tone != tone:
                index += 1
            drawn = Image.fromarray(render_phantom(seed, "quality", index, name, SIDE).image)
            index += 1
            large = drawn.resize((SIDE * ENLARGED, SIDE * ENLARGED), Image.Resampling.BICUBIC)
            yield tone, np.asarray(large, np.float32) / 255


def photograph(values: np.ndarray, rng: np.random.Generator, noise: float = 0.008) -> Image.Image:
    """Add noise (standard deviation on the scale 0 to 1) and JPEG compression of quality 90."""
    noisy = values + noise * rng.standard_normal(values.shape, dtype=np.float32)
    buffer = io.BytesIO()
    Image.fromarray((np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return Image.open(buffer).convert("RGB")


# --- faults --------------------------------------------------------------------------------------------


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus: a Gaussian of `sigma` pixels at 448 pixels a side."""
    return gaussian_filter(values, (sigma * ENLARGED, sigma * ENLARGED, 0), truncate=3)


def shake(values: np.ndarray, length: int) -> np.ndarray:
    """Camera shake: a mean over `length` pixels sideways, at 448 pixels a side."""
    return uniform_filter1d(values, length * ENLARGED, axis=1)


def expose(values: np.ndarray, stops: float) -> np.ndarray:
    """Light times 2 to the power of `stops`, in linear light (IEC 61966-2-1), clipped at the end of the scale."""
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) * 2.0**stops
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def haze(values: np.ndarray, contrast: float) -> np.ndarray:
    """A grey veil (0.6) that leaves a fraction of the contrast, as a dirty lens does."""
    return values * contrast + (1 - contrast) * 0.6


def shrink(values: np.ndarray, side: int) -> np.ndarray:
    """Resized to `side` pixels a side."""
    small = Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255


def shrink_and_enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """Shrunk to `side` pixels and enlarged again: enough pixels, but without detail."""
    small = Image.fromarray((shrink(values, side) * 255 + 0.5).astype(np.uint8))
    large = small.resize((values.shape[1], values.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / 255


FAULTS: tuple[Fault, ...] = (
    *(Fault("blurred", f"sigma {s:g}", partial(blur, sigma=s)) for s in (0.5, 1, 1.5, 2, 3, 4, 6)),
    *(Fault("blurred", f"shaken by {n}", partial(shake, length=n)) for n in (4, 8, 16)),
    *(Fault("blurred", f"enlarged from {n}", partial(shrink_and_enlarge, side=n)) for n in (224, 112, 64)),
    *(Fault("too_dark", f"{s} stops", partial(expose, stops=s)) for s in (-1, -2, -3, -4, -5)),
    *(Fault("too_bright", f"+{s} stops", partial(expose, stops=s)) for s in (1, 2, 3, 4)),
    *(Fault("low_contrast", f"{k:g} kept", partial(haze, contrast=k)) for k in (0.6, 0.4, 0.25, 0.15)),
    *(Fault("too_small", f"{n} pixels", partial(shrink, side=n)) for n in (640, 448, 224)),
)


# --- no skin -------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, sigma: tuple[float, float]) -> np.ndarray:
    field = gaussian_filter(rng.standard_normal((SIDE * ENLARGED,) * 2).astype(np.float32), sigma)
    return field / field.std()


def _tinted(colour: tuple[int, int, int], change: np.ndarray) -> np.ndarray:
    return np.clip(np.array(colour, np.float32) / 255 * (1 + change[..., None]), 0, 1)


def _wall(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    lamp = np.linspace(-0.25, 0.1, SIDE * ENLARGED, dtype=np.float32)[None, :]
    return _tinted(colour, lamp + 0.03 * _noise(rng, (2, 2)) + 0.03 * _noise(rng, (60, 60)))


def _document(rng: np.random.Generator) -> np.ndarray:
    page = Image.new("RGB", (SIDE * ENLARGED,) * 2, (244, 244, 240))
    draw = ImageDraw.Draw(page)
    for y in range(40, SIDE * ENLARGED - 40, 26):
        x = 50
        while x < SIDE * ENLARGED - 120:
            width = int(rng.integers(15, 90))
            draw.rectangle((x, y, x + width, y + 11), fill=(40, 40, 44))
            x += width + 10
    return np.asarray(page, np.float32) / 255


def _plant(rng: np.random.Generator) -> np.ndarray:
    leaves = Image.new("RGB", (SIDE * ENLARGED,) * 2, (24, 48, 20))
    draw = ImageDraw.Draw(leaves)
    for _ in range(260):
        x, y = rng.integers(0, SIDE * ENLARGED, 2)
        w, h = rng.integers(40, 150, 2)
        green = int(rng.integers(80, 190))
        colour = (int(green * rng.uniform(0.45, 0.85)), green, int(green * 0.4))
        draw.ellipse((int(x), int(y), int(x + w), int(y + h)), colour, (20, 50, 20))
    return np.asarray(leaves, np.float32) / 255


def _wood(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    return _tinted(colour, 0.12 * _noise(rng, (2, 90)) + 0.06 * _noise(rng, (12, 200)))


def _fabric(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    steps = np.arange(SIDE * ENLARGED, dtype=np.float32)
    weave = 0.12 * np.sin(steps * 0.9)[:, None] * np.sin(steps * 0.9)[None, :]
    return _tinted(colour, weave + 0.1 * _noise(rng, (40, 40)))


NO_SKIN: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "white wall": lambda rng: _wall(rng, (226, 226, 222)),
    "grey wall": lambda rng: _wall(rng, (140, 142, 146)),
    "document": _document,
    "plant": _plant,
    "blue cloth": lambda rng: _fabric(rng, (58, 92, 150)),
    "green cloth": lambda rng: _fabric(rng, (60, 130, 110)),
    "black cloth": lambda rng: _fabric(rng, (62, 62, 66)),
    "cream wall": lambda rng: _wall(rng, (236, 226, 204)),  # from here on: colours that skin has too
    "wood": lambda rng: _wood(rng, (150, 104, 66)),
    "cardboard": lambda rng: _wall(rng, (186, 146, 104)),
}
