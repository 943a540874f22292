"""DICOM series and structure sets for tests, written only with pydicom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

# Changes the data set of a slice, given its z.
Edit = Callable[[int, Dataset], None]


@dataclass(frozen=True)
class Grid:
    """A series' geometry in DICOM's coordinates (LPS)."""

    shape: tuple[int, int, int] = (24, 20, 7)
    spacing: tuple[float, float, float] = (0.8, 1.1, 2.5)
    origin: tuple[float, float, float] = (-12.5, 30.25, -71.0)
    along_row: tuple[float, float, float] = (1, 0, 0)
    along_column: tuple[float, float, float] = (0, 1, 0)
    shift: tuple[float, float] = (0, 0)  # mm along a row and a column from a slice to the next: gantry tilt

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors of x, y and z as columns."""
        return np.column_stack(
            [self.along_row, self.along_column, np.cross(self.along_row, self.along_column)]
        )

    @property
    def steps(self) -> np.ndarray:
        """Steps in mm along x, y and z as columns."""
        steps = self.axes * self.spacing
        steps[:, 2] += self.axes[:, :2] @ self.shift
        return steps

    def mm(self, index: np.ndarray) -> np.ndarray:
        """Voxel indices (…, 3) to LPS millimetres."""
        return np.asarray(self.origin) + np.asarray(index) @ self.steps.T

    def centres(self) -> np.ndarray:
        """Voxel indices, (x, y, z, 3)."""
        return np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), axis=-1).astype(float)


# A small grid, and values on it.
SMALL = Grid(shape=(6, 5, 4))
STORED = np.random.default_rng(5).integers(0, 1000, SMALL.shape)


def oblique() -> Grid:
    """Rotated about two axes, so that no direction cosine is 0 or 1."""
    a, b = np.deg2rad(17), np.deg2rad(-28)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    return Grid(along_row=tuple(turn[:, 0]), along_column=tuple(turn[:, 1]))


def tilted(grid: Grid) -> Grid:
    """The same with the gantry tilted by 15°: every slice is shifted along the columns."""
    return replace(grid, shift=(0, float(grid.spacing[2] * np.tan(np.deg2rad(15)))))


def grids(shape: tuple[int, int, int]) -> dict[str, Grid]:
    """Every way in which patients lie and slices are cut, by name."""
    directions = {
        "straight": ((1, 0, 0), (0, 1, 0)),
        "prone": ((-1, 0, 0), (0, -1, 0)),
        "rows turned": ((-1, 0, 0), (0, 1, 0)),
        "columns turned": ((1, 0, 0), (0, -1, 0)),
        "sagittal": ((0, 1, 0), (0, 0, -1)),
        "coronal": ((1, 0, 0), (0, 0, -1)),
        "oblique": (oblique().along_row, oblique().along_column),
    }
    named = {name: Grid(shape, along_row=r, along_column=c) for name, (r, c) in directions.items()}
    return named | {f"{name}, tilted": tilted(named[name]) for name in ("straight", "oblique")}


def write_series(
    folder: Path,
    grid: Grid,
    patient: str = "P1",
    name: str = "Doe^Jane",
    frame: str | None = None,
    flat: bool = False,
    stored: np.ndarray | None = None,
    edit: Edit | None = None,
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


def write_enhanced(
    path: Path,
    grid: Grid,
    kind: str = EnhancedMRImageStorage,
    stored: np.ndarray | None = None,
    order: Sequence[int] | None = None,
    each: Callable[[int, Dataset], None] | None = None,
    edit: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Write an enhanced image: one file with a frame per slice. Returns its data set.

    Args:
        path: file to write.
        grid: geometry.
        kind: SOP class.
        stored: voxels (x, y, z); default: every voxel's value is its z.
        order: the slice of each frame; default: from the last slice to the first.
        each: changes the functional groups of each frame (its number, groups).
        edit: changes the data set before it is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    order = range(grid.shape[2])[::-1] if order is None else order
    image = _dataset(kind, generate_uid(), generate_uid(), "P1", "Doe^Jane")
    image.Modality, image.FrameOfReferenceUID, image.InstanceNumber = "MR", generate_uid(), 1
    image.ImageType, image.SeriesNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    image.ContentDate, image.ContentTime = "20200101", "120000"
    image.NumberOfFrames = len(order)
    image.Columns, image.Rows = grid.shape[:2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    pointers = (("StackID", 0x00209056), ("InStackPositionNumber", 0x00209057))
    uid = generate_uid()
    image.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    image.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=tag,
            FunctionalGroupPointer=0x00209111,
            DimensionDescriptionLabel=name,
        )
        for name, tag in pointers
    ]
    measures = _item(
        PixelSpacing=[grid.spacing[1], grid.spacing[0]],
        SliceThickness=grid.spacing[2],
        SpacingBetweenSlices=grid.spacing[2],
    )
    cosines = [f"{v:.9g}" for v in (*grid.along_row, *grid.along_column)]
    image.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[measures],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=cosines)],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = []
    for number, z in enumerate(order):
        position = [f"{v:.9g}" for v in grid.mm(np.array([0, 0, z]))]
        content = _item(StackID="1", InStackPositionNumber=z + 1, DimensionIndexValues=[1, z + 1])
        value = _item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")
        groups = _item(
            PlanePositionSequence=[_item(ImagePositionPatient=position)],
            FrameContentSequence=[content],
            PixelValueTransformationSequence=[value],
        )
        if each:
            each(number, groups)
        image.PerFrameFunctionalGroupsSequence.append(groups)
    frames = [np.full(grid.shape[1::-1], z) if stored is None else stored[..., z].T for z in order]
    image.PixelData = np.stack(frames).astype(np.int16).tobytes()
    if edit:
        edit(image)
    image.save_as(path, enforce_file_format=True)
    return image


def setting(**values: Any) -> Edit:
    """Put the same values into every slice; None removes an element."""

    def edit(z: int, one: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(one, keyword)
            else:
                setattr(one, keyword, value)

    return edit


def cut(path: Path, count: int) -> None:
    """Cut bytes off the end of a file, as a broken transfer does."""
    path.write_bytes(path.read_bytes()[:-count])


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


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


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
