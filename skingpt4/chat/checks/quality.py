"""Whether an image is good enough to ask about: focus, exposure, contrast, resolution, and whether it shows skin.

The measures are taken on a reduced copy of fixed area; the image itself is never altered. The thresholds are data
(quality.yaml); what they detect and miss on images with known faults is in benchmarks/results/quality.json.
An image that passes may still be useless, and one that fails may be the best there is, so people may override the
result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from skingpt4.support.files import read_yaml

# Exposure comes before skin, which is judged only if the exposure allows it.
KINDS = ("blurred", "too_dark", "too_bright", "low_contrast", "too_small", "no_skin")
MIN_LONG_SIDE, MIN_SHORT_SIDE = 800, 600  # pixels
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_TILES = 8  # a side: focus is judged at the quarter of the tiles with the most coarse detail
_FINE, _COARSE, _ACROSS = 1.0, 3.0, 0.7  # sigmas in pixels of the reduced copy
# The quietest tiles have less noise than the others, the more so after JPEG; more margin would call grain a blur.
_NOISE_TILES, _NOISE_MARGIN = 32, 1.35
# Added to the coarse energy. In an image blurred beyond all detail only the rounding to 8 bits is left, about 1e-7 in
# both bands, and their ratio would be that of a sharp image; clean phantoms have 1e-4 and more.
_ROUNDING = 4e-6


@dataclass(frozen=True)
class Problem:
    """One reason to take the image again: `measure` is on the wrong side of `threshold`."""

    kind: str
    measure: float
    threshold: float


@dataclass(frozen=True)
class Quality:
    """The result. `score` is 0 to 1; below 0.5 there is a problem. `measures` are named as in quality.yaml."""

    score: float
    problems: tuple[Problem, ...]
    measures: dict[str, float]

    @property
    def acceptable(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "score": round(self.score, 3),
            "acceptable": self.acceptable,
            "problems": [{**asdict(p), "measure": round(p.measure, 4)} for p in self.problems],
            "measures": {name: round(value, 4) for name, value in self.measures.items()},
        }


@cache
def limits() -> dict[str, Any]:
    """The thresholds: quality.yaml."""
    return read_yaml(Path(__file__).with_name("quality.yaml"))


def assess(image: Image.Image) -> Quality:
    """Judge an image. Missing skin is reported only if the exposure allows colours to be judged.

    Args:
        image: any mode; upright or not does not matter.
    """
    measures = measure(image)
    problems, score = [], 1.0
    exposed = True
    for kind in KINDS:
        limit = limits()["kinds"][kind]
        value, low = measures[limit["measure"]], "below" in limit
        threshold, good = limit["below" if low else "above"], limit["good"]
        wrong = value < threshold if low else value > threshold
        if kind == "no_skin" and not exposed:
            continue
        if wrong:
            problems.append(Problem(kind, value, threshold))
            exposed = exposed and kind not in ("too_dark", "too_bright")
        score = min(score, _part(value, threshold, good, wrong))
    return Quality(score, tuple(problems), measures)


def _part(value: float, threshold: float, good: float, wrong: bool) -> float:
    """Linear: 0.5 at the threshold, 1 at `good`, 0 as far on the other side of the threshold."""
    distance = 0.5 * abs(value - threshold) / abs(good - threshold)
    return max(0.0, 0.499 - distance) if wrong else min(1.0, 0.5 + distance)


def measure(image: Image.Image) -> dict[str, float]:
    """The measures by name; see quality.yaml."""
    long, short = max(image.size), min(image.size)
    pixels = np.asarray(reduced(image, limits()["side"]), np.float32) / 255
    height, width = pixels.shape[0] // 8, pixels.shape[1] // 8  # exposure and colour are those of the middle
    middle = pixels[height : pixels.shape[0] - height, width : pixels.shape[1] - width]
    luma = middle @ _LUMA
    low, light, high = np.percentile(luma, (2, 95, 98))
    return {
        "focus": focus(pixels @ _LUMA),
        "light": float(light),
        "clipped": float(((middle > 0.98).sum(axis=2) >= 2).mean()),
        "contrast": float((high - low) / (high + low + 0.02)),  # the 0.02 (5 of 255) keeps black at none
        "resolution": min(long / MIN_LONG_SIDE, short / MIN_SHORT_SIDE),
        "skin": float(skin_mask(middle).mean()),
    }


def reduced(image: Image.Image, side: int) -> Image.Image:
    """An RGB copy with an area of at most side x side pixels and the same proportions; never enlarged."""
    factor = max(1.0, math.sqrt(image.width * image.height) / side)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if factor >= 2:  # boxes of whole pixels first: fast, and they average the noise
        rgb = rgb.reduce(int(factor))
    size = (max(8, round(image.width / factor)), max(8, round(image.height / factor)))
    return rgb.resize(size, Image.Resampling.BILINEAR)


def focus(luma: np.ndarray) -> float:
    """Fine over coarse detail where there is most detail, about 0.15 (blurred) to 0.5 (sharp).

    The ratio of two bands does not depend on contrast or exposure, so dark skin and light skin are judged alike. The
    result is the lower of the ratios along rows and along columns, since a shaken image is sharp in one direction.
    White noise is estimated at the quietest places and removed from both bands.

    Args:
        luma: (h, w) float32, 0 to 1.
    """
    return min(_sharpness(*_bands(luma, axis), *_noise_gains(axis)) for axis in (0, 1))


def _bands(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy of fine and of coarse detail along an axis, (h, w) each."""
    lines = gaussian_filter1d(values, _ACROSS, axis=1 - axis, truncate=3)
    fine_blur = gaussian_filter1d(lines, _FINE, axis=axis, truncate=3)
    coarse_blur = gaussian_filter1d(lines, _COARSE, axis=axis, truncate=3)
    return (lines - fine_blur) ** 2, (fine_blur - coarse_blur) ** 2


