"""RTSTRUCT and SEG objects: what they hold, what they refer to, and their structures as masks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import highdicom as hd
import numpy as np
import pydicom

from foldwise.files import CaseError
from foldwise.volumes.dicom_masks import Segments, contour_mask
from foldwise.volumes.objects import Code, Object, Origin
from foldwise.volumes.volume import Header

KINDS = ("RTSTRUCT", "SEG")
# Number of a structure → its mask.
Masks = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Grid:
    """The grid of a series.

    Attributes:
        header: of the series.
        thickness: of its slices, in mm; 0: their distance.
        places: SOPInstanceUID → the slices with it, from 0 along z.
    """

    header: Header
    thickness: float
    places: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Structures:
    """An RTSTRUCT or SEG object, without its contours or voxels.

    Attributes:
        path: its file.
        names: number of a structure → its name.
        patient: PatientID; empty: none.
        series: SeriesInstanceUIDs that it refers to.
        instances: SOPInstanceUIDs that it refers to.
        frames: its frames of reference.
        described: number of a structure → all that the file says about it.
    """

    path: Path
    names: Mapping[int, str]
    patient: str = ""
    series: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()
    frames: frozenset[str] = frozenset()
    described: Mapping[int, Object] = field(default_factory=dict)

    def masks(self, grid: Grid, say: Callable[[str], None] = logging.warning) -> Masks:
        """Read the object, and return a function that draws a structure on a series' grid.

        Args:
            grid: of the series.
            say: takes remarks on structures that are not complete.

        Raises:
            CaseError: it cannot be read.
        """
        try:
            dataset = pydicom.dcmread(self.path)
            if dataset.Modality == "SEG":
                dataset = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        except Exception as error:  # highdicom is strict, and raises many types
            raise CaseError(f"{self.path}: not readable as RTSTRUCT or SEG ({error})") from error

        if isinstance(dataset, hd.seg.Segmentation):
            if dataset.SegmentationType == "FRACTIONAL":
                say(f"{self.path}: is fractional; voxels belong to a segment from half of it")
            return Segments(dataset, grid.header, self.path)

        def draw(number: int) -> np.ndarray:
            drawn = [
                contour
                for roi in dataset.get("ROIContourSequence", [])
                if int(roi.ReferencedROINumber) == number
                for contour in roi.get("ContourSequence", [])
            ]
            if not drawn:  # planned, but empty: no voxels
                return np.zeros(grid.header.shape, bool)
            name = f"{self.path}: structure {self.names[number]}"
            return contour_mask(drawn, name, grid.header, grid.thickness, say)

        return draw


def read_structures(path: Path) -> Structures:
    """Read the contents and references of an RTSTRUCT or SEG.

    Raises:
        CaseError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # pydicom skips missing parts of a truncated file, e.g. whole structures.
            warnings.filterwarnings("error", message="End of file")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if (kind := dataset.Modality) not in KINDS:
            raise CaseError(f"{path}: its Modality is {kind}; expected {' or '.join(KINDS)}")
        if kind == "SEG":
            # Segment 0 of a label map is its background.
            described = {n: _segment(s) for s in dataset.SegmentSequence if (n := int(s.SegmentNumber))}
        else:
            described = _rois(dataset)
            # The number follows the contours, so it is missing from a truncated file.
            if not all("ReferencedROINumber" in drawn for drawn in dataset.ROIContourSequence):
                raise EOFError("it is truncated")
        return Structures(
            path,
            {number: one.name for number, one in described.items()},
            str(dataset.get("PatientID") or "").strip(),
            _values(dataset, "SeriesInstanceUID") - {str(dataset.SeriesInstanceUID)},
            _values(dataset, "ReferencedSOPInstanceUID"),
            _values(dataset, "FrameOfReferenceUID") | _values(dataset, "ReferencedFrameOfReferenceUID"),
            described,
        )
    except CaseError:
        raise
    except Exception as error:  # pydicom raises many types for broken files
        raise CaseError(f"{path}: not readable as RTSTRUCT or SEG ({error})") from error


def _segment(item: pydicom.Dataset) -> Object:
    colour = item.get("RecommendedDisplayCIELabValue")
    rgb = None if colour is None else hd.color.CIELabColor.from_dicom_value(tuple(colour)).to_rgb()
    number, origin = int(item.SegmentNumber), item.get("SegmentAlgorithmType")
    category, kind = (_code(item, f"SegmentedProperty{what}CodeSequence") for what in ("Category", "Type"))
    codes = (category, kind) if category and kind else None
    return Object(str(item.SegmentLabel), number, _colour(rgb), _origin(origin), codes)


def _rois(dataset: pydicom.Dataset) -> dict[int, Object]:
    colours = {
        int(drawn.ReferencedROINumber): drawn.get("ROIDisplayColor")
        for drawn in dataset.get("ROIContourSequence", [])
        if "ReferencedROINumber" in drawn
    }
    return {
        (number := int(roi.ROINumber)): Object(
            str(roi.ROIName), number, _colour(colours.get(number)), _origin(roi.get("ROIGenerationAlgorithm"))
        )
        for roi in dataset.StructureSetROISequence
    }


def _colour(value: Sequence[int] | None) -> tuple[int, int, int] | None:
    if value is None or len(value) != 3:
        return None
    red, green, blue = (min(max(int(part), 0), 255) for part in value)
    return red, green, blue


def _origin(value: object) -> Origin:
    """How an object was found; where the file does not say, by a person, as contours usually are."""
    return next((known for known in get_args(Origin) if known == value), "MANUAL")


def _code(item: pydicom.Dataset, keyword: str) -> Code | None:
    for code in item.get(keyword, []):
        value = code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue")
        return str(value), str(code.get("CodingSchemeDesignator", "")), str(code.get("CodeMeaning", ""))
    return None


def _values(dataset: pydicom.Dataset, keyword: str) -> frozenset[str]:
    return frozenset(str(element.value) for element in _walk(dataset, keyword))


def _walk(dataset: pydicom.Dataset, keyword: str) -> Iterator[pydicom.DataElement]:
    """Every element with a name, at any depth, except in contours and frames, which are many."""
    for element in dataset:
        if element.keyword == keyword:
            yield element
        elif element.VR == "SQ" and element.keyword not in (
            "ROIContourSequence",
            "PerFrameFunctionalGroupsSequence",
        ):
            for item in element.value:
                yield from _walk(item, keyword)
