"""Objects of a label map as a DICOM RTSTRUCT that refers to its source series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

import foldwise
from foldwise.files import CaseError, atomic_path
from foldwise.volumes.dicom_series import Series
from foldwise.volumes.dicom_sources import MAY_BE_EMPTY, open_source, source_header
from foldwise.volumes.objects import Object
from foldwise.volumes.outlines import outlines
from foldwise.volumes.volume import Volume

# Of patient and study, repeated if the series has it, apart from what must be there.
REPEATED = (
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "PositionReferenceIndicator",
)
# The SOP class of a study in references: retired, but one has to be given.
STUDY = "1.2.840.10008.3.1.2.3.1"
# Digits after the point of coordinates in mm.
DIGITS = 4


def write_rtstruct(
    labels: Volume,
    series: Path,
    objects: Sequence[Object],
    path: Path,
    description: str = "Foldwise segmentation",
    series_number: int = 1000,
) -> None:
    """Write a label map as an RTSTRUCT with one structure per object, atomically.

    Contours run along the borders of voxels, in the plane of each slice's own position. They are
    CLOSED_PLANAR, one for each part of an object on a slice; holes are keyholes (`outlines`). Objects without
    voxels are structures without contours.

    Args:
        labels: on the series' grid: the numbers of the objects, from 1; 0: background.
        series: folder with the segmented series, and no other.
        objects: number 1, 2, ….
        path: file to write (.dcm).
        description: description of the new series.
        series_number: number of the new series.

    Raises:
        CaseError: the map is not on the series' grid, or an object cannot refer to the series.
    """
    found = open_source(series, labels, path, "an RTSTRUCT")
    try:
        dataset = _about(source_header(found.files[0]), description, series_number)
        frame = str(dataset.FrameOfReferenceUID)
        images = [_image(found, z) for z in range(found.shape[2])]
        dataset.ReferencedFrameOfReferenceSequence = [_references(found, frame, images)]
        dataset.StructureSetROISequence = [
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=one.name,
                ROIGenerationAlgorithm=one.origin,
            )
            for number, one in enumerate(objects, start=1)
        ]
        boxes = ndimage.find_objects(labels.data, len(objects))
        dataset.ROIContourSequence = []
        for number, (one, box) in enumerate(zip(objects, boxes, strict=True), start=1):
            drawn = _item(ReferencedROINumber=number)
            if one.colour:
                drawn.ROIDisplayColor = list(one.colour)
            if box:
                drawn.ContourSequence = list(_contours(labels.data[box] == number, box, found, images))
            dataset.ROIContourSequence.append(drawn)
        dataset.RTROIObservationsSequence = [
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
            for number in range(1, len(objects) + 1)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{series}: an RTSTRUCT cannot refer to it ({error})") from error
    with atomic_path(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _about(source: pydicom.Dataset, description: str, series_number: int) -> pydicom.Dataset:
    """A structure set without structures, of the patient and study of a source."""
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset = _item(
        # Names of patients in any script.
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=generate_uid(),
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        Modality="RTSTRUCT",
        StudyInstanceUID=source.StudyInstanceUID,
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=series_number,
        SeriesDescription=description,
        OperatorsName="",
        FrameOfReferenceUID=source.FrameOfReferenceUID,
        PositionReferenceIndicator="",
        Manufacturer="Foldwise",
        ManufacturerModelName="Foldwise",
        SoftwareVersions=foldwise.__version__,
        InstanceNumber=1,
        # At most 16 characters.
        StructureSetLabel="SEGMENTATION",
        StructureSetDate=date,
        StructureSetTime=time,
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in MAY_BE_EMPTY:
        setattr(dataset, keyword, source.get(keyword))
    for keyword in REPEATED:
        if value := source.get(keyword):
            setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    # Contours of more than 65534 bytes fit no encoding that states types.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _image(series: Series, z: int) -> pydicom.Dataset:
    """The reference to a slice."""
    frame = series.frames[z]
    image = _item(
        ReferencedSOPClassUID=frame.get("SOPClassUID"), ReferencedSOPInstanceUID=frame.get("SOPInstanceUID")
    )
    if frame.many:
        image.ReferencedFrameNumber = frame.number + 1
    return image


def _references(series: Series, frame: str, images: list[pydicom.Dataset]) -> pydicom.Dataset:
    first = series.frames[0]
    of_series = _item(SeriesInstanceUID=first.get("SeriesInstanceUID"), ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=STUDY,
        ReferencedSOPInstanceUID=first.get("StudyInstanceUID"),
        RTReferencedSeriesSequence=[of_series],
    )
    return _item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])


def _contours(
    mask: np.ndarray, box: tuple[slice, ...], series: Series, images: list[pydicom.Dataset]
) -> Iterator[pydicom.Dataset]:
    """The contours of a mask (x, y, z), which is a box of the series' grid, slice by slice."""
    number = 0
    for place in np.flatnonzero(mask.any((0, 1))).tolist():
        z = box[2].start + place
        # An even grid may be a tenth of a step away from a slice.
        position = np.array(series.frames[z].get("ImagePositionPatient"), float)
        for corners in outlines(mask[..., place]):
            number += 1
            index = corners + np.array([box[0].start, box[1].start])
            points = position + index @ series.affine[:3, :2].T
            contour = _item(
                ContourNumber=number,
                ContourImageSequence=[images[z]],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
            )
            # As it is stored: pydicom takes seconds to check a million numbers.
            text = "\\".join(f"{value:.{DIGITS}f}" for value in points.ravel().tolist()).encode()
            text += b" " * (len(text) % 2)
            tag = Tag("ContourData")
            contour[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)
            yield contour


def _item(**values: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
