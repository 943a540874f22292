"""Frames of DICOM files: a slice of its own file, or one of many in an enhanced image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID

from foldwise.files import CaseError

SHARED, EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
EACH_TAG = 0x52009230
# Where two makers store the number of slices in a mosaic: private creator, its element, the number's.
MOSAICS = (
    ("SIEMENS MR HEADER", 0x00190010, 0x0019100A),
    ("Image Private Header", 0x00650010, 0x00651050),
)
Elements = Mapping[int, RawDataElement | DataElement]


@dataclass(frozen=True)
class Pixels:
    """Where a file's pixels are.

    Attributes:
        element: PixelData, FloatPixelData or DoubleFloatPixelData.
        offset: of the first frame, in bytes; None: they have to be decoded.
    """

    element: str = "PixelData"
    offset: int | None = None


@dataclass(frozen=True)
class Frame:
    """A picture with its elements; those of functional groups are taken out of their sequences.

    Attributes:
        file: its file.
        number: its place in the file, from 0.
        elements: tag → element, as read.
        pixels: where the file's pixels are.
    """

    file: Path
    number: int
    elements: Elements
    pixels: Pixels

    def get(self, keyword: str) -> Any:
        """An element's value as plain Python values, several as a tuple; None if it is missing or empty.

        Raises:
            CaseError: the value does not have the form that the element must have.
        """
        return self.at(tag_for_keyword(keyword) or 0)

    def at(self, tag: int) -> Any:
        """As `get`, by the element's tag."""
        element = self.elements.get(tag)
        if element is None:
            return None
        if not isinstance(element, RawDataElement):
            return _plain(element.value)
        try:
            return _decoded(tag, element.VR, element.value, element.is_implicit_VR, element.is_little_endian)
        except Exception as error:  # pydicom raises many types
            name = f"{self.file}: {pydicom.datadict.keyword_for_tag(tag) or Tag(tag)}"
            raise CaseError(f"{name} cannot be read ({error})") from error

    @property
    def name(self) -> str:
        """For messages."""
        return f"frame {self.number + 1} of {self.file.name}" if self.many else self.file.name

    @property
    def many(self) -> bool:
        """Whether its file is an enhanced image, which has functional groups."""
        return EACH_TAG in self.elements

    @property
    def kind(self) -> str:
        """The name of its SOP class, e.g. "CT Image"."""
        return UID(self.get("SOPClassUID") or "").name.removesuffix(" Storage") or "unknown type"

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept; 1 and 0 if absent."""
        slope, intercept = self.get("RescaleSlope"), self.get("RescaleIntercept")
        return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def elements_of(dataset: pydicom.Dataset) -> Elements:
    """Tag → element, as read."""
    tags = dataset.keys()
    return {int(tag): dataset.get_item(tag) for tag in tags}


def frames_of(top: Frame, header: pydicom.Dataset) -> list[Frame]:
    """The frames of an image.

    Args:
        top: its elements outside functional groups.
        header: with the functional groups.

    Raises:
        ValueError: it does not describe as many frames as it has.
    """
    if not top.many:
        return [top]
    groups = header[EACH].value
    if len(groups) != (stated := top.get("NumberOfFrames") or 1):
        raise ValueError(f"has {stated} frames, but describes {len(groups)}")
    common = {**top.elements, **(_grouped(header[SHARED].value[0]) if header.get(SHARED) else {})}
    return [
        replace(top, number=number, elements={**common, **_grouped(group)})
        for number, group in enumerate(groups)
    ]


def _grouped(groups: pydicom.Dataset) -> Elements:
    """The elements within functional groups, e.g. ImagePositionPatient of the PlanePositionSequence."""
    found: dict[int, RawDataElement | DataElement] = {}
    for group in groups:
        if group.VR == "SQ" and len(group.value) == 1:
            found |= elements_of(group.value[0])
    return found


# Most values are the same in all slices of a series.
@lru_cache(maxsize=1 << 14)
def _decoded(tag: int, vr: str | None, value: bytes | None, implicit: bool, little: bool) -> Any:
    raw = RawDataElement(Tag(tag), vr, len(value or b""), value, 0, implicit, little)
    element = convert_raw_data_element(raw)
    plain = _plain(element.value)
    if element.VR in ("DS", "IS") and any(isinstance(v, str) for v in np.atleast_1d(np.array(plain, object))):
        raise ValueError(f"{plain!r} is not a number")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue | list | tuple):
        return tuple(map(_plain, value)) or None
    if isinstance(value, str):
        return str(value).strip(" \0") or None
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    return value


def no_scan(frame: Frame) -> str | None:
    """What an image is that cannot be a part of any scan, or None."""
    if "LOCALIZER" in _words(frame, "ImageType"):
        return "a localizer (scout)"
    photometric = frame.get("PhotometricInterpretation") or "MONOCHROME2"
    if frame.get("SamplesPerPixel") not in (None, 1) or not photometric.startswith("MONOCHROME"):
        return f"a colour picture ({photometric})"
    if "Secondary Capture" in frame.kind and frame.get("ImagePositionPatient") is None:
        return "a secondary capture (a screenshot or a scanned film) without a position"
    return None


def unusable(frame: Frame, direction: float) -> str | None:
    """Why an image is not a slice of a volume, or None.

    Args:
        frame: the image.
        direction: largest deviation of direction cosines, which are rounded when written.
    """
    if what := no_scan(frame):
        return f"is {what}, not a slice"
    if mosaic(frame):
        return "is a mosaic of several slices; write the series as NIfTI, e.g. with dcm2niix"
    if not frame.many and (count := frame.get("NumberOfFrames") or 1) > 1:
        return (
            f"contains {count} frames ({frame.kind}) without a position of each; write the series as one "
            f"file per slice, or as NIfTI"
        )
    if frame.get("ModalityLUTSequence"):
        return "has a ModalityLUTSequence instead of RescaleSlope; write the series as NIfTI"
    return _unplaced(frame, direction) or _unreadable(frame)


def mosaic(frame: Frame) -> bool:
    """Whether one picture contains several slices side by side, by any maker's way to say so."""
    counts = [frame.at(tag) for creator, owner, tag in MOSAICS if frame.at(owner) == creator]
    # Files without types of elements give private numbers as bytes.
    alone = (None, 0, 1, b"\1\0", b"1 ")
    return "MOSAIC" in _words(frame, "ImageType") or any(count not in alone for count in counts)


