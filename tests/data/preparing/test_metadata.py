"""What a camera wrote goes; every pixel stays."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from data.preparing.metadata import without_metadata
from skingpt4.records import images
from skingpt4.records.images import ImageError, open_image

SECRET = b"patient seventeen"


def smooth(mode="RGB"):
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def exif(orientation):
    written = Image.Exif()
    written[0x0112] = orientation
    written[0x010E] = SECRET.decode()
    written.get_ifd(0x8825)[1] = "N"
    return written.tobytes()


def file_of(image, kind, **options):
    images.prepare_pillow()
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_clean(data, suffix):
    clean, actual_suffix = without_metadata(data)
    assert actual_suffix == suffix
    assert SECRET not in clean
    assert np.array_equal(np.asarray(open_image(clean)), np.asarray(open_image(data)))
    info = Image.open(io.BytesIO(clean))
    assert set(info.getexif()) <= {0x0112}
    assert not {"comment", "xmp", "icc_profile", "Description"} & set(info.info)
    assert without_metadata(clean) == (clean, suffix)  # once is enough
    return clean


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF"])
def test_place_and_names_go_and_the_picture_stands_upright(kind, orientation):
    data = file_of(smooth(), kind, exif=exif(orientation))
    assert SECRET in data
    assert_clean(data, ".jpg" if kind == "JPEG" else ".png")


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0, "quality": 98}), ("L", {}), ("CMYK", {}),
        ("RGB", {"restart_marker_blocks": 2}), ("RGB", {"dpi": (300, 300)}), ("RGB", {"optimize": True}),
    ],
)  # fmt: skip
def test_every_kind_of_jpeg(mode, options):
    data = file_of(
        smooth(mode), "JPEG", exif=exif(6), comment=SECRET, icc_profile=SECRET * 9, xmp=SECRET, **options
    )
    assert_clean(data, ".jpg")


def test_what_follows_a_jpeg_goes():
    data = file_of(smooth(), "JPEG")
    assert assert_clean(data + SECRET, ".jpg") == without_metadata(data)[0]
    frames = file_of(smooth(), "MPO", save_all=True, append_images=[smooth("L")])
    assert_clean(frames, ".jpg")


def test_a_clean_file_stays_byte_for_byte():
    for kind in ("JPEG", "PNG"):
        data = file_of(smooth(), kind)
        assert without_metadata(data)[0] == data


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_kind_of_png(mode):
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", SECRET.decode())
    text.add_itxt("Author", SECRET.decode())
    image = (
        Image.fromarray(np.arange(0, 64 * 48, dtype=np.uint16).reshape(48, 64))
        if mode == "I;16"
        else smooth(mode)
    )
    options = {"transparency": 3} if mode in ("L", "P") else {}
    assert_clean(file_of(image, "PNG", pnginfo=text, **options), ".png")


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green")]
    for kind in ("PNG", "GIF", "WEBP"):
        clean = assert_clean(file_of(frames[0], kind, save_all=True, append_images=frames[1:]), ".png")
        assert getattr(Image.open(io.BytesIO(clean)), "n_frames", 1) == 1


def test_no_picture_is_refused():
    with pytest.raises(ImageError):
        without_metadata(b"words")


@given(place=st.integers(0, 3000), junk=st.binary(max_size=6), kind=st.sampled_from(["JPEG", "PNG"]))
@settings(max_examples=80, deadline=None)
def test_a_damaged_file_keeps_its_pixels_or_is_refused(place, junk, kind):
    data = file_of(smooth(), kind, exif=exif(3))
    data = data[: place % len(data)] + junk + data[place % len(data) + len(junk) :]
    try:
        pixels = np.asarray(open_image(data))
    except ImageError:
        with pytest.raises(ImageError):
            without_metadata(data)
    else:
        assert np.array_equal(np.asarray(open_image(without_metadata(data)[0])), pixels)
