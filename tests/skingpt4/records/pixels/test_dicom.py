"""DICOM: photographs of every coding are read as the pixels that went in, all else is refused in a sentence."""

import io
import logging
import struct
import warnings

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    UltrasoundImageStorage,
)

from data.preparing.metadata import without_metadata
from skingpt4.records import images
from skingpt4.records.images import ImageError, num_pixels, open_image, remarks
from skingpt4.records.pixels import dicom
from tests.support.dicom_files import (
    CAPTURE,
    PERSON,
    compressed,
    elements,
    encoded,
    file_of,
    jpeg,
    jpeg2000,
    photograph,
    rle,
    scene,
)


def read(data):
    return np.asarray(open_image(data)).astype(int)


def refused(data):
    with pytest.raises(ImageError) as caught:
        open_image(data)
    assert PERSON not in str(caught.value)
    assert "4711" not in str(caught.value)
    return caught.value.reason, str(caught.value)


# ---- what is read


@pytest.mark.parametrize(
    "data",
    [
        photograph(), rle(), jpeg2000(), photograph(sop_class=CAPTURE),
        photograph(sop_class="1.2.840.10008.5.1.4.1.1.77.1.7"),
        file_of(elements(scene()), ImplicitVRLittleEndian),
        file_of(elements(scene()), DeflatedExplicitVRLittleEndian),
    ],
    ids=["explicit", "rle", "jpeg2000", "capture", "dermoscopy", "implicit", "deflated"],
)  # fmt: skip
def test_lossless_codings_give_the_pixels_that_went_in(data):
    assert (read(data) == scene()).all()
    assert num_pixels(data) == 48 * 32


def test_planes_one_after_another_and_big_endian():
    ds = elements(scene(), PlanarConfiguration=1)
    ds.PixelData = np.moveaxis(scene(), 2, 0).tobytes()
    assert (read(file_of(ds)) == scene()).all()
    grey = elements(np.arange(48 * 32, dtype=">u2").reshape(32, 48), WindowCenter=768, WindowWidth=1536)
    shown = read(file_of(grey, ExplicitVRBigEndian))
    assert (shown[0, 0, 0], shown[-1, -1, 0]) == (0, 255)


def test_jpeg_as_cameras_write_it():
    assert np.abs(read(jpeg()) - scene()).max() <= 6


def test_a_jpeg_that_says_how_its_colours_are_stored_is_not_converted_twice():
    """Adobe's marker makes the decoder undo the transform, whatever the header says."""
    plain = encoded(scene(), "JPEG", quality=95)
    jfif = struct.unpack(">H", plain[4:6])[0] + 4
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
    frame = plain[:2] + adobe + plain[jfif:]
    data = compressed([frame], JPEGBaseline8Bit, kind="YBR_FULL_422")
    assert np.abs(read(data) - scene()).max() <= 6


