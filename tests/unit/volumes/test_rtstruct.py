"""RTSTRUCTs as written, read back by hand: pydicom, the series' geometry, and scikit-image."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from skimage.measure import points_in_poly

from dicom_files import SMALL, Grid, grids, setting, write_enhanced, write_series
from foldwise.files import CaseError
from foldwise.volumes.objects import Object
from foldwise.volumes.rtstruct import write_rtstruct
from foldwise.volumes.volume import Volume, read_header, write_volume

SHAPE = (24, 20, 7)
ALL = grids(SHAPE)
HOLLOW = Object("Hollow organ", 1, (255, 128, 0))
NODE = Object("Lymph node", 2, None, "MANUAL")
NOTHING = Object("Nothing", 3, (0, 0, 255))


def labels() -> np.ndarray:
    """A disc with a hole and an island in it, parts, single voxels that touch, a line, slices left out."""
    x, y, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    drawn = ((x - 9) ** 2 / 36 + (y - 8) ** 2 / 25 <= 1).astype(np.uint8)
    drawn[8:11, 7:10], drawn[9, 8] = 0, 1
    drawn[18:22, 3:6] = drawn[20, 12] = drawn[21, 13] = drawn[14:20, 16] = 1
    drawn[..., [0, 3, 6]] = 0
    drawn[2, 1, 1:3] = drawn[23, 19, 5] = 2
    return drawn


def read_by_hand(path: Path, images: list[pydicom.Dataset], grid: Grid) -> dict[str, np.ndarray]:
    """Structure → its mask: voxels with centres in an odd number of contours, each in its image's plane."""
    dataset = pydicom.dcmread(path)
    places = {image.SOPInstanceUID: z for z, image in enumerate(images)}
    names = {roi.ROINumber: roi.ROIName for roi in dataset.StructureSetROISequence}
    centres = np.argwhere(np.ones(grid.shape[:2]))
    masks: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(grid.shape, bool))
    for drawn in dataset.ROIContourSequence:
        mask = masks[names[drawn.ReferencedROINumber]]
        for contour in drawn.get("ContourSequence", []):
            (image,) = contour.ContourImageSequence
            z = places[image.ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert (contour.ContourGeometricType, contour.NumberOfContourPoints) == (
                "CLOSED_PLANAR",
                len(points),
            )
            index = np.linalg.solve(grid.steps, (points - grid.origin).T).T
            assert np.abs(index[:, 2] - z).max() < 1e-3
            mask[..., z] ^= points_in_poly(centres, index[:, :2]).reshape(grid.shape[:2])
    return dict(masks)


@pytest.mark.parametrize("name", ALL)
def test_every_direction_comes_back_voxel_by_voxel(tmp_path: Path, name: str) -> None:
    images = write_series(tmp_path / "ct", ALL[name])
    volume = Volume(labels(), read_header(tmp_path / "ct").affine)
    write_rtstruct(volume, tmp_path / "ct", [HOLLOW, NODE, NOTHING], tmp_path / "rs.dcm")
    read = read_by_hand(tmp_path / "rs.dcm", images, ALL[name])
    expected = {"Hollow organ": labels() == 1, "Lymph node": labels() == 2, "Nothing": labels() == 3}
    assert read.keys() == expected.keys()
    for structure, mask in expected.items():
        assert np.array_equal(read[structure], mask)


def test_the_points_of_a_voxel(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", SMALL)
    drawn = np.zeros(SMALL.shape, np.uint8)
    drawn[3, 2, 1] = 1
    volume = Volume(drawn, read_header(tmp_path / "ct").affine)
    write_rtstruct(volume, tmp_path / "ct", [HOLLOW], tmp_path / "rs.dcm")
    (roi,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence
    (contour,) = roi.ContourSequence
    # Centre: -12.5 + 3·0.8, 30.25 + 2·1.1, -71 + 2.5; the borders are 0.4 and 0.55 mm away.
    corners = [(-10.5, 31.9), (-9.7, 31.9), (-9.7, 33.0), (-10.5, 33.0)]
    assert contour.ContourData == [value for x, y in corners for value in (x, y, -68.5)]


def test_contours_lie_in_their_slices_where_these_are_not_quite_even(tmp_path: Path) -> None:
    def edit(z: int, one: pydicom.Dataset) -> None:
        if z == 2:
            one.ImagePositionPatient = ["-12.5", "30.25", "-65.9"]  # 0.1 mm above its place

    write_series(tmp_path / "ct", SMALL, edit=edit)
    volume = Volume(np.ones(SMALL.shape, np.uint8), read_header(tmp_path / "ct").affine)
    write_rtstruct(volume, tmp_path / "ct", [HOLLOW], tmp_path / "rs.dcm")
    (roi,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence
    assert [contour.ContourData[2] for contour in roi.ContourSequence] == [-71, -68.5, -65.9, -63.5]


def test_what_it_says_of_patient_study_and_structures(tmp_path: Path) -> None:
    changed = setting(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Jörg",
        StudyID=None,
        PatientBirthDate="",
        StudyTime="",
    )
    images = write_series(tmp_path / "ct", SMALL, edit=changed)
    volume = Volume(np.ones(SMALL.shape, np.uint8), read_header(tmp_path / "ct").affine)
    write_rtstruct(volume, tmp_path / "ct", [HOLLOW, NODE], tmp_path / "rs.dcm", "by hand", 7)
    read, image = pydicom.dcmread(tmp_path / "rs.dcm"), images[0]
    assert (read.PatientName, read.PatientID, read.PatientBirthDate, read.StudyTime) == (
        "Müller^Jörg",
        "P1",
        "",
        "",
    )
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert read[keyword].value == image[keyword].value
    assert read.SeriesInstanceUID != image.SeriesInstanceUID
    assert (read.Modality, read.SeriesDescription, read.SeriesNumber) == ("RTSTRUCT", "by hand", 7)
    (frame,) = read.ReferencedFrameOfReferenceSequence
    (of_series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == image.SeriesInstanceUID
    listed = [one.ReferencedSOPInstanceUID for one in of_series.ContourImageSequence]
    assert listed == [one.SOPInstanceUID for one in images]
    rois = [(roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm) for roi in read.StructureSetROISequence]
    assert rois == [(1, "Hollow organ", "SEMIAUTOMATIC"), (2, "Lymph node", "MANUAL")]
    assert [roi.get("ROIDisplayColor") for roi in read.ROIContourSequence] == [[255, 128, 0], None]
    assert [one.ReferencedROINumber for one in read.RTROIObservationsSequence] == [1, 2]


def test_a_contour_longer_than_explicit_types_allow(tmp_path: Path) -> None:
    grid = Grid((80, 60, 1))
    images = write_series(tmp_path / "ct", grid)
    comb = np.ones(grid.shape, np.uint8)
    comb[1:-1:2, 1:-1:2] = 0  # holes
    volume = Volume(comb, read_header(tmp_path / "ct").affine)
    write_rtstruct(volume, tmp_path / "ct", [HOLLOW], tmp_path / "rs.dcm")
    raw = pydicom.dcmread(tmp_path / "rs.dcm")
    assert raw.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    lengths = [c.get_item("ContourData").length for c in raw.ROIContourSequence[0].ContourSequence]
    assert max(lengths) > 65534
    assert np.array_equal(read_by_hand(tmp_path / "rs.dcm", images, grid)["Hollow organ"], comb == 1)


def test_an_enhanced_image_is_referred_to_by_frames(tmp_path: Path) -> None:
    order = (2, 0, 3, 1)
    image = write_enhanced(tmp_path / "mr" / "one.dcm", SMALL, order=order)
    drawn = np.zeros(SMALL.shape, np.uint8)
    drawn[1:3, 1:3, 1:] = 1
    volume = Volume(drawn, read_header(tmp_path / "mr").affine)
    write_rtstruct(volume, tmp_path / "mr", [HOLLOW], tmp_path / "rs.dcm")
    (roi,) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence
    references = [contour.ContourImageSequence[0] for contour in roi.ContourSequence]
    assert {one.ReferencedSOPInstanceUID for one in references} == {image.SOPInstanceUID}
    assert [order[one.ReferencedFrameNumber - 1] for one in references] == [1, 2, 3]


def test_what_nothing_in_dicom_can_refer_to(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", SMALL)
    affine = read_header(tmp_path / "ct").affine
    drawn = Volume(np.ones(SMALL.shape, np.uint8), affine)
    write_volume(drawn, tmp_path / "scan.nii.gz")
    with pytest.raises(CaseError, match=r"scan.nii.gz: not a folder with a DICOM series.*save as NIfTI"):
        write_rtstruct(drawn, tmp_path / "scan.nii.gz", [HOLLOW], tmp_path / "rs.dcm")
    moved = Volume(drawn.data, affine.copy())
    moved.affine[0, 3] += 0.5
    with pytest.raises(CaseError, match=r"rs.dcm: the label map is not on the grid of .*ct"):
        write_rtstruct(moved, tmp_path / "ct", [HOLLOW], tmp_path / "rs.dcm")
    write_series(tmp_path / "lost", SMALL, edit=setting(FrameOfReferenceUID=None))
    with pytest.raises(CaseError, match=r"an RTSTRUCT cannot refer to it: IM900 has no FrameOfReferenceUID"):
        write_rtstruct(drawn, tmp_path / "lost", [HOLLOW], tmp_path / "rs.dcm")
    assert not (tmp_path / "rs.dcm").exists()
