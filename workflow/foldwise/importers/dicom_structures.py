"""RTSTRUCT and SEG objects: their names, the series that they belong to, and their label map."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom

from foldwise.files import CaseError
from foldwise.importers.dicom_scan import Series
from foldwise.importers.sheets import clean
from foldwise.volumes.dicom_masks import contour_mask, gaps, segment_mask
from foldwise.volumes.volume import Header

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
    """

    path: Path
    names: Mapping[int, str]
    patient: str = ""
    series: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()
    frames: frozenset[str] = frozenset()

    def masks(self, grid: Grid) -> Masks:
        """Read the object, and return a function that draws a structure on a series' grid.

        Raises:
            CaseError: it cannot be read.
        """
        try:
            dataset = pydicom.dcmread(self.path)
            if dataset.Modality == "SEG":
                dataset = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        except Exception as error:  # highdicom is strict, and raises many types
            raise CaseError(f"{self.path}: not readable as RTSTRUCT or SEG ({error})") from error

        def draw(number: int) -> np.ndarray:
            if isinstance(dataset, hd.seg.Segmentation):
                return segment_mask(dataset, number, grid.header, self.path)
            drawn = [
                contour
                for roi in dataset.get("ROIContourSequence", [])
                if int(roi.ReferencedROINumber) == number
                for contour in roi.get("ContourSequence", [])
            ]
            if not drawn:  # planned, but empty: no voxels
                return np.zeros(grid.header.shape, bool)
            name = f"{self.path}: structure {self.names[number]}"
            mask = contour_mask(drawn, name, grid.header, grid.thickness)
            if remark := gaps(mask):
                logging.warning("%s %s", name, remark)
            return mask

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
        if dataset.Modality == "SEG":
            names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
        else:
            names = {int(s.ROINumber): str(s.ROIName) for s in dataset.StructureSetROISequence}
            # The number follows the contours, so it is missing from a truncated file.
            if not all("ReferencedROINumber" in drawn for drawn in dataset.ROIContourSequence):
                raise EOFError("it is truncated")
        return Structures(
            path,
            names,
            str(dataset.get("PatientID") or "").strip(),
            _values(dataset, "SeriesInstanceUID") - {str(dataset.SeriesInstanceUID)},
            _values(dataset, "ReferencedSOPInstanceUID"),
            _values(dataset, "FrameOfReferenceUID") | _values(dataset, "ReferencedFrameOfReferenceUID"),
        )
    except Exception as error:  # pydicom raises many types for broken files
        raise CaseError(f"{path}: not readable as RTSTRUCT or SEG ({error})") from error


def referenced(structures: Structures, series: Iterable[Series]) -> Series | None:
    """The image series that an object belongs to, or None if it is missing.

    Raises:
        CaseError: several series match, or its patient or frame of reference differs from its series'.
    """
    series, frames = list(series), structures.frames
    fitting = [one for one in series if one.uid in structures.series]
    fitting = fitting or [one for one in series if one.instances.keys() & structures.instances]
    if not fitting and not structures.series:
        # The object gives only its frame of reference; that is enough if exactly one series has it.
        fitting = [one for one in series if one.frame and one.frame in frames]
    # Careless de-identification gives several patients equal UIDs.
    own = [one for one in fitting if structures.patient in ("", one.patient) or not one.patient]
    if fitting and not own:
        raise CaseError(f"{structures.path}: its PatientID differs from that of {fitting[0].folder}")
    if len(own) > 1:
        raise CaseError(f"{structures.path}: refers to {len(own)} image series; the right one is unclear")
    if own and frames and own[0].frame and own[0].frame not in frames:
        raise CaseError(
            f"{structures.path}: its frame of reference differs from that of the series it refers to"
        )
    return own[0] if own else None


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


def parse_structures(text: str) -> list[tuple[str, str]]:
    """(pattern, class) pairs from "GTV*=tumour,Lung_L=lung".

    Raises:
        CaseError: an entry does not have that form.
    """
    pairs = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, name = entry.rpartition("=")
        if not equals or not pattern.strip() or clean(name) != name.strip():
            raise CaseError(f"--structures: {entry!r} does not have the form 'pattern=class'")
        pairs.append((pattern.strip().lower(), name.strip()))
    return pairs


def label_map(
    objects: Sequence[Structures], wanted: Sequence[tuple[str, str]], grid: Grid
) -> tuple[np.ndarray, set[str]]:
    """The label map of a series, and the classes in its objects.

    Args:
        objects: objects that refer to the series.
        wanted: (pattern, class) pairs; classes are numbered from 1 in the order of their first mention.
        grid: of the series.

    Raises:
        CaseError: a structure does not fit the series, or two objects contain the same class.
    """
    opened: dict[Path, Masks] = {}
    classes = list(dict.fromkeys(name for _, name in wanted))
    labels = np.zeros(grid.header.shape, np.uint8 if len(classes) < 256 else np.uint16)
    seen = set()
    for value, name in enumerate(classes, start=1):
        patterns = [pattern for pattern, of in wanted if of == name]
        matching = [
            (held, number)
            for held in objects
            for number, called in held.names.items()
            if any(fnmatchcase(called.lower(), pattern) for pattern in patterns)
        ]
        if len({held.path for held, _ in matching}) > 1:
            paths = ", ".join(sorted({str(held.path) for held, _ in matching}))
            raise CaseError(f"class {name} is in several objects; keep one of {paths}")
        for held, number in matching:
            seen.add(name)
            if held.path not in opened:
                opened[held.path] = held.masks(grid)
            labels[opened[held.path](number)] = value
    return labels, seen
