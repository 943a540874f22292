"""A label map as a DICOM Segmentation object that refers to its source series."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

import foldwise
from foldwise.files import CaseError, atomic_path
from foldwise.volumes.dicom_series import Series
from foldwise.volumes.dicom_sources import open_source, source_header
from foldwise.volumes.objects import Object
from foldwise.volumes.volume import Volume

ANATOMY = codes.SCT.AnatomicalStructure
ABNORMAL = codes.SCT.MorphologicallyAbnormalStructure
NEOPLASM = codes.SCT.Neoplasm
_NEOPLASMS = re.compile(
    r"tumou?r|cancer|carcinom|gliom|metasta|neoplas|gtv|enhancing|necrosis", re.IGNORECASE
)
_ABNORMAL = re.compile(r"lesion|nodule|o?edema|infarct|cyst|cavity|consolidation|plaque", re.IGNORECASE)


def property_codes(name: str) -> tuple[Code, Code]:
    """SNOMED category and type of a class, as specific as its name allows."""
    if _NEOPLASMS.search(name):
        return ABNORMAL, NEOPLASM
    return (ABNORMAL, ABNORMAL) if _ABNORMAL.search(name) else (ANATOMY, ANATOMY)


def write_dicom_seg(
    labels: Volume,
    series: Path,
    classes: dict[str, int],
    path: Path,
    described: Mapping[str, Object] | None = None,
    description: str = "Foldwise segmentation",
    series_number: int = 1000,
) -> None:
    """Write a label map as a binary DICOM Segmentation with one segment per class, atomically.

    Slices without any segment are left out; an empty map keeps all its slices, since no object exists
    without frames.

    Args:
        labels: on the series' grid.
        series: folder with the segmented series, and no other.
        classes: class name → voxel value; segments have this order, including classes without voxels.
        path: file to write (.dcm).
        described: class name → its colour, how it was found, and its category and type; without: no colour,
            "AUTOMATIC", and `property_codes`.
        description: description of the new series.
        series_number: number of the new series.

    Raises:
        CaseError: the map is not on the series' grid, or an object cannot refer to the series.
    """
    if not classes:
        raise CaseError(f"{path}: a segmentation needs at least one class")
    found = open_source(series, labels, path, "a DICOM Segmentation")
    segments = np.zeros(labels.data.shape, np.uint8 if len(classes) < 256 else np.uint16)
    for number, value in enumerate(classes.values(), start=1):
        segments[labels.data == value] = number
    known = described or {}
    descriptions = [
        _describe(number, known.get(name) or Object(name, number, origin="AUTOMATIC"))
        for number, name in enumerate(classes, start=1)
    ]
    many = found.frames[0].many
    # Ours is (x, y, z), DICOM's frames are (rows, columns), in the order of z or of an enhanced image.
    order = np.argsort([frame.number for frame in found.frames], kind="stable") if many else slice(None)
    try:
        segmentation = hd.seg.Segmentation(
            source_images=_sources(found),
            pixel_array=segments.transpose(2, 1, 0)[order],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="Foldwise",
            manufacturer_model_name="Foldwise",
            software_versions=foldwise.__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_creator_name="",  # must be there, if empty
            series_description=description,
            # Names of patients in any script.
            specific_character_set="ISO_IR 192",
            omit_empty_frames=bool(segments.any()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{series}: a DICOM Segmentation cannot refer to it ({error})") from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _describe(number: int, one: Object) -> hd.seg.SegmentDescription:
    category, kind = (Code(*code) for code in one.codes) if one.codes else property_codes(one.name)
    # What a person drew has no algorithm; what marks grew into may come from any.
    family = codes.DCM.ArtificialIntelligence if one.origin == "AUTOMATIC" else codes.DCM.NeighborhoodAnalysis
    algorithm = hd.AlgorithmIdentificationSequence(
        name="Foldwise", version=foldwise.__version__, family=family
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=one.name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=one.origin,
        algorithm_identification=None if one.origin == "MANUAL" else algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*one.colour) if one.colour else None,
    )


def _sources(series: Series) -> list[pydicom.Dataset]:
    """The headers of a series' files, so that a segmentation can repeat what it must.

    Where slices differ by rounding, all get the values of the first.
    """
    first, step = series.frames[0], series.affine[:3, 2]
    normal = np.cross(*series.affine[:3, :2].T)
    across = DSfloat(abs(step @ normal) / np.linalg.norm(normal), auto_format=True)
    spacing = [DSfloat(each, auto_format=True) for each in first.get("PixelSpacing")]
    cosines = [DSfloat(each, auto_format=True) for each in first.get("ImageOrientationPatient")]
    thickness = DSfloat(abs(first.get("SliceThickness") or 0) or across, auto_format=True)
    measures = hd.PixelMeasuresSequence(spacing, thickness, across)
    sources = []
    for file in series.files:
        source = source_header(file)
        if first.many:
            if not source.get("SharedFunctionalGroupsSequence"):
                source.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
            shared = source.SharedFunctionalGroupsSequence[0]
            shared.PixelMeasuresSequence = measures
            shared.PlaneOrientationSequence = hd.PlaneOrientationSequence("PATIENT", cosines)
        else:
            source.ImageOrientationPatient, source.PixelSpacing = cosines, spacing
            source.SliceThickness, source.SpacingBetweenSlices = thickness, across
        sources.append(source)
    return sources
