"""DICOM files made by code: photographs in every coding that is read, and objects that are refused."""

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    VLPhotographicImageStorage,
)

PERSON = "Musterfrau^Erika"  # must never come out of a reader
PHOTOGRAPH, CAPTURE = VLPhotographicImageStorage, SecondaryCaptureImageStorage


def scene(width=48, height=32):
    """(h, w, 3) uint8: smooth colours, so that lossy codings stay close."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 120 + 2 * columns, 60 + 3 * rows
    return np.stack([red, green, 200 - columns - rows], axis=2).clip(0, 255).astype(np.uint8)


def elements(values, sop_class=PHOTOGRAPH, kind=None, **more):
    """A data set that holds one frame of values (h, w) or (h, w, 3)."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "1.2.3.4"
    ds.PatientName, ds.PatientID, ds.InstitutionName = PERSON, "4711", "Klinikum Musterstadt"
    ds.Modality, ds.BurnedInAnnotation = "XC", "NO"
    ds.Rows, ds.Columns = values.shape[:2]
    ds.SamplesPerPixel = 3 if values.ndim == 3 else 1
    ds.PhotometricInterpretation = kind or ("RGB" if values.ndim == 3 else "MONOCHROME2")
    if values.ndim == 3:
        ds.PlanarConfiguration = 0
    bits = 8 * values.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    ds.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in more.items():
        setattr(ds, name, value)
    return ds


def file_of(ds, syntax=ExplicitVRLittleEndian):
    """The bytes of a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def photograph(values=None, **more):
    """An uncompressed photograph."""
    return file_of(elements(scene() if values is None else values, **more))


def encoded(values, kind, **options):
    """A file of Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def compressed(frames, syntax, values=None, kind="RGB", **more):
    """A photograph of frames that are compressed already."""
    ds = elements(scene() if values is None else values, kind=kind, **more)
    if len(frames) > 1:
        ds.NumberOfFrames = len(frames)
    ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return file_of(ds, syntax)


def jpeg(values=None):
    """JPEG Baseline, as cameras and viewers write it."""
    values = scene() if values is None else values
    return compressed([encoded(values, "JPEG", quality=95)], JPEGBaseline8Bit, values, "YBR_FULL_422")


def jpeg2000(values=None):
    """JPEG 2000, lossless."""
    values = scene() if values is None else values
    frame = encoded(values, "JPEG2000", irreversible=False, mct=1, no_jp2=True)
    return compressed([frame], JPEG2000Lossless, values, "YBR_RCT")


def rle(values=None):
    """RLE."""
    ds = elements(scene() if values is None else values)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return file_of(ds, RLELossless)
