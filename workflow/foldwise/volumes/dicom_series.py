"""A DICOM series as a volume: position and values of every slice, read slice by slice."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from foldwise.files import CaseError
from foldwise.volumes.dicom_pixels import PIXELS, dtype_of, read_pixels, scale_of

# Largest distance of a slice from its position on an even grid, in steps of the stack.
PLACE = 0.1
# Largest difference of directions (a millimetre per metre): cosines are rounded when written.
DIRECTION = 1e-3
# The length of compressed pixels, and their end marker, as numbers from little-endian bytes.
UNDEFINED, DELIMITER = 0xFFFFFFFF, 0xE0DDFFFE
SUFFIXES = {".dcm", ".dicom", ".ima"}

TAGS = (
    *("ImageType", "PatientID", "SeriesInstanceUID", "FrameOfReferenceUID", *PIXELS),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
)


@dataclass(frozen=True)
class Series:
    """A series that forms a volume.

    Attributes:
        files: one per slice, in the order of z.
        shape: voxels along (x, y, z): columns, rows, slices.
        affine: 4×4, voxel index to millimetres in DICOM's LPS.
        dtype: type of the values after each slice's slope and intercept.
        scales: (slope, intercept) of each slice.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype[Any]
    scales: tuple[tuple[float, float], ...]


def open_series(folder: Path) -> Series:
    """Read the headers of a folder's single series; pixels are not read.

    Subfolders, hidden files and files of other types are skipped, but never a file that may be a slice.

    Raises:
        CaseError: no or several series, a file that cannot be read, or slices that do not form one volume.
    """
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and not path.is_dir()]
    headers = read_headers(files, folder)
    count = len({str(header.get("SeriesInstanceUID")) for header in headers.values()})
    if count != 1:
        raise CaseError(f"{folder}: contains {count} DICOM series, expected exactly one")
    return arrange(headers, folder)


def read_headers(files: Iterable[Path], where: Path) -> dict[Path, pydicom.Dataset]:
    """The headers of the images among some files.

    Args:
        files: files of any type.
        where: their folder, for messages.

    Raises:
        CaseError: a file cannot be read and may be a slice: it starts as DICOM or is named like a slice.
    """
    headers: dict[Path, pydicom.Dataset] = {}
    broken: dict[Path, str] = {}
    foreign = []
    for file in files:
        try:
            if (header := _header(file)) is not None:
                headers[file] = header
        except InvalidDicomError:
            foreign.append(file)
        except Exception as error:  # pydicom raises many types for a broken file
            broken[file] = str(error)
    broken |= lost_slices(foreign, headers)
    if broken:
        raise CaseError(f"{where}: {describe(broken)}")
    return headers


def lost_slices(foreign: Iterable[Path], slices: Iterable[Path]) -> dict[Path, str]:
    """Files that are not DICOM but named like slices, or like those in their folder; with the reason."""
    kinds = {(path.parent, _suffix(path)) for path in slices}
    lost = [path for path in foreign if _suffix(path) in SUFFIXES or (path.parent, _suffix(path)) in kinds]
    return {path: "does not start as DICOM" if path.stat().st_size else "is empty" for path in lost}


