"""Any mode becomes 8-bit RGB: deep grey by its own maximum, transparency over white, strip by strip."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skingpt4.records.images import open_image
from skingpt4.records.pixels import rgb
from skingpt4.records.pixels.rgb import flattened, white_of

MODES = ["1", "L", "P", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LA", "PA", "I;16", "I;16B", "I", "F"]


def as_a_whole(image: Image.Image) -> Image.Image:
    """The same in one piece, as it was before pictures were flattened in strips."""
    if image.mode in rgb.DEEP:
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I;16") or grey.max() > 255 else 255.0
        scaled = np.clip(grey / top * 255.0, 0, 255).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            scaled[grey == clear] = 255
        image = Image.fromarray(scaled)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    mode, width, height = draw(st.sampled_from(MODES)), draw(st.integers(8, 40)), draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = Image.new(mode, (width, height))
    if mode == "PA":  # made of a palette and its alpha
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert("PA")
    else:
        image.frombytes(rng.bytes(len(image.tobytes())))
    if mode == "P":
        image.putpalette(rng.bytes(768))
    if mode in ("I", "F"):  # bright, at any scale that keeps its meaning
        values = rng.integers(0, 65536, (height, width))
        values[0, 0] = 65535
        image = Image.fromarray(values.astype({"I": np.int32, "F": np.float32}[mode]))
    if mode in ("L", "P", "I;16") and draw(st.booleans()):
        image.info["transparency"] = int(np.asarray(image)[3, 3])
    return image


@given(image=pictures(), strip=st.sampled_from([1, 100, 300, 2**20]))
@settings(max_examples=200, deadline=None)
def test_strips_give_the_same_bits_as_the_whole_picture(image, strip):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rgb, "STRIP_PIXELS", strip)
        result = flattened(image)
    assert (result.mode, result.info) == ("RGB", {})
    assert result.tobytes() == as_a_whole(image).tobytes()


def test_no_array_of_the_pictures_size_is_made():
    """NumPy tells tracemalloc what it allocates: a strip's 20 bytes a pixel, not the picture's 80 megabytes."""
    image = Image.new("I;16", (4000, 2500))
    tracemalloc.start()
    flattened(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * rgb.STRIP_PIXELS


# ---- deep grey


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(peak: int) -> np.ndarray:
    return np.linspace(0, peak, 16 * 16).reshape(16, 16).round()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("peak", [600, 1023, 4095, 16383])
def test_fewer_bits_in_sixteen_are_scaled_by_the_pictures_own_maximum(peak, kind):
    result = np.asarray(open_image(file_of(Image.fromarray(ramp(peak).astype(np.uint16)), kind)))
    assert np.abs(result - (ramp(peak) / peak * 255)[..., None]).max() <= 1
    assert result.max() == 255


@pytest.mark.parametrize("peak", [16384, 40000, 65535])
def test_sixteen_bits_are_divided_by_their_full_range(peak):
    result = np.asarray(open_image(file_of(Image.fromarray(ramp(peak).astype(np.uint16)))))
    assert np.abs(result - (ramp(peak) / 257)[..., None]).max() <= 1


@pytest.mark.parametrize("peak", [40, 255])
def test_eight_bits_in_sixteen_stay_as_dark_as_they_are(peak):
    result = np.asarray(open_image(file_of(Image.fromarray(ramp(peak).astype(np.uint16)))))
    assert np.abs(result - ramp(peak)[..., None]).max() <= 1


def test_black_stays_black():
    assert np.asarray(open_image(file_of(Image.new("I;16", (16, 16))))).max() == 0


@pytest.mark.parametrize(
    ("peak", "white"),
    [(0.5, 1.0), (1.0, 1.0), (200.0, 255.0), (4095.0, 4095.0), (65535.0, 65535.0), (1e6, 1e6)],
)
def test_floats_are_fractions_or_values(peak, white):
    values = np.linspace(0, peak, 256).reshape(16, 16).astype(np.float32)
    result = np.asarray(open_image(file_of(Image.fromarray(values), "TIFF")))
    assert np.abs(result - (values / white * 255)[..., None]).max() <= 1


def test_what_is_no_number_is_black_and_changes_nothing_else():
    values = np.full((16, 16), 4095, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    result = np.asarray(flattened(Image.fromarray(values)))
    assert result[1:].min() == 255
    assert result[0, :3, 0].tolist() == [0, 255, 0]


def test_thirty_two_bits_are_scaled_not_clipped():
    values = np.full((16, 16), 1_000_000, np.int32)
    values[:, :8] = 500_000
    result = np.asarray(flattened(Image.fromarray(values)))
    assert result[0, [0, 15], 0].tolist() == [127, 255]


def test_the_transparent_value_of_deep_grey_is_white():
    values = np.full((16, 16), 300, dtype=np.uint16)
    values[:, 8:] = 20000
    result = open_image(file_of(Image.fromarray(values), transparency=300))
    assert result.getpixel((2, 2)) == (255, 255, 255)
    assert result.getpixel((12, 2)) == (77, 77, 77)


@given(peak=st.floats(0, 1e9))
def test_nothing_is_brighter_than_white(peak):
    assert peak <= white_of(peak) or peak > 1e9
