"""DICOM series and structure sets for tests, written only with pydicom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid


@dataclass(frozen=True)
class Grid:
    """A series' geometry in DICOM's coordinates (LPS)."""

    shape: tuple[int, int, int] = (24, 20, 7)
    spacing: tuple[float, float, float] = (0.8, 1.1, 2.5)
    origin: tuple[float, float, float] = (-12.5, 30.25, -71.0)
    along_row: tuple[float, float, float] = (1, 0, 0)
    along_column: tuple[float, float, float] = (0, 1, 0)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors of x, y and z as columns."""
        return np.column_stack(
            [self.along_row, self.along_column, np.cross(self.along_row, self.along_column)]
        )

    def mm(self, index: np.ndarray) -> np.ndarray:
        """Voxel indices (…, 3) to LPS millimetres."""
        return np.asarray(self.origin) + (np.asarray(index) * self.spacing) @ self.axes.T

    def centres(self) -> np.ndarray:
        """Voxel indices, (x, y, z, 3)."""
        return np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1).astype(float)


def oblique() -> Grid:
    """Rotated about two axes, so that no direction cosine is 0 or 1."""
    a, b = np.deg2rad(17), np.deg2rad(-28)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    return Grid(along_row=tuple(turn[:, 0]), along_column=tuple(turn[:, 1]))


def write_series(
    folder: Path,
    grid: Grid,
    patient: str = "P1",
    name: str = "Doe^Jane",
    frame: str | None = None,
    flat: bool = False,
    stored: np.ndarray | None = None,
    edit: Callable[[int, Dataset], None] | None = None,
) -> list[Dataset]:
    """Write a CT series; file names have the slices' reverse order. Returns its instances in the order of z.

    Every voxel's value is its z, or that in `stored` (x, y, z); `edit` changes each data set before it is
    written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), frame or generate_uid()
    slices = []
    for z in range(grid.shape[2]):
        one = _dataset(CTImageStorage, study, series, patient, name)
        one.Modality, one.FrameOfReferenceUID, one.InstanceNumber = "CT", frame, z + 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient = [f"{v:.9g}" for v in grid.mm(np.array([0, 0, z]))]
        one.ImageOrientationPatient = [f"{v:.9g}" for v in (*grid.along_row, *grid.along_column)]
        one.PixelSpacing = [grid.spacing[1], grid.spacing[0]]
        one.SliceThickness = grid.spacing[2]
        one.Columns, one.Rows = grid.shape[:2]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleIntercept, one.RescaleSlope = 0, 1
        pixels = np.full(grid.shape[1::-1], z) if stored is None else stored[..., z].T
        one.PixelData = pixels.astype(np.int16).tobytes()
        if edit:
            edit(z, one)
        one.save_as(folder / f"{series[-6:] if flat else 'IM'}{900 - z}", enforce_file_format=True)
        slices.append(one)
    return slices


def write_rtstruct(
    path: Path, images: Sequence[Dataset], structures: dict[str, list[tuple[str, np.ndarray]]]
) -> None:
    """Write an RTSTRUCT: structure → contours, each a geometric type and (n, 3) LPS points."""
    first = images[0]
    dataset = _dataset(
        RTStructureSetStorage, first.StudyInstanceUID, generate_uid(), first.PatientID, str(first.PatientName)
    )
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "test"
    instances = []
    for image in images:
        instance = Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = (
            CTImageStorage,
            image.SOPInstanceUID,
        )
        instances.append(instance)
    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, instances
    study = Dataset()
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = first.StudyInstanceUID, [series]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = (
            number,
            name,
            frame.FrameOfReferenceUID,
        )
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for kind, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{v:.8g}" for v in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(kind: str, study: str, series: str, patient: str, name: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        kind,
        dataset.SOPInstanceUID,
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = study, series, 1
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = (
        patient,
        name,
        "",
        "",
    )
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = (
        "20200101",
        "120000",
        "1",
        "",
    )
    dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.PositionReferenceIndicator = "", "none", ""
    return dataset
