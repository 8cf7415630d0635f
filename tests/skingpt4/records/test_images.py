"""Pictures: every kind of file becomes upright RGB without metadata, or a sentence that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torchvision import transforms

from skingpt4.records import archives, images
from skingpt4.records.images import MIN_SIDE, ImageError, open_image, random_crop_box, to_rgb, to_tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ORIENTATION = 0x0112


def noise_image(width=24, height=16, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image):
    return np.asarray(image).tolist()


# ---- what is read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_forgotten(orientation):
    # A red left upper corner, seen upright; the camera stored it as the orientation says.
    upright = Image.new("RGB", (24, 16), "white")
    upright.paste("red", (0, 0, 8, 8))
    back = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
        6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"],
    }  # fmt: skip
    stored = upright
    for step in back[orientation]:
        stored = stored.transpose(Image.Transpose[step])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "patient 17"
    result = open_image(file_of(stored, "PNG", exif=exif))
    assert result.size == (24, 16)
    assert pixels(result) == pixels(upright)
    assert not result.getexif()
    assert result.info == {}
    assert b"patient" not in file_of(result, "PNG")


def test_a_camera_jpeg_loses_its_metadata():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif.get_ifd(0x8825)[1] = "N"  # a GPS entry
    result = open_image(file_of(noise_image(24, 16), "JPEG", exif=exif, comment=b"patient 17"))
    assert result.size == (16, 24)
    assert result.info == {}
    assert not result.getexif()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode):
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 5, 10))
    result = open_image(file_of(image.convert(mode)))
    assert result.getpixel((0, 0)) == (0, 0, 0)
    assert result.getpixel((9, 9)) == (255, 255, 255)
    half = Image.new("RGBA", (10, 10), (255, 0, 0, 128))
    assert open_image(file_of(half)).getpixel((3, 3)) == (255, 127, 127)


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (10, 10), 0)
    image.putpalette([0, 0, 0, 0, 200, 0])
    image.paste(1, (0, 0, 5, 10))
    result = open_image(file_of(image, transparency=0))
    assert result.getpixel((0, 0)) == (0, 200, 0)
    assert result.getpixel((9, 9)) == (255, 255, 255)
    opaque = open_image(file_of(image))
    assert opaque.getpixel((9, 9)) == (0, 0, 0)


@pytest.mark.parametrize(("mode", "key", "behind"), [("RGB", (9, 9, 9), 255), ("L", 9, 255)])
def test_a_transparent_colour_without_palette(mode, key, behind):
    image = Image.new(mode, (10, 10), key)
    assert open_image(file_of(image, transparency=key)).getpixel((0, 0)) == (behind,) * 3


def test_cmyk_jpeg():
    result = open_image(file_of(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = result.getpixel((8, 8))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    red, green, blue = open_image(data).getpixel((5, 5))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}), ("JPEG", {"quality": 95, "progressive": True}), ("PNG", {}),
        ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100}), ("HEIF", {"quality": 100}), ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {}), ("PPM", {}), ("MPO", {"quality": 95}),
    ],
)  # fmt: skip
def test_every_format_of_photographs_is_read(kind, options):
    images.prepare_pillow()
    y, x = np.mgrid[0:48, 0:64]
    smooth = np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)
    data = file_of(Image.fromarray(smooth), kind, **options)
    result = open_image(data)
    assert (result.mode, result.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(result).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "HEIF", "AVIF"])
def test_orientation_of_telephones_formats(kind, orientation):
    images.prepare_pillow()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.new("RGB", (64, 48), "white")
    stored.paste("red", (0, 0, 16, 16))
    result = open_image(file_of(stored, kind, exif=exif.tobytes()))
    assert result.size == ((64, 48) if orientation < 5 else (48, 64))
    corners = {
        "tl": (8, 8), "tr": (result.width - 8, 8), "bl": (8, result.height - 8),
        "br": (result.width - 8, result.height - 8),
    }  # fmt: skip
    red = {name for name, place in corners.items() if result.getpixel(place)[1] < 100}
    # Where the stored left upper corner stands upright, by the EXIF standard.
    assert red == {{1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]}


def test_damaged_exif_data_costs_the_orientation_not_the_picture():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = file_of(noise_image(24, 16), "JPEG", exif=exif.tobytes()[:20])
    assert open_image(data).size == (24, 16)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_transparency_of_animations_lies_over_white(kind):
    clear, solid = Image.new("RGBA", (16, 16), (0, 0, 0, 0)), Image.new("RGBA", (16, 16), (255, 0, 0, 128))
    clear.paste((0, 0, 255, 255), (0, 0, 8, 16))
    data = file_of(clear, kind, save_all=True, append_images=[solid])
    result = open_image(data)
    assert result.getpixel((12, 8)) == (255, 255, 255)
    assert result.getpixel((4, 8))[2] > 240


def test_palette_with_a_transparency_for_each_colour():
    image = Image.new("P", (12, 12), 0)
    image.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 0])
    image.paste(1, (4, 0, 8, 12))
    image.paste(2, (8, 0, 12, 12))
    result = open_image(file_of(image, transparency=bytes([128, 255, 0])))
    assert result.getpixel((1, 1)) == (255, 127, 127)
    assert result.getpixel((5, 1)) == (0, 200, 0)
    assert result.getpixel((10, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 255, 255))],
)
def test_cmyk_inks(kind, ink, colour):
    """White paper stays white: in JPEG the Adobe marker says that the inks are stored inverted."""
    data = file_of(Image.new("CMYK", (16, 16), ink), kind, **({"quality": 100} if kind == "JPEG" else {}))
    assert kind != "JPEG" or b"Adobe" in data
    assert np.abs(np.array(open_image(data).getpixel((8, 8))) - colour).max() <= 3


def png(depth, colour_type, rows, chunks=b""):
    """A PNG written by hand, for depths that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = len(rows), 16
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("colour_type", "pixel", "expected"),
    [
        (0, (0x8000,), (128, 128, 128)),
        (2, (0xFFFF, 0x8000, 0), (255, 128, 0)),
        (4, (0, 0x8000), (127, 127, 127)),
        (6, (0xFFFF, 0, 0, 0x8000), (255, 127, 127)),
    ],
)
def test_sixteen_bit_png_of_every_kind(colour_type, pixel, expected):
    row = struct.pack(f">{len(pixel)}H", *pixel) * 16
    result = open_image(png(16, colour_type, [row] * 16))
    assert np.abs(np.array(result.getpixel((8, 8))) - expected).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_a_pixel(depth):
    assert open_image(png(depth, 0, [b"\xff" * (2 * depth)] * 16)).getpixel((8, 8)) == (255, 255, 255)


