"""DICOM in and out: contours and segments against analytic masks, on straight and oblique series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Outline
from pydicom.uid import generate_uid

from dicom_files import Grid, grids, oblique, write_rtstruct, write_series
from dicom_import import imported
from foldwise.files import CaseError
from foldwise.importers.dicom_structures import parse_structures
from foldwise.index import Entry
from foldwise.systems.segmentation.results import SegmentationResults
from foldwise.volumes.cache import cache_case, lineage_of, open_case
from foldwise.volumes.crop import crop_case
from foldwise.volumes.dicom_masks import rasterise
from foldwise.volumes.dicom_seg import property_codes, write_dicom_seg
from foldwise.volumes.dicom_structures import read_structures
from foldwise.volumes.predictions import write_prediction
from foldwise.volumes.settings import Cache, Crop, Export
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, read_header, read_volume, write_volume

ALL = grids(Grid().shape)
GRIDS = pytest.mark.parametrize("grid", ALL.values(), ids=ALL)
STRAIGHT = pytest.mark.parametrize("grid", [Grid(), oblique()], ids=["straight", "oblique"])
CENTRE, OUTER, INNER = np.array([9.13, 8.37]), 6.40, 2.52  # mm from the first voxel, in the plane


def ring(grid: Grid, z: int, radius: float, turn: int = 1) -> np.ndarray:
    """A circle in slice z as LPS points."""
    angle = turn * np.linspace(0, 2 * np.pi, 720, endpoint=False)
    plane = CENTRE + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return grid.mm(np.c_[plane / grid.spacing[:2], np.full(len(angle), z)])


def annulus(grid: Grid, slices: range) -> np.ndarray:
    """The analytic mask, from the distances of voxel centres."""
    index = grid.centres()
    distance = np.linalg.norm(index[..., :2] * grid.spacing[:2] - CENTRE, axis=-1)
    # No centre may be so near a circle that its polygon has it on the other side.
    assert min(np.abs(distance - r).min() for r in (OUTER, INNER)) > 1e-2
    return (distance < OUTER) & (distance > INNER) & np.isin(index[..., 2], slices)


def contours(grid: Grid, slices: Iterable[int], style: str) -> list[tuple[str, np.ndarray]]:
    drawn = []
    for z in slices:
        outer, inner = ring(grid, z, OUTER), ring(grid, z, INNER, turn=1 if style == "same turn" else -1)
        if style.startswith("keyhole") or style == "same turn":
            drawn.append(("CLOSED_PLANAR", np.vstack([outer, outer[:1], inner, inner[:1]])))
        else:
            drawn += [("CLOSED_PLANAR", outer), ("CLOSED_PLANAR", inner)]
    return drawn


@pytest.mark.parametrize(
    ("grid", "style"),
    [
        *(pytest.param(grid, "keyhole", id=name) for name, grid in ALL.items()),
        *(pytest.param(oblique(), style, id=style) for style in ("two contours", "same turn")),
    ],
)
def test_a_ring_of_contours_gives_the_analytic_mask(tmp_path: Path, grid: Grid, style: str) -> None:
    images = write_series(tmp_path / "in" / "ct", grid)
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV-1": contours(grid, range(2, 6), style)})
    dataset = imported(tmp_path, "gtv*=tumour")
    (row,) = dataset.rows
    assert row.label is not None
    label, image = read_volume(row.label), read_volume(row.images[""])
    assert np.array_equal(label.data, annulus(grid, range(2, 6)))
    # Voxels contain their slice's number, so the two grids agree in more than their affines.
    assert (image.data == grid.centres()[..., 2]).all()
    assert np.allclose(label.affine, image.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        (
            range(1, 6, 2),
            "has contours on 3 slices and none on 2 between them, which stay empty: it was drawn on about "
            "one slice in 2, so most of its volume is not labelled",
        ),
        ([0, 1, 2, 5, 6], "has contours on 5 slices and none on 2 between them, which stay empty"),
        (range(1, 6), None),
    ],
)
def test_gaps_between_contours_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, slices: Sequence[int], said: str | None
) -> None:
    grid = Grid()
    images = write_series(tmp_path / "in" / "ct", grid)
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV-1": contours(grid, slices, "keyhole")})
    imported(tmp_path, "gtv*=tumour")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    path = tmp_path / "in" / "rs.dcm"
    assert warnings == ([] if said is None else [f"{path}: structure GTV-1 {said}"])


def test_classes_that_overlap_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = Grid()
    images = write_series(tmp_path / "in" / "ct", grid)
    corners = {"organ": [(0.5, 0.5), (8.5, 0.5), (8.5, 4.5), (0.5, 4.5)]}  # 8 × 4 voxels
    corners["GTV"] = [(5.5, 2.5), (9.5, 2.5), (9.5, 6.5), (5.5, 6.5)]  # 3 × 2 of them
    squares = {name: grid.mm(np.c_[flat, np.full(4, 2)]) for name, flat in corners.items()}
    path = tmp_path / "in" / "rs.dcm"
    write_rtstruct(path, images, {name: [("CLOSED_PLANAR", square)] for name, square in squares.items()})
    imported(tmp_path, "GTV=tumour,organ=organ")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"{path}: 6 voxels lie in structures of tumour and of organ; they count as organ",
    ]


def test_contours_agree_with_matplotlib() -> None:
    rng = np.random.default_rng(1)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    star = np.array([25.3, 21.7]) + (rng.uniform(4, 24, 60) * [np.cos(angle), np.sin(angle)]).T
    index = np.stack(np.meshgrid(np.arange(48), np.arange(45), indexing="ij"), axis=-1).reshape(-1, 2)
    inside = Outline(np.vstack([star, star[:1]])).contains_points(index)
    assert np.array_equal(rasterise([star], (48, 45)).ravel(), inside)
    assert 300 < inside.sum() < 1500
    assert (rasterise([star + 40], (48, 45)).sum()) < inside.sum()  # clipped at the border, no error


@pytest.mark.parametrize("off", [0, 0.008], ids=["exact", "rounded"])
def test_centres_on_an_edge_between_centres_are_inside(off: float) -> None:
    """DICOM: points along a contour belong to it. So masks drawn from centre to centre come back whole."""
    left = rasterise([np.array([[1, 1], [4, 1], [4, 5], [1, 5]]) + off], (8, 8))
    right = rasterise([np.array([[4, 1], [7, 1], [7, 5], [4, 5]]) - off], (8, 8))
    expected = np.zeros((8, 8), bool)
    expected[1:5, 1:6] = True
    assert np.array_equal(left, expected)
    assert np.array_equal(np.argwhere(left & right), [[4, y] for y in range(1, 6)])
    diamond = rasterise([np.array([[3, 1], [5, 3], [3, 5], [1, 3]]) + off], (8, 8))
    assert diamond.sum() == 13
    hole = rasterise(
        [np.array([[1, 1], [5, 1], [5, 5], [1, 5]]), np.array([[2, 2], [4, 2], [4, 4], [2, 4]])], (8, 8)
    )
    assert hole.sum() == 24
    assert not hole[3, 3]


def test_neighbours_share_no_voxel_on_an_edge_that_happens_to_meet_centres() -> None:
    left = rasterise([np.array([[1.5, 0.5], [4, 0.5], [4, 5.5], [1.5, 5.5]])], (8, 8))
    right = rasterise([np.array([[4, 0.5], [6.5, 0.5], [6.5, 5.5], [4, 5.5]])], (8, 8))
    assert not (left & right).any()
    assert np.array_equal(left | right, np.pad(np.ones((5, 5), bool), ((2, 1), (1, 2))))


def test_a_contour_between_or_outside_slices_is_named(tmp_path: Path) -> None:
    grid = Grid()
    images = write_series(tmp_path / "in" / "ct", grid)
    outside = ring(grid, 9, OUTER)
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV": [("CLOSED_PLANAR", outside)]})
    with pytest.raises(
        CaseError, match=r"structure GTV: the contour through .* lies 7.50 mm from the nearest"
    ):
        imported(tmp_path, "GTV=tumour")
    tilted = ring(grid, 3, OUTER) + np.linspace(0, 4, 720)[:, None] * [0, 0, 1]
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV": [("CLOSED_PLANAR", tilted)]})
    with pytest.raises(CaseError, match="does not lie in a slice"):
        imported(tmp_path, "GTV=tumour")
    finer = [("CLOSED_PLANAR", ring(grid, 3, OUTER) + np.array([0, 0, shift])) for shift in (-0.6, 0.6)]
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV": finer})
    with pytest.raises(CaseError, match="finer series"):
        imported(tmp_path, "GTV=tumour")
    assert not (tmp_path / "out").exists()


def test_points_are_passed_over_and_a_contour_twice_counts_once(tmp_path: Path) -> None:
    grid = Grid()
    images = write_series(tmp_path / "in" / "ct", grid)
    disc = ("CLOSED_PLANAR", ring(grid, 3, OUTER))
    write_rtstruct(
        tmp_path / "in" / "rs.dcm", images, {"GTV": [("POINT", grid.mm(np.array([[1, 1, 1]]))), disc, disc]}
    )
    dataset = imported(tmp_path, "GTV=tumour")
    assert dataset.rows[0].label is not None
    label = read_volume(dataset.rows[0].label).data
    distance = np.linalg.norm(grid.centres()[..., :2] * grid.spacing[:2] - CENTRE, axis=-1)
    assert np.array_equal(label > 0, (distance < OUTER) & (grid.centres()[..., 2] == 3))


def test_a_pattern_that_fits_nothing_lists_what_there_is(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in" / "ct", Grid())
    write_rtstruct(tmp_path / "in" / "rs.dcm", images, {"GTV": contours(Grid(), range(2, 3), "keyhole")})
    with pytest.raises(CaseError, match=r"'ctv\*' matches none.*\n  GTV \(1\)"):
        imported(tmp_path, "CTV*=tumour")


@pytest.mark.parametrize("text", ["GTV", "=tumour", "GTV=a b"])
def test_structures_that_are_no_pairs(text: str) -> None:
    with pytest.raises(CaseError, match="pattern=class"):
        parse_structures(text)


def labels_of(grid: Grid) -> np.ndarray:
    """Two classes without any symmetry, and empty slices at both ends."""
    labels = np.where(np.random.default_rng(3).random(grid.shape) < 0.3, 3, 0).astype(np.uint8)
    labels[annulus(grid, range(grid.shape[2]))] = 7
    labels[..., [0, -1]] = 0
    return labels


@GRIDS
def test_a_written_seg_has_every_voxel_in_its_place(tmp_path: Path, grid: Grid) -> None:
    images = write_series(tmp_path / "ct", grid)
    labels = labels_of(grid)
    # Values may have any size; a segment is a class.
    wide = np.select([labels == 3, labels == 7], [257, 70_000]).astype(np.int32)
    volume = Volume(wide, read_header(tmp_path / "ct").affine)
    write_dicom_seg(volume, tmp_path / "ct", {"tumour": 70_000, "lung": 257}, tmp_path / "seg.dcm")
    # highdicom, by the source images.
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["tumour", "lung"]
    assert seg.get_segment_description(1).algorithm_type.value == "AUTOMATIC"
    planes = seg.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], assert_missing_frames_are_empty=True
    )
    for segment, value in ((0, 7), (1, 3)):
        assert np.array_equal(planes[..., segment].transpose(2, 1, 0), labels == value)
    # With ITK alone, frame by frame at its position in the patient.
    raw = pydicom.dcmread(tmp_path / "seg.dcm")
    assert raw.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert raw.StudyInstanceUID == images[0].StudyInstanceUID
    frames = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "seg.dcm"))
    seen = np.zeros(grid.shape, np.uint8)
    for frame, about in zip(frames, raw.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        z = ((place - grid.origin) @ grid.axes / grid.spacing)[2]
        assert np.allclose(place, grid.mm(np.array([0, 0, round(z)])), atol=1e-3)
        number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        seen[..., round(z)][frame.T > 0] = {1: 7, 2: 3}[number]
    assert np.array_equal(seen, labels)
    # Slices without a segment are left out.
    assert len(frames) == sum((labels == value).any(axis=(0, 1)).sum() for value in (3, 7))


def test_an_empty_prediction_is_written_too(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", Grid())
    empty = Volume(np.zeros(Grid().shape, np.uint8), read_header(tmp_path / "ct").affine)
    write_dicom_seg(empty, tmp_path / "ct", {"tumour": 1}, tmp_path / "seg.dcm")
    assert hd.seg.segread(tmp_path / "seg.dcm").get_volume().array.sum() == 0


def test_a_seg_on_another_grid_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", Grid())
    affine = read_header(tmp_path / "ct").affine
    affine[0, 3] += 1
    with pytest.raises(CaseError, match="not on the grid"):
        write_dicom_seg(
            Volume(np.ones(Grid().shape, np.uint8), affine), tmp_path / "ct", {"a": 1}, tmp_path / "seg.dcm"
        )
    assert not list(tmp_path.glob("*seg.dcm*"))


def test_codes() -> None:
    assert property_codes("GTV_1")[1].meaning == "Neoplasm"
    assert property_codes("lung")[0].meaning == "Anatomical Structure"


@GRIDS
def test_our_own_seg_is_read_back(tmp_path: Path, grid: Grid) -> None:
    write_series(tmp_path / "in" / "ct", grid)
    labels = labels_of(grid)
    volume = Volume(labels, read_header(tmp_path / "in" / "ct").affine)
    write_dicom_seg(volume, tmp_path / "in" / "ct", {"tumour": 7, "lung": 3}, tmp_path / "in" / "seg.dcm")
    dataset = imported(tmp_path, "lung=lung,tumour=tumour")
    assert dataset.rows[0].label is not None
    label = read_volume(dataset.rows[0].label).data
    assert np.array_equal(label, np.select([labels == 3, labels == 7], [1, 2]))


@STRAIGHT
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_foreign_seg_turned_and_sparse_is_put_on_the_series(tmp_path: Path, grid: Grid, kind: str) -> None:
    """Frames from the last slice to the first, rows mirrored, and only two slices far apart."""
    images = write_series(tmp_path / "in" / "ct", grid)
    mask = annulus(grid, range(grid.shape[2]))
    mask[..., [z for z in range(grid.shape[2]) if z not in (1, 5)]] = False
    # highdicom's index is (slice, row, column); ours is rotated in all three relative to the series.
    turned = mask.transpose(2, 1, 0)[::-1, :, ::-1]
    affine = np.eye(4)
    affine[:3, :3] = (grid.axes * grid.spacing)[:, ::-1] * [-1, 1, -1]
    affine[:3, 3] = grid.mm(np.array([grid.shape[0] - 1, 0, grid.shape[2] - 1]))
    volume = hd.Volume(turned.astype(np.uint8), affine, "PATIENT", images[0].FrameOfReferenceUID)
    for image in images:
        del image["PixelData"]
    described = hd.seg.SegmentDescription(1, "Left lung", *property_codes("lung"), "MANUAL")
    hd.seg.Segmentation(
        images, volume.astype(float) if kind == "FRACTIONAL" else volume, kind, [described], generate_uid(),
        1, generate_uid(), 1, "none", "none", "1", "1",
    ).save_as(tmp_path / "in" / "seg.dcm")  # fmt: skip
    dataset = imported(tmp_path, "left*=lung")
    assert dataset.rows[0].label is not None
    assert np.array_equal(read_volume(dataset.rows[0].label).data, mask)


def test_a_seg_beside_the_voxels_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "ct", Grid())
    header = read_header(tmp_path / "in" / "ct")
    write_dicom_seg(
        Volume(np.ones(header.shape, np.uint8), header.affine),
        tmp_path / "in" / "ct",
        {"a": 1},
        tmp_path / "s.dcm",
    )
    seg = pydicom.dcmread(tmp_path / "s.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 0.4
    seg.save_as(tmp_path / "in" / "seg.dcm")
    with pytest.raises(CaseError, match="does not lie on the voxels"):
        imported(tmp_path, "a=a")


def test_structures_of_another_frame_of_reference_are_refused(tmp_path: Path) -> None:
    images = write_series(tmp_path / "in" / "ct", Grid())
    moved = [pydicom.Dataset(image) for image in images]
    for image in moved:
        image.FrameOfReferenceUID = generate_uid()
    write_rtstruct(tmp_path / "in" / "rs.dcm", moved, {"GTV": contours(Grid(), range(2, 3), "keyhole")})
    with pytest.raises(CaseError, match="its frame of reference differs"):
        imported(tmp_path, "GTV=tumour")


def test_structures_that_were_cut_off_are_named(tmp_path: Path) -> None:
    """pydicom skips missing parts: the last structures would be empty."""
    images = write_series(tmp_path / "in" / "ct", Grid())
    path = tmp_path / "in" / "rs.dcm"
    write_rtstruct(path, images, {name: contours(Grid(), range(2, 3), "keyhole") for name in ("GTV", "lung")})
    whole = path.read_bytes()
    for lost in (20, len(whole) // 3):
        path.write_bytes(whole[:-lost])
        with pytest.raises(CaseError, match=r"rs.dcm: not readable as RTSTRUCT or SEG \(it is truncated\)"):
            read_structures(path)


def export_one(prediction: Path, source: Path, folder: Path) -> None:
    entry = Entry("scan", "scan", {"images": (str(source),)}, "", {}, 0)
    settings = Export(dicom_seg=True)
    SegmentationResults().export({"scan": prediction}, [entry], settings, {"postprocess": []}, folder)


@pytest.mark.parametrize("name", ["oblique", "straight, tilted"])
def test_a_prediction_of_a_dicom_scan_is_exported_as_seg(tmp_path: Path, name: str) -> None:
    """From the series through crop, cache and prediction to a SEG on it, read back by ITK."""
    write_series(tmp_path / "scan", ALL[name])
    truth = np.zeros(ALL[name].shape, np.uint8)
    truth[3:9, 5:11, 2:5] = 4
    source = Volume(truth, read_header(tmp_path / "scan").affine)
    write_volume(source, tmp_path / "truth.nii.gz")
    (tmp_path / "crop").mkdir()
    label, classes = tmp_path / "truth.nii.gz", {"a": 4}
    crop_case([tmp_path / "scan"], label, None, None, Crop(to="none"), classes, tmp_path / "crop")
    cache_case("scan", tmp_path / "crop", Cache(), classes, tmp_path / "scan.h5")
    with open_case(tmp_path / "scan.h5") as file:
        probability, lineage = file["label"][()][None].astype(np.float32), lineage_of(file)
    prediction = tmp_path / "predictions" / "scan.h5"
    write_prediction(prediction, "scan", probability, lineage, Targets(classes))
    export_one(prediction, tmp_path / "scan", tmp_path / "out")
    assert (read_volume(tmp_path / "out" / "scan.nii.gz").data == truth).all()
    found = sitk.ReadImage(str(tmp_path / "out" / "scan.dcm"))
    assert int((sitk.GetArrayFromImage(found) > 0).sum()) == int((truth > 0).sum())
    # A scan that is a file gets none.
    export_one(prediction, tmp_path / "scan.nii.gz", tmp_path / "plain")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["scan.nii.gz"]
