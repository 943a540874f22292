"""The files of a folder with DICOM: which are images, what the others are, and which are broken."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from foldwise.files import CaseError
from foldwise.volumes.dicom_frames import EACH, MOSAICS, SHARED, Frame, Pixels, elements_of, frames_of
from foldwise.volumes.suffixes import DICOM_SUFFIXES

# The length of compressed pixels, and their end marker, as numbers from little-endian bytes.
UNDEFINED, DELIMITER = 0xFFFFFFFF, 0xE0DDFFFE
# Pictures that describe others.
OTHERS = ("Segmentation", "Label Map Segmentation", "RT Dose", "RT Image")
# Elements that contain pixels, by the last part of their tag.
PIXELS = {0x10: "PixelData", 0x08: "FloatPixelData", 0x09: "DoubleFloatPixelData"}
# Most headers fit, so that a file on a server is read once.
BUFFER = 1 << 16

KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "Modality", "ImageType", "InstanceNumber", "NumberOfSlices"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue"),
    "DoubleFloatPixelPaddingValue",
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"),
    *("DimensionIndexSequence", SHARED, EACH),
    *("TemporalPositionIdentifier", "TriggerTime", "NominalPercentageOfCardiacPhase", "EchoTime"),
    *("EchoNumbers", "DiffusionBValue", "DiffusionGradientOrientation", "InversionTime", "FlipAngle"),
    *("SequenceName", "KVP", "ConvolutionKernel", "AcquisitionNumber", "FrameReferenceTime"),
    *("AcquisitionDateTime", "AcquisitionTime", "ContentTime"),
)
TAGS: list[BaseTag | int] = [
    *(Tag(tag_for_keyword(keyword)) for keyword in KEYWORDS),
    *(Tag(tag) for _, *tags in MOSAICS for tag in tags),
]


@dataclass
class Files:
    """The contents of a folder.

    Attributes:
        frames: those of its images.
        others: other files, with what they are.
    """

    frames: list[Frame] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)


def read_files(files: Iterable[Path], where: Path) -> Files:
    """Read the headers of files; pixels are not read.

    Args:
        files: files of any type.
        where: their folder, for messages.

    Raises:
        CaseError: a file cannot be read and may be a slice: it starts as DICOM or is named like a slice.
    """
    found = Files()
    broken: dict[Path, str] = {}
    foreign = []
    for file in files:
        try:
            frames = _frames(file)
            if isinstance(frames, str):
                found.others[file] = frames
            else:
                found.frames += frames
        except InvalidDicomError:
            foreign.append(file)
        except Exception as error:  # pydicom raises many types for a broken file
            broken[file] = str(error).removeprefix(f"{file}: ")
    broken |= lost_slices(foreign, {frame.file for frame in found.frames})
    if broken:
        raise CaseError(f"{where}: {describe(broken)}")
    found.others |= dict.fromkeys(foreign, "not DICOM")
    return found


def lost_slices(foreign: Iterable[Path], slices: Iterable[Path]) -> dict[Path, str]:
    """Files that are not DICOM but named like slices, or like those in their folder; with the reason."""
    kinds = {(path.parent, _suffix(path)) for path in slices}
    lost = [
        path for path in foreign if _suffix(path) in DICOM_SUFFIXES or (path.parent, _suffix(path)) in kinds
    ]
    return {path: "does not start as DICOM" if path.stat().st_size else "is empty" for path in lost}


def describe(broken: Mapping[Path, str]) -> str:
    """A message that names broken files, each with its problem."""
    named = "; ".join(f"{file.name} {fault}" for file, fault in sorted(broken.items())[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    return f"broken files: slices may be missing ({named}{more}); copy them again, or move away non-slices"


def read_dataset(stream: BinaryIO, tags: list[BaseTag | int], pixels: bool) -> pydicom.FileDataset:
    """The elements of a DICOM file; archives of the 1990s have files without preamble and file meta.

    Args:
        stream: the file.
        tags: elements to read.
        pixels: also read on to the pixels and what follows.

    Raises:
        InvalidDicomError: it is not DICOM.
        Exception: it is truncated; pydicom raises many types.
    """
    try:
        header = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=tags)
    except InvalidDicomError:
        stream.seek(0)
        # The first group is 2 or 8, in either order of bytes.
        if stream.read(2) not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
            raise
        stream.seek(0)
        header = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=tags, force=True)
        if not header.get("SOPClassUID"):
            raise
    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        header.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return header


def _frames(file: Path) -> list[Frame] | str:
    """The frames of an image, or what another type of DICOM file is.

    Raises:
        InvalidDicomError: it does not start as DICOM.
        Exception: it is truncated; pydicom raises many types.
    """
    with file.open("rb", buffering=BUFFER) as stream:
        header = read_dataset(stream, TAGS, pixels=False)
        top = Frame(file, 0, elements_of(header), Pixels())
        if top.kind in OTHERS:
            return top.kind
        syntax = header.file_meta.TransferSyntaxUID
        if syntax == DeflatedExplicitVRLittleEndian:
            # pydicom has inflated it whole, so what is there is complete.
            pixels = Pixels() if top.get("Rows") else None
        else:
            little = header.original_encoding[1]
            pixels = _pixels(
                stream,
                top,
                implicit=syntax.is_implicit_VR,
                little=bool(little),
                native=not syntax.is_encapsulated,
            )
    if pixels is not None:
        return frames_of(replace(top, pixels=pixels), header)
    # The file meta's is complete if anything was read after it; the other may be truncated.
    kind = UID(header.file_meta.get("MediaStorageSOPClassUID") or "")
    if not kind and (known := UID(top.get("SOPClassUID") or "")).keyword:
        kind = known
    if top.get("Rows") or not kind or "Image Storage" in kind.name:
        raise ValueError("has no pixels; is it truncated?")
    return kind.name.removesuffix(" Storage")


def _pixels(stream: BinaryIO, top: Frame, *, implicit: bool, little: bool, native: bool) -> Pixels | None:
    """Where the pixels are; None: there are none.

    Args:
        stream: positioned where pydicom stopped before the pixels.
        top: the elements before them.
        implicit: whether elements have no type.
        little: whether the lowest byte of a number is the first.
        native: whether pixels are not compressed.

    Raises:
        ValueError: some that the header states are missing, judged only by lengths.
    """
    order = "<" if little else ">"
    size = 8 if implicit else 12
    begin = stream.read(size)
    if len(begin) < size:
        return None
    group, element = struct.unpack(order + "HH", begin[:4])
    if group != 0x7FE0 or element not in PIXELS:
        return None
    (length,) = struct.unpack(order + "L", begin[-4:])
    if length == UNDEFINED:  # compressed: fragments, each with its length, up to a delimiter
        while len(item := stream.read(8)) == 8:
            tag, length = struct.unpack("<LL", item)
            if tag == DELIMITER:
                return Pixels(PIXELS[element])
            stream.seek(length, os.SEEK_CUR)
        whole = False
    else:
        count = math.prod(top.get(keyword) or 1 for keyword in ("Rows", "Columns", "NumberOfFrames"))
        wanted = (count * (top.get("BitsAllocated") or 0) + 7) // 8 if native else 0
        whole = wanted <= length <= os.fstat(stream.fileno()).st_size - stream.tell()
    if not whole:
        raise ValueError("has fewer pixels than it states; is it truncated?")
    return Pixels(PIXELS[element], stream.tell() if native and little else None)


def _suffix(path: Path) -> str:
    """The suffix of a file's name in lower case; a number, as in names from UIDs, is not a suffix."""
    return "" if path.suffix[1:].isdigit() else path.suffix.lower()