def ybr(rgb):
    """PS3.3, C.7.6.3.1.2."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return (rgb @ matrix.T + [0, 128, 128]).round().clip(0, 255).astype(np.uint8)


def test_brightness_and_colour_differences_become_rgb():
    assert np.abs(read(photograph(ybr(scene()), kind="YBR_FULL")) - scene()).max() <= 3


def test_colour_differences_of_every_second_column():
    full = ybr(np.repeat(scene()[:, ::2], 2, axis=1))
    ds = elements(full, kind="YBR_FULL_422")
    pairs = full.reshape(32, 24, 2, 3)
    ds.PixelData = np.stack(
        [pairs[:, :, 0, 0], pairs[:, :, 1, 0], pairs[:, :, 0, 1], pairs[:, :, 0, 2]], 2
    ).tobytes()
    assert np.abs(read(file_of(ds)) - np.repeat(scene()[:, ::2], 2, axis=1)).max() <= 3


def grey(values, **more):
    return photograph(np.asarray(values), sop_class=CAPTURE, **more)


RAMP = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))


def test_grey_is_shown_as_stored_and_its_opposite_upside_down():
    assert (read(grey(RAMP))[..., 1] == RAMP).all()
    assert (read(grey(RAMP, kind="MONOCHROME1"))[..., 1] == 255 - RAMP.astype(int)).all()


def test_a_window_cuts_the_rescaled_values():
    """Values 0 to 31 become -100 to 210; the window of 0 to 100 is linear between."""
    values = np.tile(np.arange(32, dtype=np.int16), (32, 1))
    more = {"RescaleSlope": 10, "RescaleIntercept": -100, "WindowWidth": 101, "WindowCenter": 50.5}
    shown = read(grey(values, **more))[0, :, 0]
    expected = np.clip((np.arange(32) * 10 - 100) / 100, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 1
    exact = read(
        grey(values, **more | {"WindowWidth": 100, "WindowCenter": 50, "VOILUTFunction": "LINEAR_EXACT"})
    )
    assert np.abs(exact[0, :, 0] - expected).max() <= 1
    sigmoid = read(grey(values, **more | {"VOILUTFunction": "SIGMOID"}))[0, :, 0]
    assert sigmoid[15] in range(125, 129)
    assert (np.diff(sigmoid) >= 0).all()


def test_a_table_of_values_is_followed():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [32, 0, 8], list(range(0, 256, 8))[::-1]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    values = np.tile(np.arange(32, dtype=np.uint8), (32, 1))
    shown = read(grey(values, VOILUTSequence=Sequence([table])))[0, :, 0]
    assert shown.tolist() == list(range(0, 256, 8))[::-1]


def test_deep_values_without_a_window_are_not_black():
    assert read(grey(np.tile(np.arange(0, 4096, 128, dtype=np.uint16), (32, 1)))).max() == 255


def test_one_bit_is_black_and_white():
    bits = np.tile([0, 1], (8, 8))
    ds = elements(
        np.zeros((8, 16), np.uint8), "1.2.840.10008.5.1.4.1.1.7.1", BitsAllocated=1, BitsStored=1, HighBit=0
    )
    ds.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    assert (read(file_of(ds))[..., 0] == bits * 255).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colours(bits):
    ds = elements(np.tile(np.arange(16, dtype=np.uint8), (16, 1)), CAPTURE, "PALETTE COLOR")
    dtype, most = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    for name, factor in (("Red", 1.0), ("Green", 0.5), ("Blue", 0.25)):
        values = (np.arange(16) / 15 * most * factor).astype(dtype)
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [16, 0, bits])
        setattr(ds, f"{name}PaletteColorLookupTableData", values.tobytes())
        ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
    shown = read(file_of(ds))
    assert np.abs(shown[0, -1] - [255, 127, 63]).max() <= 1
    assert shown[0, 0].tolist() == [0, 0, 0]


def test_of_several_frames_the_first_is_shown_and_that_is_said():
    other = scene()[::-1]
    ds = elements(scene(), "1.2.840.10008.5.1.4.1.1.7.4", NumberOfFrames=2)
    ds.PixelData = scene().tobytes() + other.tobytes()
    assert (read(file_of(ds)) == scene()).all()
    assert remarks(file_of(ds)) == ("first_frame",)
    frames = [encoded(values, "JPEG", quality=95) for values in (scene(), other)]
    data = compressed(frames, JPEGBaseline8Bit, kind="YBR_FULL_422")
    assert np.abs(read(data) - scene()).max() <= 6
    assert remarks(data) == ("first_frame",)


@pytest.mark.parametrize(
    ("tag", "said"), [("NO", ()), ("YES", ("burnt_in_text",)), ("", ("burnt_in_unknown",))]
)
def test_what_the_file_says_about_burnt_in_text(tag, said):
    assert remarks(photograph(BurnedInAnnotation=tag)) == said
    assert set(said) <= set(images.REMARKS)


def test_without_the_tag_nobody_knows():
    ds = elements(scene())
    del ds.BurnedInAnnotation
    assert remarks(file_of(ds)) == ("burnt_in_unknown",)
    assert remarks(b"no DICOM") == ()


# ---- what is refused


@pytest.mark.parametrize(
    "sop_class", [CTImageStorage, EncapsulatedPDFStorage, UltrasoundImageStorage, "1.2.3"]
)
def test_what_is_no_photograph_is_refused_by_its_kind(sop_class):
    reason, message = refused(photograph(sop_class=sop_class))
    assert reason == "not_a_photograph"
    assert ("unknown kind" if sop_class == "1.2.3" else sop_class.name.removesuffix(" Storage")) in message


def test_a_report_without_pixels_is_refused():
    ds = elements(scene())
    del ds.PixelData
    assert refused(file_of(ds))[0] == "damaged"
    del ds.Rows
    assert "holds no picture" in refused(file_of(ds))[1]


def test_the_class_inside_counts_too():
    data = photograph(sop_class=CTImageStorage)
    lying = data.replace(CTImageStorage.encode(), b"1.2.840.10008.5.1.4.1.1.7", 1)
    assert refused(lying)[0] == "not_a_photograph"


def test_a_coding_without_decoder_is_named():
    reason, message = refused(compressed([b"\xff\xd8\xff\xd9"], JPEGLosslessSV1))
    assert reason == "no_decoder"
    assert "JPEG Lossless" in message
    assert refused(compressed([b"\0\0"], "1.2.840.10008.1.2.4.102", kind="YBR_FULL"))[0] == "no_decoder"


def test_pydicom_missing_is_a_sentence(monkeypatch):
    dicom._quiet.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    reason, message = refused(photograph())
    assert reason == "no_decoder"
    assert "skingpt4[clinic]" in message


@pytest.mark.parametrize("kind", ["YBR_PARTIAL_420", "CMYK", "nonsense"])
def test_unknown_colours_are_refused(kind):
    assert refused(photograph(kind=kind))[0] == "no_decoder"


# ---- bounded before anything large is made


def test_a_huge_frame_is_refused_by_its_header():
    assert refused(photograph(Rows=30000, Columns=30000))[0] == "too_large"


def test_a_small_header_before_a_large_jpeg():
    large = encoded(np.zeros((2000, 2000, 3), np.uint8), "JPEG")
    assert "another size" in refused(compressed([large], JPEGBaseline8Bit, kind="YBR_FULL_422"))[1]
    large = encoded(np.zeros((2000, 2000, 3), np.uint8), "JPEG2000", no_jp2=True)
    assert "another size" in refused(compressed([large], JPEG2000Lossless, kind="YBR_RCT"))[1]


def test_runs_that_never_end():
    segments = b"\x81\xff" * 100_000  # each pair of bytes becomes 128
    header = struct.pack("<16L", 3, 64, 64 + 100_000, 64 + 200_000 - 2, *[0] * 12)
    assert "RLE" in refused(compressed([header + segments], RLELossless))[1]


# ---- a file cut off or damaged anywhere, and what the file says of people


SMALL = scene(8, 8)


def outcome(data):
    """RGB, or why it is refused."""
    try:
        return open_image(data).mode
    except ImageError as error:
        return error.reason


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("data", "step"),
    [(photograph(SMALL), 1), (rle(SMALL), 1), (jpeg(SMALL), 3), (jpeg2000(SMALL), 3)],
    ids=["raw", "rle", "jpeg", "jpeg2000"],
)
def test_truncated_anywhere(data, step):
    outcomes = {outcome(data[:end]) for end in range(0, len(data), step)}
    assert outcomes >= {"not_an_image", "damaged"}
    assert outcomes <= {"RGB", *images.REASONS}  # RGB where only what follows the pixels was cut off


@pytest.mark.filterwarnings("ignore")
def test_any_byte_may_be_wrong():
    rng = np.random.default_rng(0)
    files = [photograph(SMALL), jpeg(SMALL), rle(SMALL), jpeg2000(SMALL)]
    outcomes = set()
    for trial in range(600):
        data = bytearray(files[trial % 4])
        for place in rng.integers(132, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        outcomes.add(outcome(bytes(data)))
    assert outcomes >= {"RGB", "damaged", "not_a_photograph"}
    assert outcomes <= {"RGB", *images.REASONS}


def test_deep_nesting_is_no_crash():
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    nested = (struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0\xff\xff\xff\xff" + item) * 5000
    plain = photograph()
    start = 144 + dcmread(io.BytesIO(plain)).file_meta.FileMetaInformationGroupLength
    assert refused(plain[:start] + nested + plain[start:])[0] == "damaged"


def test_no_name_leaves_the_reader(caplog, capfd):
    data = photograph()
    assert PERSON.encode() in data
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("always")
        dicom._quiet.cache_clear()
        picture = open_image(data)
        refused(photograph(sop_class=CTImageStorage))
        refused(data[:-1000])
    assert picture.info == {}
    out = capfd.readouterr()
    assert PERSON not in caplog.text + out.out + out.err
    clean, suffix = without_metadata(data)
    assert (suffix, PERSON.encode() in clean) == (".png", False)
    assert (read(clean) == scene()).all()


def test_only_named_elements_are_read():
    assert "PatientName" not in dicom._File.of(photograph(), with_pixels=True).elements(with_pixels=True)