def _sharpness(fine_energy: np.ndarray, coarse_energy: np.ndarray, of_fine: float, of_coarse: float) -> float:
    fine, coarse = _tile_means(fine_energy, _TILES), _tile_means(coarse_energy, _TILES)
    best = np.argsort(coarse)[-len(coarse) // 4 :]
    noise = float(np.percentile(_tile_means(fine_energy, _NOISE_TILES), 5)) / of_fine
    left_fine = fine[best].mean() - _NOISE_MARGIN * noise * of_fine
    left_coarse = coarse[best].mean() - noise * of_coarse
    if left_fine <= 0 or left_coarse <= 1e-9:  # nothing but noise, or nothing at all
        return 0.0
    return float(np.sqrt(left_fine / (left_coarse + _ROUNDING)))


@cache
def _noise_gains(axis: int) -> tuple[float, float]:
    """Fractions of white noise's variance in the two bands: sums of the squared weights of the filters."""
    point = np.zeros((61, 61))
    point[30, 30] = 1
    fine, coarse = _bands(point, axis)
    return float(fine.sum()), float(coarse.sum())


def _tile_means(values: np.ndarray, count: int) -> np.ndarray:
    """Means over count x count tiles of equal size, flat, without the remainder at the edges."""
    height, width = values.shape[0] // count, values.shape[1] // count
    if height == 0 or width == 0:
        return np.array([values.mean()])
    tiles = values[: height * count, : width * count].reshape(count, height, count, width)
    return tiles.mean(axis=(1, 3)).ravel()


def skin_mask(pixels: np.ndarray) -> np.ndarray:
    """Where the colour is one that skin can have: (h, w) bool from (h, w, 3) sRGB values, 0 to 1.

    The rule uses colour only and is wide enough for Fitzpatrick types I to VI; wood, card and sand have such colours
    too.
    """
    rule = limits()["skin_colour"]
    red, green, blue = np.moveaxis(np.log(pixels + 0.02), 2, 0)
    over_green, over_blue = red - green, green - blue
    (low_rg, high_rg), (low_gb, high_gb) = rule["red_over_green"], rule["green_over_blue"]
    mask = (over_green > low_rg) & (over_green < high_rg) & (over_blue > low_gb) & (over_blue < high_gb)
    mask &= over_green - over_blue > rule["least_red_over_blue_balance"]
    return mask & (pixels.max(axis=2) > rule["least_brightness"])