def describe(broken: Mapping[Path, str]) -> str:
    """A message that names broken files, each with its problem."""
    named = "; ".join(f"{file.name} {fault}" for file, fault in sorted(broken.items())[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    return f"broken files: slices may be missing ({named}{more}); copy them again, or move away non-slices"


def arrange(headers: Mapping[Path, pydicom.Dataset], where: Path) -> Series:
    """Sort the slices of one series and check that they form a volume.

    Args:
        headers: file → its header, from `read_headers`.
        where: their folder, for messages.

    Raises:
        CaseError: they do not form a volume; the message gives the reason.
    """
    _one("PatientID", "patients", headers, where)
    _one("FrameOfReferenceUID", "frames of reference", headers, where)
    for file, header in headers.items():
        if fault := _unusable(header):
            raise CaseError(f"{where}: {file.name} {fault}")
    files = list(headers)
    same = {
        "Rows": 0.0,
        "Columns": 0.0,
        "ImageOrientationPatient": DIRECTION,
        "PixelSpacing": 1e-4 * min(map(float, headers[files[0]].PixelSpacing)),
    }
    for keyword, tolerance in same.items():
        values = np.array([np.ravel(header[keyword].value) for header in headers.values()], float)
        apart = np.abs(values - values[0]).max(axis=1)
        if apart.max() > tolerance:
            raise CaseError(
                f"{where}: {keyword} of {files[0].name} is {headers[files[0]][keyword].value}, "
                f"that of {files[apart.argmax()].name} {headers[files[apart.argmax()]][keyword].value}"
            )
    first = headers[files[0]]
    along = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    places = np.array([header.ImagePositionPatient for header in headers.values()], float)
    normal = np.cross(*along) / np.linalg.norm(np.cross(*along))
    order = np.argsort(places @ normal, kind="stable")
    files, places = [files[i] for i in order], places[order]
    affine = np.eye(4)
    # DICOM gives the distance of rows before that of columns.
    affine[:3, :2] = along.T * np.array(first.PixelSpacing, float)[::-1]
    affine[:3, 2] = _step(first, files, places, normal, where)
    affine[:3, 3] = places[0]
    ordered = [headers[file] for file in files]
    shape = (int(first.Columns), int(first.Rows), len(files))
    return Series(tuple(files), shape, affine, dtype_of(ordered), tuple(map(scale_of, ordered)))


def read_voxels(series: Series) -> np.ndarray:
    """The values of a series, (x, y, z), each slice with its own slope, intercept, depth and sign.

    MONOCHROME1 concerns only the display and inverts nothing. Padding above every measured value becomes the
    lowest one; other padding is kept, since most scanners write a value below that of air.

    Raises:
        CaseError: the pixels of a file cannot be read.
    """
    values = np.empty(series.shape[::-1], series.dtype)
    lowest, highest = np.inf, -np.inf
    padded: dict[int, np.ndarray] = {}
    # Exact for all values of the types that `dtype_of` chooses.
    wide = np.float64 if values.dtype.kind == "f" else np.int64
    for z, (file, (slope, intercept)) in enumerate(zip(series.files, series.scales, strict=True)):
        try:
            stored, padding = read_pixels(file)
            unscaled = (slope, intercept) == (1, 0)
            values[z] = stored if unscaled else stored.astype(wide) * wide(slope) + wide(intercept)
        except Exception as error:  # pydicom and ITK raise many types for a broken file
            raise CaseError(f"{file}: its pixels cannot be read ({error})") from error
        if padding is None:
            lowest, highest = min(lowest, values[z].min()), max(highest, values[z].max())
            continue
        measured = values[z][~padding]
        if measured.size:
            lowest, highest = min(lowest, measured.min()), max(highest, measured.max())
        if values[z][padding].max() > highest:
            padded[z] = padding
    for z, padding in padded.items():
        values[z][padding & (values[z] > highest)] = lowest
    return values.transpose()


def _header(file: Path) -> pydicom.Dataset | None:
    """The header of an image, or None for another type of DICOM file.

    Raises:
        InvalidDicomError: it does not start as DICOM.
        Exception: it is truncated; pydicom raises many types.
    """
    with file.open("rb") as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
        if header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return header if "Rows" in header else None
        whole = _pixels_are_whole(stream, header)
        if whole is None:
            kind = header.file_meta.get("MediaStorageSOPClassUID")
            if "Rows" in header or kind is None or "Image Storage" in kind.name:
                raise ValueError("has no pixels; is it truncated?")
            return None
        if not whole:
            raise ValueError("has fewer pixels than it states; is it truncated?")
        return header


def _pixels_are_whole(stream: BufferedReader, header: pydicom.Dataset) -> bool | None:
    """Whether the file has all the pixels that its header states, judged only by lengths; None: no pixels.

    Args:
        stream: positioned where pydicom stopped before the pixels.
        header: header as read so far.
    """
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    size = 8 if implicit else 12
    element = stream.read(size)
    if len(element) < size or struct.unpack(order + "HH", element[:4]) != (0x7FE0, 0x10):
        return None
    (length,) = struct.unpack(order + "L", element[-4:])
    if length == UNDEFINED:  # compressed: fragments, each with its length, up to a delimiter
        while len(item := stream.read(8)) == 8:
            tag, length = struct.unpack("<LL", item)
            if tag == DELIMITER:
                return True
            stream.seek(length, os.SEEK_CUR)
        return False
    syntax = header.file_meta.get("TransferSyntaxUID")
    bits = 0 if syntax is not None and syntax.is_encapsulated else int(header.get("BitsAllocated", 0))
    wanted = header.get("Rows", 0) * header.get("Columns", 0) * bits // 8
    return wanted <= length <= os.fstat(stream.fileno()).st_size - stream.tell()


def _suffix(path: Path) -> str:
    """The suffix of a file's name in lower case; a number, as in names from UIDs, is not a suffix."""
    return "" if path.suffix[1:].isdigit() else path.suffix.lower()


def _one(keyword: str, what: str, headers: Mapping[Path, pydicom.Dataset], where: Path) -> None:
    owners = {str(header[keyword].value): file for file, header in headers.items() if header.get(keyword)}
    if len(owners) > 1:
        named = ", ".join(map(str, list(owners.values())[:2]))
        raise CaseError(
            f"{where}: its files have {len(owners)} {keyword}s ({named}): {len(owners)} {what} in one series"
        )


def _unusable(header: pydicom.Dataset) -> str | None:
    """Why an image is not a slice of a volume, or None."""
    photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if header.get("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
        return f"is a colour picture ({photometric}), not a slice"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return f"contains {header.NumberOfFrames} frames; write the series as one file per slice, or as NIfTI"
    if "MOSAIC" in (header.get("ImageType") or []):
        return "is a mosaic of several slices; write the series as NIfTI, e.g. with dcm2niix"
    if header.get("ModalityLUTSequence"):
        return "has a ModalityLUTSequence instead of RescaleSlope; write the series as NIfTI"
    needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    sizes = {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
    for keyword in needed:
        if header.get(keyword) is None:
            return f"has no {keyword}"
    for keyword, size in sizes.items():
        if not header.get(keyword):
            return f"has no {keyword}; without it the positions of voxels are unknown"
        if (
            np.shape(header[keyword].value) != (size,)
            or not np.isfinite(np.array(header[keyword].value, float)).all()
        ):
            return f"has {keyword} {header[keyword].value}; expected {size} numbers"
    if min(map(float, header.PixelSpacing)) <= 0:
        return f"has PixelSpacing {header.PixelSpacing}"
    along = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    if np.abs(along @ along.T - np.eye(2)).max() > DIRECTION:
        return f"has ImageOrientationPatient {header.ImageOrientationPatient}, not two axes at right angles"
    allocated, stored, high = header.BitsAllocated, header.BitsStored, header.HighBit
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        return f"has BitsAllocated {allocated}, BitsStored {stored} and HighBit {high}"
    slope, intercept = scale_of(header)
    if not np.isfinite((slope, intercept)).all() or slope == 0:
        return f"has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}"
    return None


def _step(
    header: pydicom.Dataset, files: Sequence[Path], places: np.ndarray, normal: np.ndarray, where: Path
) -> np.ndarray:
    """The step from a slice to the next, in LPS millimetres.

    Raises:
        CaseError: the slices, sorted along the normal, are not in line and evenly spaced.
    """
    if len(files) == 1:
        thickness = abs(float(header.get("SliceThickness") or header.get("SpacingBetweenSlices") or 0))
        if not thickness:
            raise CaseError(f"{where}: a single slice without SliceThickness; its thickness is unknown")
        return normal * thickness
    height = (places - places[0]) @ normal
    steps = np.diff(height)
    _refuse_repeats(files, steps, where)
    mean = height[-1] / (len(files) - 1)
    across = places - places[0] - np.outer(height, normal)
    lean = across[-1] / height[-1]
    if np.linalg.norm(across - np.outer(height, lean), axis=1).max() > PLACE * mean:
        jumps = np.linalg.norm(np.diff(across, axis=0), axis=1)
        z = int(jumps.argmax())
        raise CaseError(
            f"{where}: its slices are not in line: {files[z + 1].name} is shifted sideways by "
            f"{jumps[z]:.2f} mm relative to {files[z].name}"
        )
    if np.linalg.norm(lean) > DIRECTION:
        angle = np.rad2deg(np.arctan(np.linalg.norm(lean)))
        raise CaseError(
            f"{where}: its slices are tilted by {angle:.1f}° relative to the stack (gantry tilt); straighten "
            f"the series first, e.g. with dcm2niix"
        )
    if np.abs(height - mean * np.arange(len(files))).max() > PLACE * mean:
        z, whole = int(steps.argmax()), steps / steps.min()
        why = "they are not evenly spaced"
        if np.abs(whole - np.round(whole)).max() <= PLACE:
            missing = int(np.round(whole).sum()) - len(steps)
            why = "one is missing" if missing == 1 else f"{missing} are missing"
        raise CaseError(
            f"{where}: its slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; {why} (largest step "
            f"between {files[z].name} and {files[z + 1].name})"
        )
    return (places[-1] - places[0]) / (len(files) - 1)


def _refuse_repeats(files: Sequence[Path], steps: np.ndarray, where: Path) -> None:
    if steps.min() >= 1e-3:
        return
    counts = np.diff(np.flatnonzero(np.r_[True, steps >= 1e-3, True]))
    if counts.min() == counts.max():
        raise CaseError(
            f"{where}: its {len(files)} files have {len(counts)} positions, {counts[0]} files at each "
            f"position: several time points, echoes or phases in one series; keep one in the folder"
        )
    z = int(steps.argmin())
    raise CaseError(
        f"{where}: {files[z].name} and {files[z + 1].name} are at the same position; one exists twice, or "
        f"the series contains several time points"
    )
