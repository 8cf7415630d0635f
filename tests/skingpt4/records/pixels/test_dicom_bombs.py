"""DICOM files of a few kilobytes that would take gigabytes or minutes; each is refused, or costs next to nothing."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from skingpt4.records.images import ImageError, open_image
from skingpt4.records.pixels import dicom
from tests.support.dicom_files import elements, file_of, photograph, scene


def refused(data):
    with pytest.raises(ImageError) as caught:
        open_image(data)
    return caught.value.reason, str(caught.value)


def deflated(head, body):
    """A deflated file with the header of the file `head`."""
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return head[: body_start(head)] + squeeze.compress(body) + squeeze.flush()


def body_start(data):
    return 144 + dcmread(io.BytesIO(data)).file_meta.FileMetaInformationGroupLength


def test_a_deflated_bomb(monkeypatch):
    monkeypatch.setattr(dicom, "MAX_INFLATED", 2**20)
    head, plain = file_of(elements(scene()), DeflatedExplicitVRLittleEndian), photograph()
    bomb = deflated(head, plain[body_start(plain) :] + bytes(8 * 2**20))
    assert refused(bomb)[0] == "too_large"


def test_the_facts_inflate_no_pixels():
    """They are asked for before a picture has its turn at decoding, so by many at once."""
    head, plain = file_of(elements(scene()), DeflatedExplicitVRLittleEndian), photograph()
    bomb = deflated(head, plain[body_start(plain) :] + bytes(64 * 2**20))
    tracemalloc.start()
    try:
        assert dicom.facts(bomb).width == 48
        assert tracemalloc.get_traced_memory()[1] < 4 * dicom.MAX_HEADER
    finally:
        tracemalloc.stop()


def test_what_follows_the_pixels_is_not_read(monkeypatch):
    """Padding of zeros would be elements of eight bytes each, which takes minutes."""
    monkeypatch.setattr(dicom, "MAX_ELEMENTS", 100)
    assert open_image(photograph() + bytes(8 * 1000)).size == (48, 32)


EMPTY, ITEM = b"\x09\x00\x10\x10LO\0\0", b"\xfe\xff\x00\xe0\0\0\0\0"
LIST, LIST_END = b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.mark.parametrize("many", [EMPTY * 50_000, LIST + ITEM * 50_000 + LIST_END], ids=["elements", "items"])
def test_a_great_many_elements(many):
    plain = photograph()
    start = body_start(plain)
    assert "elements" in refused(plain[:start] + many + plain[start:])[1]


def test_a_palette_in_segments():
    """Each line of six bytes would become 60000 values."""
    values = elements(np.zeros((16, 16), np.uint8), kind="PALETTE COLOR")
    segments = struct.pack("<3H", 0, 1, 0) + struct.pack("<3H", 1, 60_000, 5) * 100
    for name in ("Red", "Green", "Blue"):
        setattr(values, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(values, f"Segmented{name}PaletteColorLookupTableData", segments)
    assert refused(file_of(values))[0] == "no_decoder"