@given(
    mode=st.sampled_from(
        ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"]
    ),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
@example(mode="PA", width=MIN_SIDE, height=MIN_SIDE)
@example(mode="L", width=MIN_SIDE - 1, height=40)
def test_every_mode_and_size_is_rgb_or_refused(mode, width, height):
    image = Image.new(mode, (width, height))
    if min(width, height) < MIN_SIDE:
        with pytest.raises(ImageError, match=f"{width} x {height} pixels show nothing"):
            to_rgb(image)
        return
    result = to_rgb(image)
    assert result.mode == "RGB"
    assert result.size == (width, height)
    assert result is not image


def test_the_given_picture_is_left_as_it_is():
    image = noise_image()
    image.info["note"] = "mine"
    result = to_rgb(image)
    result.paste("black", (0, 0, 24, 16))
    assert image.info == {"note": "mine"}
    assert pixels(image) == pixels(noise_image())


# ---- what is refused


def test_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: no such picture"):
        open_image(tmp_path / "gone.jpg")


def test_a_folder(tmp_path):
    with pytest.raises(ImageError):
        open_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"just some words\n" * 50, b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture(content, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"notes\.jpg: "):
        open_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_a_truncated_file(kind, fraction):
    data = file_of(noise_image(64, 64), kind)
    with pytest.raises(ImageError, match="upload 3: "):
        open_image(data[: int(len(data) * fraction)], "upload 3")


@pytest.mark.parametrize("case", ["text chunk", "header", "path"])
def test_damage_that_pillow_reports_as_a_value_error(case):
    if case == "text chunk":  # a compressed comment that unfolds beyond Pillow's limit
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", "x" * (2 << 20), zip=True)
        source = file_of(noise_image(), pnginfo=info)
    elif case == "header":
        source = b"P6\n2x4 16\n255\n" + bytes(24 * 16 * 3)
    else:
        source = "a\0b.png"
    with pytest.raises(ImageError):
        open_image(source)


def test_one_pixel_shows_nothing():
    with pytest.raises(ImageError, match="1 x 1 pixels show nothing; at least 8"):
        open_image(file_of(Image.new("RGB", (1, 1))))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16 - 1)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"24 x 16 pixels is more than 383"):
        open_image(file_of(noise_image()))


