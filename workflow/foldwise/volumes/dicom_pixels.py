"""Stored pixels of DICOM files, and the type required by a series' values."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")


def scale_of(header: pydicom.Dataset) -> tuple[float, float]:
    """Slope and intercept of a slice; 1 and 0 if absent."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def dtype_of(headers: Iterable[pydicom.Dataset]) -> np.dtype[Any]:
    """The narrowest integer type for all possible values of the slices, or float32 for fractional slopes."""
    ends = []
    for header in headers:
        slope, intercept = scale_of(header)
        if not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float32)
        count = 2 ** int(header.BitsStored)
        stored = (-count // 2, count // 2 - 1) if header.PixelRepresentation else (0, count - 1)
        ends += [end * slope + intercept for end in stored]
    kinds = (np.uint8, np.uint16, np.uint32) if min(ends) >= 0 else (np.int16, np.int32)
    fitting = (k for k in kinds if np.iinfo(k).min <= min(ends) and max(ends) <= np.iinfo(k).max)
    return np.dtype(next(fitting, np.float32))


def read_pixels(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a file of one slice.

    Returns:
        The stored values, (rows, columns), before slope and intercept; and a mask of padding, or None
        without any.

    Raises:
        Exception: the pixels cannot be read; pydicom and ITK raise many types.
    """
    dataset = pydicom.dcmread(file, specific_tags=[*PIXELS, *PADDING, "PixelData"])
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        stored = _decode(dataset)
    else:
        stored = pixel_array(dataset, correct_unused_bits=False)  # padding may be in these bits
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise ValueError(f"shape {stored.shape}, expected {(dataset.Rows, dataset.Columns)}")
    padding = None
    if ends := [dataset[keyword].value for keyword in PADDING if dataset.get(keyword) is not None]:
        # Some writers store it as unsigned for signed pixels, or the other way round.
        ends = np.array(ends, np.int64).astype(stored.dtype).tolist()
        padding = (stored >= min(ends)) & (stored <= max(ends))
        padding = padding if padding.any() else None
    width = 8 * stored.dtype.itemsize
    if dataset.BitsStored < width:
        # Bits above the stored ones are not values; they may hold an overlay.
        clean = (stored << (width - 1 - dataset.HighBit)) >> (width - dataset.BitsStored)
        if padding is not None and (clean[padding] != stored[padding]).any():
            raise ValueError(f"PixelPaddingValue {ends[0]} does not fit BitsStored {dataset.BitsStored}")
        stored = clean
    return stored, padding


def _decode(dataset: pydicom.Dataset) -> np.ndarray:
    """Compressed pixels, by ITK, which decodes more than pydicom.

    ITK gets a copy with only the pixels, since it would otherwise rescale them and invert MONOCHROME1.
    """
    bare = pydicom.Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    for keyword in (*PIXELS, "PixelData"):
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(os.fspath(path)))[0]
        except RuntimeError as error:
            name = dataset.file_meta.TransferSyntaxUID.name
            raise ValueError(f"they cannot be decoded from {name}") from error
