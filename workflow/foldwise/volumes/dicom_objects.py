"""Objects of a DICOM SEG or RTSTRUCT on the grid of the scan to which it belongs."""

from __future__ import annotations

from pathlib import Path

from foldwise.files import CaseError
from foldwise.volumes.dicom_masks import NoContourError
from foldwise.volumes.dicom_series import open_series
from foldwise.volumes.dicom_structures import Grid, Structures, read_structures
from foldwise.volumes.objects import Merge, Objects
from foldwise.volumes.volume import Header, is_dicom_folder


def read_dicom_objects(path: Path, scan: Path, grid: Header) -> Objects:
    """Read all structures of an RTSTRUCT, or segments of a SEG, as objects; `objects.Merge` on overlaps.

    Args:
        path: its file.
        scan: the folder of the scan's series, or the scan's file.
        grid: the scan's header, without channels.

    Raises:
        CaseError: it cannot be read, belongs to another patient or frame of reference, or does not lie on the
            scan's slices.
    """
    held = read_structures(path)
    thickness, remarks = _belonging(held, scan)
    remarks = [f"{path}: {remark}" for remark in remarks]
    masks = held.masks(Grid(grid, thickness, {}), remarks.append)
    merge = Merge(grid.shape, len(held.described))
    for number, one in held.described.items():
        try:
            merge.add(one, masks(number))
        except NoContourError as error:  # an isocentre or a marker
            remarks.append(f"{error}; it is left out")
    remarks += [f"{path}: {remark}" for remark in merge.remarks()]
    return Objects(merge.labels, tuple(merge.listed), grid.affine, tuple(remarks))


def _belonging(held: Structures, scan: Path) -> tuple[float, list[str]]:
    """The thickness of the scan's slices in mm (0: unknown), and what is doubtful about the object's place.

    Raises:
        CaseError: it is of another patient, or its coordinates are not the scan's.
    """
    if not is_dicom_folder(scan):
        return 0, ["the scan is not DICOM, so only the position says that this belongs to it"]
    first = open_series(scan).frames[0]
    patient, frame = str(first.get("PatientID") or "").strip(), first.get("FrameOfReferenceUID")
    if held.patient and patient and held.patient != patient:
        raise CaseError(f"{held.path}: its PatientID differs from that of {scan}; it is of another patient")
    if held.frames and frame and frame not in held.frames:
        raise CaseError(
            f"{held.path}: its frame of reference differs from that of {scan}, so its positions mean nothing "
            f"there; open the series on which it was drawn"
        )
    remarks = []
    if held.series and first.get("SeriesInstanceUID") not in held.series:
        remarks.append("was made on another series with the same coordinates; check that it fits")
    if not held.frames or not frame:
        remarks.append("has no frame of reference, so only its position says that it belongs to the scan")
    return abs(float(first.get("SliceThickness") or 0)), remarks
