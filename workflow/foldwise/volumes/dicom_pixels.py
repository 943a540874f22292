"""Stored pixels of DICOM files, and the type required by a series' values."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import iter_pixels
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from foldwise.volumes.dicom_files import TAGS, read_dataset
from foldwise.volumes.dicom_frames import Frame

# What a decoder needs to know.
ENCODED = (
    *("Rows", "Columns", "SamplesPerPixel"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)


def dtype_of(frames: Iterable[Frame]) -> np.dtype[Any]:
    """The narrowest integer type for all possible values of the slices, or a float type for fractions."""
    ends = []
    for frame in frames:
        slope, intercept = frame.scale
        if frame.pixels.element == "DoubleFloatPixelData":
            return np.dtype(np.float64)
        if frame.pixels.element != "PixelData" or not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float32)
        count = 2 ** frame.get("BitsStored")
        stored = (-count // 2, count // 2 - 1) if frame.get("PixelRepresentation") else (0, count - 1)
        ends += [end * slope + intercept for end in stored]
    kinds = (np.uint8, np.uint16, np.uint32) if min(ends) >= 0 else (np.int16, np.int32)
    fitting = (k for k in kinds if np.iinfo(k).min <= min(ends) and max(ends) <= np.iinfo(k).max)
    return np.dtype(next(fitting, np.float32))


def read_pixels(file: Path, frames: Iterable[Frame]) -> Iterator[tuple[Frame, np.ndarray, np.ndarray | None]]:
    """Read frames of one file.

    Args:
        file: the file.
        frames: all of its frames, in their order in the file.

    Yields:
        A frame; its stored values, (rows, columns), before slope and intercept; and a mask of padding, or
        None without any.

    Raises:
        Exception: the pixels cannot be read; pydicom and ITK raise many types.
    """
    frames = list(frames)
    with file.open("rb") as stream:
        placed = frames[0].pixels.offset is not None
        pictures = _at_offset(stream, frames) if placed else _decoded(stream, len(frames))
        for frame, stored in zip(frames, pictures, strict=True):
            shape = (frame.get("Rows"), frame.get("Columns"))
            if stored.shape != shape:
                raise ValueError(f"shape {stored.shape}, expected {shape}")
            padding = _padding(stored, frame)
            yield frame, _clean(stored, frame, padding), padding


def _at_offset(stream: BinaryIO, frames: list[Frame]) -> Iterator[np.ndarray]:
    stream.seek(frames[0].pixels.offset or 0)
    for frame in frames:
        floats = frame.pixels.element != "PixelData"
        kind = "f" if floats else "i" if frame.get("PixelRepresentation") else "u"
        dtype = np.dtype(f"<{kind}{frame.get('BitsAllocated') // 8}")
        shape = (frame.get("Rows"), frame.get("Columns"))
        yield np.fromfile(stream, dtype, shape[0] * shape[1]).reshape(shape)


def _decoded(stream: BinaryIO, count: int) -> Iterator[np.ndarray]:
    tags = map(Tag, ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    dataset = read_dataset(stream, [*TAGS, *tags], pixels=True)
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        # Padding may be in the unused bits.
        yield from iter_pixels(dataset, correct_unused_bits=False)
        return
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    for frame in generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets):
        yield _decompressed(dataset, frame)


def _padding(stored: np.ndarray, frame: Frame) -> np.ndarray | None:
    """A mask of padding, or None without any."""
    if stored.dtype.kind == "f":
        value = frame.get(frame.pixels.element.replace("PixelData", "PixelPaddingValue"))
        padding = None if value is None else stored == stored.dtype.type(value)
    else:
        ends = [frame.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
        # Some writers store it as unsigned for signed pixels, or the other way round.
        ends = np.array([end for end in ends if end is not None], np.int64).astype(stored.dtype).tolist()
        padding = (stored >= min(ends)) & (stored <= max(ends)) if ends else None
    return padding if padding is not None and padding.any() else None


def _clean(stored: np.ndarray, frame: Frame, padding: np.ndarray | None) -> np.ndarray:
    """The stored bits alone; those above are not values, they may hold an overlay."""
    width = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "f" or frame.get("BitsStored") == width:
        return stored
    clean = (stored << (width - 1 - frame.get("HighBit"))) >> (width - frame.get("BitsStored"))
    if padding is not None and (clean[padding] != stored[padding]).any():
        raise ValueError(
            f"PixelPaddingValue {frame.get('PixelPaddingValue')} does not fit BitsStored "
            f"{frame.get('BitsStored')}"
        )
    return clean


def _decompressed(dataset: pydicom.FileDataset, frame: bytes) -> np.ndarray:
    """A compressed frame, by ITK, which decodes more than pydicom.

    ITK gets a copy with only the pixels, since it would otherwise rescale them and invert MONOCHROME1.
    """
    bare = pydicom.Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    for keyword in ENCODED:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(os.fspath(path)))[0]
        except RuntimeError as error:
            name = dataset.file_meta.TransferSyntaxUID.name
            raise ValueError(f"they cannot be decoded from {name}") from error
