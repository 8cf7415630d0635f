"""Small files whose headers would take gigabytes or minutes; each is refused, or costs next to nothing."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from skingpt4.records.images import ImageError, num_pixels, open_image, prepare_pillow
from skingpt4.records.pixels import headers
from skingpt4.records.pixels.headers import require_small_directory

SIDE = 16
BYTE, SHORT, RATIONAL = 1, 3, 5
ORIENTATION, EXIF_DIRECTORY = 274, 34665
MIB = 2**20


def noise(width=SIDE, height=SIDE):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def file_of(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def peak(function, data):
    """What a function returns, and the memory it took in MiB at most."""
    prepare_pillow()
    tracemalloc.start()
    try:
        result = function(data)
        return result, tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def refusal(data):
    sentences = []
    for function in (num_pixels, open_image):
        with pytest.raises(ImageError) as caught:
            peak(function, data)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    return sentences[0]


def directory(rows, layout="<", big=False, start=8):
    """A TIFF file or EXIF block: its head, one directory of (tag, type, count, value or offset) rows, no data."""
    order = b"II" if layout == "<" else b"MM"
    if big:
        head = order + struct.pack(f"{layout}HHHQ", 43, 8, 0, 16)
        count, row, end = struct.pack(f"{layout}Q", len(rows)), "HHQ", "Q"
    else:
        head = order + struct.pack(f"{layout}HL", 42, start)
        count, row, end = struct.pack(f"{layout}H", len(rows)), "HHL", "L"
    body = b""
    for tag, kind, num, value in sorted(rows):
        body += struct.pack(layout + row, tag, kind, num)
        short = kind == SHORT and num == 1
        packed = struct.pack(layout + ("H" if short else end), value)
        body += packed.ljust(8 if big else 4, b"\0")
    return head + count + body + struct.pack(layout + end, 0)


def tiff(extra, layout="<", big=False, length=0):
    """A TIFF picture with further rows, filled to a length with zeros."""
    pixels = noise().tobytes()

    def built(place):
        plain = [
            (256, SHORT, 1, SIDE), (257, SHORT, 1, SIDE), (258, SHORT, 1, 8), (259, SHORT, 1, 1), (262, SHORT, 1, 2),
            (273, 4, 1, place), (277, SHORT, 1, 3), (278, SHORT, 1, SIDE), (279, 4, 1, len(pixels)),
        ]  # fmt: skip
        return directory(plain + extra, layout, big)

    file = built(len(built(0))) + pixels
    return file + bytes(max(0, length - len(file)))


def bomb(num, size, kind=BYTE, first=1000):
    """Rows that all have the first bytes of the file as their data."""
    return [(tag, kind, size, 0) for tag in range(first, first + num)]


# ---- directories


@pytest.mark.parametrize(
    ("layout", "big"), [("<", False), (">", False), ("<", True)]
)  # Pillow reads no other
def test_a_tiff_whose_entries_share_their_data(layout, big):
    assert open_image(tiff([], layout, big)).tobytes() == noise().tobytes()
    sentence = refusal(tiff(bomb(300, 100_000), layout, big, 100_000))
    assert "claims 30000000 bytes of 100000" in sentence


def test_a_tiff_of_very_many_entries():
    assert "has 5009 entries; at most 512" in refusal(tiff(bomb(5000, 1)))


@pytest.mark.parametrize(("kind", "num"), [(SHORT, 300_000), (RATIONAL, 100_000)])
def test_a_tiff_of_very_many_numbers(kind, num):
    """Of a resolution Pillow makes a fraction of each value, of the places of strips a tile."""
    assert "more numbers" in refusal(tiff([(282, kind, num, 0)], length=MIB))


def test_a_directory_below_the_first():
    """Pillow reads it when the pixels are loaded."""
    place = len(tiff([(EXIF_DIRECTORY, 4, 1, 0)]))
    below = directory(bomb(300, 100_000))[8:]
    data = tiff([(EXIF_DIRECTORY, 4, 1, place)]) + below
    with pytest.raises(ImageError, match="claims 30000000 bytes"):
        peak(open_image, data + bytes(100_000 - len(data)))


def test_data_behind_the_end_do_not_count():
    """Pillow stops there, as it does in many a file that lost its end; what it has read by then is used."""
    rows = [(1000 + n, BYTE, 2**31, 8) for n in range(5)] + [(2000, BYTE, 50, 0)]
    assert require_small_directory(at_directory(directory(rows)), "<", False) is None
    assert num_pixels(tiff([(65000, BYTE, 2**31, 8)])) == SIDE * SIDE


@pytest.mark.parametrize("cut", [8, 9, 10, 30])
def test_a_directory_that_ends_early(cut):
    file = at_directory(directory(bomb(3, 10))[:cut])
    require_small_directory(file, "<", False)
    assert file.tell() == 8


def at_directory(data):
    file = io.BytesIO(data)
    file.seek(8)
    return file


def exif_bomb(orientation=6, length=60_000):
    """An EXIF block that says how the picture lies, and then has a great many entries with the same data."""
    block = directory([(ORIENTATION, SHORT, 1, orientation), *bomb(400, length - 10)])
    return b"Exif\0\0" + block + bytes(length - len(block))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_exif_whose_entries_share_their_data(kind):
    """The picture stays as it is stored, as with any damaged EXIF."""
    data = with_exif(kind)
    _, usual = peak(open_image, file_of(kind))
    result, taken = peak(open_image, data)
    assert result.size == (SIDE, SIDE)
    assert taken < usual + 2


def test_exif_of_an_avif_whose_entries_share_their_data():
    """Pillow reads it before it returns the picture."""
    assert "claims" in refusal(with_exif("AVIF"))


def with_exif(kind):
    """A picture with the block that Pillow would not write: first one of the same length without entries."""
    prepare_pillow()
    block = exif_bomb()
    harmless = block[:6] + b"II*\0\x08\0\0\0" + bytes(len(block) - 20) + b"the end"[:6]
    data = file_of(kind, exif=harmless)
    stored = harmless[6:]
    assert data.count(stored) == 1
    result = data.replace(stored, block[6:])
    return repaired(result) if kind == "PNG" else result


def repaired(data):
    """A PNG with right sums."""
    return data[:8] + b"".join(
        chunk(data[place + 4 : place + 8], data[place + 8 : place + 8 + length])
        for place, length in chunk_places(data)
    )


def test_a_jpeg_without_density():
    """Pillow looks for it in EXIF before it returns the picture."""
    data = file_of("JPEG", exif=exif_bomb())
    app0 = data.index(b"\xff\xe0")
    (length,) = struct.unpack_from(">H", data, app0 + 2)
    data = data[:app0] + data[app0 + 2 + length :]
    size, taken = peak(num_pixels, data)
    assert size == SIDE * SIDE
    assert taken < 2


def test_a_jpeg_whose_index_of_pictures_shares_its_data():
    """The directory of MPO, in a segment of its own."""
    block = directory([(0xB001, 4, 1, 2), *bomb(400, 50_000)])
    content = b"MPF\0" + block + bytes(50_000 - len(block))
    plain = file_of("JPEG")
    data = plain[:2] + struct.pack(">BBH", 0xFF, 0xE2, len(content) + 2) + content + plain[2:]
    size, taken = peak(num_pixels, data)
    assert size == SIDE * SIDE
    assert taken < 2
    assert open_image(data).tobytes() == open_image(plain).tobytes()


def test_a_jpeg_of_very_many_exif_blocks():
    plain = file_of("JPEG")
    block = struct.pack(">BBH", 0xFF, 0xE1, 10) + b"Exif\0\0MM"
    assert num_pixels(plain[:2] + block * 20 + plain[2:]) == SIDE * SIDE
    assert "EXIF blocks" in refusal(plain[:2] + block * 300 + plain[2:])


def test_a_block_of_prefixes_is_copied_once():
    prepare_pillow()

    class Block(bytes):
        num_copies = 0

        def __getitem__(self, place):
            type(self).num_copies += 1
            return Block(super().__getitem__(place))

    exif = Image.Exif()
    exif.load(Block(b"Exif\0\0" * 1000 + directory([(ORIENTATION, SHORT, 1, 6)])))
    assert exif[ORIENTATION] == 6
    assert Block.num_copies == 1


def test_a_picture_is_turned_without_writing_its_exif(monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = file_of("PNG", noise(24, 16), exif=exif)
    monkeypatch.setattr(Image.Exif, "tobytes", lambda *_: pytest.fail("written"))
    assert open_image(data).size == (16, 24)


# ---- PNG


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(chunks, after=b""):
    plain = file_of("PNG")
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    return plain[:start] + chunks + plain[start:end] + after + plain[end:]


def text(number, characters):
    packed = zlib.compress(b"a" * (characters - 8) + "\U0001f600".encode(), 9)
    return chunk(b"iTXt", b"k%d\0\1\0\0\0" % number + packed)


def test_texts_of_a_png():
    """One character of another plane makes Python store four bytes for each."""
    with pytest.raises(ImageError, match="text chunks"):
        num_pixels(png(b"".join(text(n, MIB) for n in range(9))))
    _, taken = peak(num_pixels, png(b"".join(text(n, MIB) for n in range(3))))
    assert taken < 4 * 3 + 8


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "one",
    [
        chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1000))),
        chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(1000))),
        chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"\xff" * 1000)),
    ],
    ids=["iCCP", "zTXt", "iTXt"],
)
def test_what_pillow_inflates_and_forgets(one, place):
    """It is no memory, but time: Pillow counts only the texts that it remembers."""
    few, many = one * 10, one * 100
    assert num_pixels(png(few) if place == "before" else png(b"", few)) == SIDE * SIDE
    assert "texts and colour profiles" in refusal(png(many) if place == "before" else png(b"", many))


def test_a_png_of_very_many_chunks(monkeypatch):
    monkeypatch.setattr(headers, "MAX_PNG_CHUNKS", 100)
    assert num_pixels(png(b"", chunk(b"prVt") * 50)) == SIDE * SIDE
    assert "chunks" in refusal(png(b"", chunk(b"prVt") * 100))


def test_a_png_with_a_profile_and_texts_stays_readable():
    from PIL import ImageCms, PngImagePlugin

    about = PngImagePlugin.PngInfo()
    for number in range(20):
        about.add_itxt(f"key {number}", "a text \U0001f600" * 100, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = file_of("PNG", pnginfo=about, icc_profile=profile)
    assert open_image(data).tobytes() == noise().tobytes()


# ---- other headers


def gif(extension):
    plain = file_of("GIF")
    start = plain.index(b"\x2c", 13 + 3 * (2 << (plain[10] & 7)))
    return plain[:start] + extension + plain[start:]


def comment(num_bytes):
    return b"\x21\xfe" + (b"\xff" + b"c" * 255) * (num_bytes // 256) + b"\0"


@pytest.mark.parametrize("extension", [comment(600_000), comment(2**10) * 600], ids=["one", "many"])
def test_comments_of_a_gif(extension):
    """Pillow joins them block by block, each time copying all before."""
    assert "before its pixels" in refusal(gif(extension))


def test_a_gif_with_a_comment_stays_readable():
    assert open_image(gif(comment(2**16))).tobytes() == open_image(file_of("GIF")).tobytes()


def test_rubbish_in_a_jpeg():
    """Pillow skips it byte by byte; a few are in files of real cameras."""
    plain = file_of("JPEG")
    tables = plain.index(b"\xff\xdb")
    assert num_pixels(plain[:tables] + bytes(10_000) + plain[tables:]) == SIDE * SIDE
    with pytest.raises(ImageError, match="before its pixels"):
        num_pixels(plain[:tables] + bytes(200_000) + plain[tables:])


def test_pixels_are_read_without_these_limits(monkeypatch):
    monkeypatch.setattr(headers, "MAX_READS", 40)
    data = file_of("PNG", noise(256, 256))
    with_small_chunks = data[: data.index(b"IDAT") - 4]
    content = b"".join(
        data[place + 8 : place + 8 + length]
        for place, length in chunk_places(data)
        if data.startswith(b"IDAT", place + 4)
    )
    for start in range(0, len(content), 1000):
        with_small_chunks += chunk(b"IDAT", content[start : start + 1000])
    with_small_chunks += chunk(b"IEND")
    assert open_image(with_small_chunks).tobytes() == noise(256, 256).tobytes()


def chunk_places(data):
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield place, length
        place += 12 + length