def test_as_many_pixels_as_allowed(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16)
    assert open_image(file_of(noise_image())).size == (24, 16)


def test_pillows_own_bomb_guard_is_told_as_ours(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="bomb: has more than"):
        open_image(file_of(noise_image()), "bomb")


def test_num_pixels_are_known_without_decoding(monkeypatch):
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert images.num_pixels(file_of(noise_image())) == 24 * 16
    with pytest.raises(ImageError, match="upload: is not a picture"):
        images.num_pixels(b"words", "upload")


def smooth_image(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3, y * 2, 200 - x - y], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_very_large_jpeg_is_decoded_at_half_its_sides(kind, orientation, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    several = {"save_all": True, "append_images": [noise_image()]} if kind == "MPO" else {}
    data = file_of(smooth_image(65, 48), kind, quality=95, exif=exif.tobytes(), **several)
    assert Image.open(io.BytesIO(data)).format == kind
    full = open_image(data)
    monkeypatch.setattr(images, "MAX_PIXELS", 65 * 48 - 1)
    half = open_image(data)
    assert half.size == ((33, 24) if orientation == 1 else (24, 33))
    expected = np.asarray(full.resize(half.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(half).astype(int) - expected).mean() < 3
    monkeypatch.setitem(images.LIMITS, kind, 65 * 48 - 1)
    assert refused(data) == "too_large"


def test_a_jpeg_at_the_limit_keeps_every_pixel(monkeypatch):
    data = file_of(smooth_image(64, 48), "JPEG")
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48)
    with Image.open(io.BytesIO(data)) as reference:
        assert pixels(open_image(data)) == pixels(reference)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG2000", "BMP"])
def test_other_formats_are_never_scaled(kind, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 16 - 1)
    monkeypatch.setitem(images.LIMITS, "JPEG2000", 24 * 16 - 1)
    assert refused(file_of(noise_image(), kind)) == "too_large"


def header_of_jpeg(width, height):
    data = bytearray(file_of(Image.new("RGB", (16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limits_are_those_of_the_documentation():
    """108 megapixels are what telephones write; data/README.md has the table."""
    assert images.num_pixels(header_of_jpeg(12_000, 9_000)) == 108_000_000
    assert images.num_pixels(header_of_jpeg(12_000, 10_000)) == 120_000_000
    for width, height in ((12_001, 10_000), (16_320, 12_240), (65_535, 65_535)):
        with pytest.raises(ImageError) as caught:
            images.num_pixels(header_of_jpeg(width, height))
        assert caught.value.reason == "too_large"
    assert images.MAX_PIXELS == 80_000_000
    assert max(images.LIMITS.values()) == images.LIMITS["JPEG"]


def refused(source, *args):
    with pytest.raises(ImageError) as caught:
        open_image(source, *args)
    assert caught.value.reason in images.REASONS
    return caught.value.reason


def test_every_refusal_has_its_reason(tmp_path, monkeypatch):
    jpeg = file_of(noise_image(64, 64), "JPEG")
    (tmp_path / "notes.jpg").write_text("words " * 90)
    assert refused(tmp_path / "gone.jpg") == "missing"
    assert refused(tmp_path) == "unreadable"
    assert refused("a\0b.png") == "unreadable"
    assert refused(tmp_path / "notes.jpg") == "not_an_image"
    assert refused(b"") == "not_an_image"
    assert refused(jpeg[: len(jpeg) // 2]) == "damaged"
    assert refused(file_of(Image.new("RGB", (1, 1)))) == "too_small"
    monkeypatch.setattr(images, "read_bytes", lambda path: archives.read_bytes(path, 100))
    assert refused(tmp_path / "notes.jpg") == "too_large"
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    assert refused(file_of(noise_image(64, 64))) == "too_large"


def test_a_real_bomb_is_refused_without_unfolding_it():
    row = b"\0" * (40_000 * 3)
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = png(8, 2, [b""])
    bomb = data[:16] + header + data[29:29] + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    assert len(bomb) < 200 < len(row)
    assert refused(bomb) == "too_large"


def test_a_format_that_starts_a_program_is_no_picture():
    assert refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n") == "not_an_image"


def test_a_truncated_heic_is_refused():
    images.prepare_pillow()
    data = file_of(noise_image(64, 64), "HEIF")
    for fraction in (0.3, 0.7, 0.95):
        assert refused(data[: int(len(data) * fraction)]) in ("damaged", "not_an_image")


@given(data=st.binary(max_size=200), kind=st.sampled_from(["JPEG", "PNG", "GIF", "HEIF", "WEBP", "AVIF"]))
@settings(max_examples=100, deadline=None)
def test_damage_anywhere_is_a_picture_or_a_sentence(data, kind):
    images.prepare_pillow()
    good = file_of(Image.new("RGB", (32, 32), "red"), kind)
    place = len(data) * 7 % len(good)
    try:
        outcome = open_image(good[:place] + data + good[place + len(data) :]).mode
    except ImageError as error:
        outcome = error.reason
    assert outcome in ("RGB", *images.REASONS)


# ---- tensors and crops


@pytest.mark.parametrize("size", [(24, 16), (300, 224), (224, 224), (9, 500)])
def test_tensor_equals_torchvisions(size):
    image = noise_image(*size)
    reference = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC, antialias=True),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    result = to_tensor(image, 224, MEAN, STD)
    assert result.dtype == torch.float32
    assert torch.equal(result, reference(image))


def test_tensor_of_a_crop_is_that_of_the_cut_picture():
    image = noise_image(60, 50)
    box = (7, 5, 47, 45)
    cropped = to_tensor(image, 40, MEAN, STD, box)
    assert torch.equal(cropped, to_tensor(image.crop(box), 40, MEAN, STD))
    assert not torch.equal(cropped, to_tensor(image, 40, MEAN, STD))


@given(
    width=st.integers(8, 400),
    height=st.integers(8, 400),
    seed=st.integers(0, 2**32),
    low=st.floats(0.1, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_crop_is_inside_and_within_scale_and_ratio(width, height, seed, low):
    left, top, right, bottom = random_crop_box(width, height, np.random.default_rng(seed), (low, 1.0))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    # Sides are rounded to pixels: half a pixel each way.
    assert (w - 0.5) / (h + 0.5) <= 4 / 3 + 1e-9
    assert (h - 0.5) / (w + 0.5) <= 4 / 3 + 1e-9
    if 3 / 4 <= width / height <= 4 / 3:
        assert (w + 0.5) * (h + 0.5) >= low * min(width, height) ** 2


def test_crop_is_a_function_of_its_generator():
    boxes = [random_crop_box(200, 150, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert boxes[0] == boxes[1] != boxes[2]


def test_crops_have_torchvisions_areas():
    """Mean and spread of the area, over many draws, as RandomResizedCrop's."""
    rng = np.random.default_rng(0)
    ours = [(r - x) * (b - y) / 20000 for x, y, r, b in (random_crop_box(160, 125, rng) for _ in range(2000))]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = transforms.RandomResizedCrop.get_params
        image = torch.empty(3, 125, 160)
        theirs = [
            h * w / 20000 for _, _, h, w in (drawn(image, (0.5, 1.0), (3 / 4, 4 / 3)) for _ in range(2000))
        ]
    # Standard error of a mean of 2000 draws, of standard deviation 0.14, is 0.003.
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)
    assert np.std(ours) == pytest.approx(np.std(theirs), abs=0.015)


@pytest.mark.parametrize("size", [(400, 100), (100, 400)])
def test_a_long_picture_falls_back_as_torchvision_does(size):
    width, height = size  # so long that no draw of half the area has a ratio up to 4/3
    drawn = transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), (0.5, 1.0), (3 / 4, 4 / 3))
    top, left, h, w = drawn
    assert random_crop_box(width, height, np.random.default_rng(0)) == (left, top, left + w, top + h)
