"""Small HEIF and AVIF files of which their decoders would make gigabytes or hours are refused before that."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from skingpt4.records.images import ImageError, num_pixels, open_image, prepare_pillow
from skingpt4.records.pixels import items
from tests.support.boxed_files import boxed_file, coded, grid, size_of

SIDE = 64
TILE = {"HEIF": (b"hvc1", b"heic"), "AVIF": (b"av01", b"avif")}
PIXI = b"\0\0\0\x10pixi\0\0\0\0\3\x08\x08\x08"


def refusal(data):
    sentences, started = [], time.process_time()
    for function in (num_pixels, open_image):
        with pytest.raises(ImageError) as caught:
            function(data)
        sentences.append(str(caught.value))
    assert time.process_time() - started < 5
    assert sentences[0] == sentences[1]
    return sentences[0]


def gridded(rows, columns, side, claimed, kind="HEIF", levels=1):
    """A picture laid together from one tile, or from pictures that are themselves."""
    settings, picture = coded(kind, SIDE, SIDE)
    item, brand = TILE[kind]
    layout = grid(rows, columns, side, side)
    data = picture + layout * levels
    entries, links = {}, []
    for level in range(levels):
        entries[1 + level] = (b"grid", [(len(picture) + level * len(layout), len(layout))])
        links.append((b"dimg", 1 + level, [2 + level] * (rows * columns)))
    entries[1 + levels] = (item, [(0, len(picture))])
    has = {level: [2] for level in range(1, 1 + levels)} | {1 + levels: [1, 3, 4]}
    properties = [settings, size_of(side, side), size_of(claimed, claimed), PIXI]
    return boxed_file(entries, properties, has, data, links, brand)


def single(kind="HEIF", repeat=1, extra=(), links=()):
    settings, picture = coded(kind, SIDE, SIDE)
    item, brand = TILE[kind]
    data = picture * repeat
    entries = {1: (item, [(0, len(data))])} | dict(extra)
    return boxed_file(entries, [settings, size_of(SIDE, SIDE), PIXI], {1: [1, 2, 3]}, data, links, brand)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_files_as_cameras_write_them_stay_readable(kind):
    prepare_pillow()
    values = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(buffer, kind, exif=exif)
    assert num_pixels(buffer.getvalue()) == 96 * 128
    assert open_image(buffer.getvalue()).size in ((96, 128), (128, 96))
    assert open_image(single(kind)).size == (SIDE, SIDE)


def test_a_grid_of_its_own_size_stays_readable():
    assert open_image(gridded(3, 3, 3 * SIDE, SIDE)).size == (3 * SIDE, 3 * SIDE)


def test_a_tile_that_is_used_thousands_of_times():
    assert "made of" in refusal(gridded(250, 250, SIDE, SIDE))


def test_pictures_made_of_pictures():
    assert "made of" in refusal(gridded(16, 16, SIDE, SIDE, levels=2))


def test_a_picture_that_is_made_of_itself():
    _, picture = coded("HEIF", SIDE, SIDE)
    entries = {1: (b"grid", [(0, 12)]), 2: (b"grid", [(0, 12)])}
    links = [(b"dimg", 1, [2]), (b"dimg", 2, [1])]
    has = {1: [1], 2: [1]}
    assert "made of" in refusal(boxed_file(entries, [size_of(SIDE, SIDE)], has, picture, links))


def test_a_tile_without_a_size():
    settings, picture = coded("HEIF", SIDE, SIDE)
    layout = grid(1, 1, SIDE, SIDE)
    entries = {1: (b"grid", [(len(picture), len(layout))]), 2: (b"hvc1", [(0, len(picture))])}
    file = boxed_file(
        entries, [settings, size_of(SIDE, SIDE)], {1: [2], 2: [1]}, picture + layout, [(b"dimg", 1, [2])]
    )
    assert "how large" in refusal(file)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_metadata_that_share_their_bytes(kind):
    extra = {2 + n: (b"Exif", [(0, 20_000)] * 32) for n in range(20)}
    links = [(b"cdsc", number, [1]) for number in extra]
    assert "claim" in refusal(single(kind, 400, extra.items(), links))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_very_many_items(kind):
    extra = {2 + n: (TILE[kind][0], [(0, 1)]) for n in range(30_000)}
    assert "items" in refusal(single(kind, 1, extra.items()))


def test_very_many_pieces():
    extra = {2 + n: (b"Exif", [(0, 1)] * 1000) for n in range(40)}
    assert "pieces" in refusal(single("HEIF", 1000, extra.items()))


def test_an_item_of_very_many_frames():
    """libavif decodes all of them, also those that are never shown."""
    assert open_image(single("AVIF", items.MAX_FRAMES)).size == (SIDE, SIDE)
    assert "frames" in refusal(single("AVIF", 200))


def test_an_animation_whose_first_picture_is_very_many():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (SIDE, SIDE), (20 * n, 90, 60)) for n in range(12)]
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:])
    file = buffer.getvalue()
    assert open_image(file).size == (SIDE, SIDE)
    sizes = file.index(b"stsz") + 12
    (num,) = struct.unpack_from(">I", file, sizes)
    total = sum(struct.unpack_from(f">{num}I", file, sizes + 4))
    assert "frames" in refusal(file[: sizes + 4] + struct.pack(">I", total) + file[sizes + 8 :])


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_cut_anywhere_it_is_a_sentence(kind):
    file = single(kind)
    for end in range(12, len(file) - 1, 7):
        with pytest.raises(ImageError):
            open_image(file[:end])
