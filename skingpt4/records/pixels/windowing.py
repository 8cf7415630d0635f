"""Grey values of DICOM (PS3.3, C.11.1 and C.11.2): rescaled, seen through the first window, and scaled to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from skingpt4.records.pixels.rgb import white_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def grey_values(elements: Dataset, values: np.ndarray, inverted: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A function from stored values to 8-bit grey.

    Without a window or a table, 8-bit values stay as they are and deeper ones are scaled as in other pictures.

    Args:
        elements: those of the file.
        values: of the complete frame, whose range counts where the file says no other.
        inverted: MONOCHROME1, in which the lowest value is white.
    """
    from pydicom.pixels.processing import apply_modality_lut

    as_fraction = _fraction(elements, values)

    def convert(strip: np.ndarray) -> np.ndarray:
        fractions = np.clip(as_fraction(np.asarray(apply_modality_lut(strip, elements))), 0.0, 1.0)
        return ((1.0 - fractions if inverted else fractions) * 255.0 + 0.5).astype(np.uint8)

    return convert


def _fraction(elements: Dataset, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from rescaled values to fractions of white."""
    if elements.get("VOILUTSequence"):
        return _by_table(elements)
    centre, width = _first(elements.get("WindowCenter")), _first(elements.get("WindowWidth"))
    if centre is not None and width is not None and width > 0:
        return _window(str(elements.get("VOILUTFunction") or "LINEAR"), centre, width)
    from pydicom.pixels.processing import apply_modality_lut

    extremes = apply_modality_lut(np.array([values.min(), values.max()], values.dtype), elements)
    low, high = sorted(map(float, extremes))
    black = min(low, 0.0)
    white = 1.0 if int(elements.BitsStored) == 1 else white_of(high - black)
    return lambda grey: (grey - black) / white


def _by_table(elements: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    from pydicom.pixels.processing import apply_voi

    white = 2.0 ** int(elements.VOILUTSequence[0].LUTDescriptor[2]) - 1
    return lambda grey: np.asarray(apply_voi(grey, elements)) / white


def _window(function: str, centre: float, width: float) -> Callable[[np.ndarray], np.ndarray]:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return lambda grey: 1.0 / (1.0 + np.exp(np.clip(-4.0 * (grey - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return lambda grey: (grey - centre) / width + 0.5
    # A width of 1 divides the values in two; the small number only keeps the division possible.
    return lambda grey: (grey - (centre - 0.5)) / max(width - 1.0, 1e-6) + 0.5


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") else value)