def _words(frame: Frame, keyword: str) -> tuple[str, ...]:
    value = frame.get(keyword) or ()
    return (value,) if isinstance(value, str) else value


def _unplaced(frame: Frame, direction: float) -> str | None:
    for keyword, size in {"PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}.items():
        value = frame.get(keyword)
        if value is None:
            also = ""
            if keyword == "PixelSpacing" and frame.get("ImagerPixelSpacing"):
                also = " (ImagerPixelSpacing is the detector's)"
            return f"has no {keyword}{also}; without it the positions of voxels are unknown ({frame.kind})"
        if np.shape(value) != (size,) or not np.isfinite(np.array(value, float)).all():
            return f"has {keyword} {value}; expected {size} numbers"
    if min(frame.get("PixelSpacing")) <= 0:
        return f"has PixelSpacing {frame.get('PixelSpacing')}"
    along = np.array(frame.get("ImageOrientationPatient"), float).reshape(2, 3)
    if np.abs(along @ along.T - np.eye(2)).max() > direction:
        return f"has ImageOrientationPatient {tuple(along.ravel())}, not two axes at right angles"
    return None


def _unreadable(frame: Frame) -> str | None:
    needed = ["Rows", "Columns", "BitsAllocated"]
    floats = frame.pixels.element != "PixelData"
    needed += [] if floats else ["BitsStored", "HighBit", "PixelRepresentation"]
    for keyword in needed:
        if frame.get(keyword) is None:
            return f"has no {keyword}"
    allocated = frame.get("BitsAllocated")
    stored, high = (allocated, allocated - 1) if floats else (frame.get("BitsStored"), frame.get("HighBit"))
    if allocated not in ((32, 64) if floats else (8, 16, 32)) or not 1 <= stored <= high + 1 <= allocated:
        return f"has BitsAllocated {allocated}, BitsStored {stored} and HighBit {high}"
    slope, intercept = frame.scale
    if not np.isfinite((slope, intercept)).all() or slope == 0:
        return f"has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}"
    return None
