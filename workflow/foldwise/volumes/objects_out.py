"""Objects as files: a label map, a segmentation of 3D Slicer, a DICOM SEG or an RTSTRUCT."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from foldwise.files import CaseError, atomic_path
from foldwise.volumes.grids import LPS_TO_RAS, spacing_of
from foldwise.volumes.objects import Objects
from foldwise.volumes.targets import label_type
from foldwise.volumes.volume import Volume, write_volume

Form = Literal["nifti", "slicer", "dicom-seg", "rtstruct"]
# Suffixes of each form's files; the first is the usual one.
SUFFIXES: dict[Form, tuple[str, ...]] = {
    "nifti": (".nii.gz", ".nii"),
    "slicer": (".seg.nrrd",),
    "dicom-seg": (".dcm",),
    "rtstruct": (".dcm",),
}
# Longest name of a structure or segment in DICOM.
LONGEST = 64
FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f]")


def write_objects(
    objects: Objects,
    path: Path,
    form: Form,
    scan: Path,
    *,
    replace: bool = False,
    description: str = "Foldwise segmentation",
) -> None:
    """Write objects in the scan's geometry, atomically.

    NIfTI keeps values and no names; the other forms keep names, colours and order, 3D Slicer's values as
    well. DICOM objects refer to the scan's series.

    Args:
        objects: on the scan's grid.
        path: file to write.
        form: its format.
        scan: the folder of the scan's series; other scans can have neither SEG nor RTSTRUCT.
        replace: whether the path may be that of a file that exists.
        description: of the new DICOM series.

    Raises:
        CaseError: the path has another suffix or exists, names or values cannot be told apart in a file, or
            nothing in DICOM can refer to the scan.
    """
    suffixes = SUFFIXES[form]
    if not path.name.lower().endswith(suffixes):
        raise CaseError(f"{path}: the name must end in {' or '.join(suffixes)}")
    if path.exists() and not replace:
        raise CaseError(f"{path}: exists and is not replaced; give another name, or move it away")
    _refuse_unwritable(objects, path, form)
    if form == "nifti":
        _write_nifti(objects, path)
    elif form == "slicer":
        _write_slicer(objects, path)
    elif form == "dicom-seg":
        from foldwise.volumes.dicom_seg import write_dicom_seg

        classes = {one.name: number for number, one in enumerate(objects.listed, start=1)}
        named = {one.name: one for one in objects.listed}
        write_dicom_seg(Volume(objects.labels, objects.affine), scan, classes, path, named, description)
    else:
        from foldwise.volumes.rtstruct import write_rtstruct

        write_rtstruct(Volume(objects.labels, objects.affine), scan, objects.listed, path, description)


def _refuse_unwritable(objects: Objects, path: Path, form: Form) -> None:
    """Refuse objects that a reader of the file could not tell apart, or whose names it could not hold.

    Raises:
        CaseError: with the object.
    """
    if not objects.listed:
        raise CaseError(f"{path}: there is no object to write")
    if int(objects.labels.max(initial=0)) > len(objects.listed):
        raise ValueError(f"the label map has number {objects.labels.max()}, of {len(objects.listed)} objects")
    if form in ("nifti", "slicer"):
        values = Counter(one.value for one in objects.listed)
        for one in objects.listed:
            if one.value < 1 or values[one.value] > 1:
                raise CaseError(
                    f"{path}: object {one.name!r} has the value {one.value}; each object needs a value of "
                    f"its own, from 1"
                )
    if form == "nifti":
        return
    names = Counter(one.name for one in objects.listed)
    for name, count in names.items():
        if count > 1 or not name.strip():
            raise CaseError(f"{path}: object {name!r}: each object needs a name of its own; rename it")
        too_long = form != "slicer" and len(name) > LONGEST
        if too_long or name != name.strip() or FORBIDDEN.search(name):
            raise CaseError(
                f"{path}: object {name!r}: names in files have no backslashes, control characters and outer "
                f"spaces, and in DICOM at most {LONGEST} characters; rename it"
            )


def _values(objects: Objects) -> np.ndarray:
    """The label map with the objects' values instead of their numbers."""
    values = [0, *(one.value for one in objects.listed)]
    found: np.ndarray = np.array(values, label_type(max(values)))[objects.labels]
    return found


def _write_nifti(objects: Objects, path: Path) -> None:
    write_volume(Volume(_values(objects), objects.affine), path)


def _write_slicer(objects: Objects, path: Path) -> None:
    """Write one layer; the keys: slicer.readthedocs.io, developer guide, segmentations."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(_values(objects).transpose())
    affine, spacing = LPS_TO_RAS @ objects.affine, spacing_of(objects.affine)
    image.SetSpacing(spacing)
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    said = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, one in enumerate(objects.listed):
        said |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": one.name,
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(one.value),
            f"Segment{number}_Layer": "0",
            f"Segment{number}_Extent": " ".join(f"0 {size - 1}" for size in objects.labels.shape),
        }
        if one.colour:
            said[f"Segment{number}_Color"] = " ".join(f"{part / 255:.6f}" for part in one.colour)
            said[f"Segment{number}_ColorAutoGenerated"] = "0"
    for key, value in said.items():
        image.SetMetaData(key, value)
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, os.fspath(temporary), useCompression=True, imageIO="NrrdImageIO")
