"""A series as the source of a DICOM object that refers to it: is it one, and what must be repeated of it."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom

from foldwise.files import CaseError
from foldwise.volumes.dicom_files import read_dataset
from foldwise.volumes.dicom_series import Series, open_series
from foldwise.volumes.volume import Volume, is_dicom_folder, same_grid, series_header

# The standard requires these in every image, with or without a value; values have this form.
MAY_BE_EMPTY = {
    "StudyID": ".{,16}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "AccessionNumber": ".{,16}",
    "ReferringPhysicianName": ".*",
    "PatientID": ".{,64}",
    "PatientName": ".*",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
}


def open_source(series: Path, labels: Volume, path: Path, what: str) -> Series:
    """The series to which an object with a label map is to refer.

    Args:
        series: folder with the segmented series, and no other.
        labels: the label map.
        path: file to write, for messages.
        what: "a DICOM Segmentation" or "an RTSTRUCT", for messages.

    Raises:
        CaseError: it is no series, nothing can refer to it, or the label map is not on its grid.
    """
    if not is_dicom_folder(series):
        raise CaseError(
            f"{series}: not a folder with a DICOM series, to which {what} could refer; save as NIfTI, or "
            f"open the folder of the DICOM series from which this scan was made"
        )
    found = open_series(series)
    if found.no_seg:
        raise CaseError(f"{series}: {what} cannot refer to it: {found.no_seg}")
    if not same_grid(labels, series_header(found)):
        raise CaseError(f"{path}: the label map is not on the grid of {series}")
    return found


def source_header(file: Path) -> pydicom.Dataset:
    """The elements of a series' file without its pixels.

    Elements that are often removed or invalid after de-identification are emptied, as the standard allows.
    """
    with file.open("rb") as stream:
        source = read_dataset(stream, [], pixels=False)
    for keyword, form in MAY_BE_EMPTY.items():
        value = str(source.get(keyword) or "")
        if not value or not re.fullmatch(form, value):
            setattr(source, keyword, None)
    return source
