"""SEG and RTSTRUCT files as objects on a scan's grid: whose they are, what overlaps, what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from skimage.color import rgb2lab

from dicom_files import SMALL, grids, setting, write_rtstruct, write_series
from foldwise.files import CaseError
from foldwise.volumes.objects import Object, Objects
from foldwise.volumes.objects_in import read_objects
from foldwise.volumes.objects_out import Form, write_objects
from foldwise.volumes.volume import read_header

LIVER = (("123037004", "SCT", "Anatomical Structure"), ("10200004", "SCT", "Liver"))
LISTED = (
    Object("Leber", 1, (255, 128, 1), "MANUAL", LIVER),
    Object("Tumour 肿瘤", 2, None, "AUTOMATIC"),
    Object("nothing", 3, (0, 0, 7)),
)


def read(path: Path, scan: Path) -> Objects:
    return read_objects(path, scan, read_header(scan))


def labels(shape: tuple[int, ...]) -> np.ndarray:
    found = np.random.default_rng(4).choice(np.array([0, 0, 0, 1, 2], np.uint8), shape)
    found[..., 0] = 0
    return found


@pytest.mark.parametrize("form", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize("name", ["prone", "sagittal", "oblique", "oblique, tilted"])
def test_there_and_back(tmp_path: Path, form: Form, name: str) -> None:
    grid = grids((6, 5, 4))[name]
    write_series(tmp_path / "ct", grid)
    written = Objects(labels(grid.shape), LISTED, read_header(tmp_path / "ct").affine)
    write_objects(written, tmp_path / "out.dcm", form, tmp_path / "ct")
    found = read(tmp_path / "out.dcm", tmp_path / "ct")
    assert np.array_equal(found.labels, written.labels)
    assert [(one.name, one.value, one.colour, one.origin) for one in found.listed] == [
        (one.name, one.value, one.colour, one.origin) for one in LISTED
    ]
    assert found.remarks == ()
    if form == "dicom-seg":
        assert found.listed[0].codes == LISTED[0].codes


def test_a_seg_says_what_it_is_to_any_reader(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", SMALL)
    written = Objects(labels(SMALL.shape), LISTED, read_header(tmp_path / "ct").affine)
    write_objects(written, tmp_path / "out.dcm", "dicom-seg", tmp_path / "ct")
    seg = pydicom.dcmread(tmp_path / "out.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Leber", "Tumour 肿瘤", "nothing"]
    assert [s.SegmentAlgorithmType for s in seg.SegmentSequence] == ["MANUAL", "AUTOMATIC", "SEMIAUTOMATIC"]
    assert ["SegmentAlgorithmName" in s for s in seg.SegmentSequence] == [False, True, True]
    # DICOM (PS3.3, C.10.7.1.1): L* · 65535/100, (a* + 128) · 257, (b* + 128) · 257.
    value = np.array(seg.SegmentSequence[0].RecommendedDisplayCIELabValue)
    lab = value * [100 / 65535, 1 / 257, 1 / 257] - [0, 128, 128]
    assert np.abs(lab - rgb2lab(np.array([255, 128, 1]) / 255)).max() < 0.1
    assert "RecommendedDisplayCIELabValue" not in seg.SegmentSequence[1]


def square(low: float, high: float, z: int) -> np.ndarray:
    """LPS corners of a square in a slice, from voxel indices."""
    flat = [(low, low), (high, low), (high, high), (low, high)]
    return SMALL.mm(np.array([[x, y, z] for x, y in flat]))


@pytest.mark.parametrize("outside_first", [True, False])
def test_the_body_leaves_the_organs_in_it(tmp_path: Path, outside_first: bool) -> None:
    images = write_series(tmp_path / "ct", SMALL)
    body = [("CLOSED_PLANAR", square(-0.5, 4.5, z)) for z in range(4)]
    organ = [("CLOSED_PLANAR", square(0.5, 3.5, 1)), ("POINT", square(0, 1, 1)[:1])]
    marker = [("POINT", square(0, 1, 2)[:1])]
    structures = {"BODY": body, "organ": organ, "isocentre": marker}
    order = list(structures) if outside_first else list(structures)[::-1]
    path = tmp_path / "rs.dcm"
    write_rtstruct(path, images, {name: structures[name] for name in order})
    found = read(path, tmp_path / "ct")
    numbers = {one.name: number for number, one in enumerate(found.listed, start=1)}
    assert numbers.keys() == {"BODY", "organ"}
    expected = np.zeros(SMALL.shape, np.uint8)
    expected[:5, :5], expected[1:4, 1:4, 1] = numbers["BODY"], numbers["organ"]
    assert np.array_equal(found.labels, expected)
    overlap = "BODY overlaps smaller objects, which keep the voxels they share: organ (9)"
    assert sorted(remark.removeprefix(f"{path}: ") for remark in found.remarks) == [
        f"{overlap}; 91 of its 100 voxels are left",
        "structure isocentre: has no closed contour; it is left out",
        "structure organ: 1 of its 2 contours are points or open lines, and left out",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"PatientID": "P2"}, r"rs.dcm: its PatientID differs from that of .*ct; it is of another patient"),
        (
            {"FrameOfReferenceUID": "1.2.3"},
            r"rs.dcm: its frame of reference differs from that of .*ct, so",
        ),
    ],
)
def test_a_structure_set_of_another_scan(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    images = write_series(tmp_path / "ct", SMALL)
    for keyword, value in changed.items():
        setattr(images[0], keyword, value)
    write_rtstruct(tmp_path / "rs.dcm", images, {"a": [("CLOSED_PLANAR", square(0.5, 3.5, 1))]})
    with pytest.raises(CaseError, match=message):
        read(tmp_path / "rs.dcm", tmp_path / "ct")


def test_doubts_about_whose_it_is_are_told(tmp_path: Path) -> None:
    """Another series with the same coordinates; a scan that is not DICOM, in canonical directions."""
    images = write_series(tmp_path / "ct", SMALL)
    write_series(tmp_path / "second", SMALL, frame=images[0].FrameOfReferenceUID)
    contours = [("CLOSED_PLANAR", square(0.5, 3.5, z)) for z in (1, 3)]
    path = tmp_path / "one" / "rs.dcm"
    write_rtstruct(path, images, {"a": contours})
    expected = np.zeros(SMALL.shape, np.uint8)
    expected[1:4, 1:4, [1, 3]] = 1
    gap = f"{path}: structure a has contours on 2 slices and none on 1 between them, which stay empty"
    found = read(tmp_path / "one", tmp_path / "second")  # a folder with the only file
    assert np.array_equal(found.labels, expected)
    assert (
        found.remarks[0]
        == f"{path}: was made on another series with the same coordinates; check that it fits"
    )
    assert found.remarks[1].startswith(gap)
    # The same voxels with other axes: x of the file is z of the series, turned.
    affine = read_header(tmp_path / "ct").affine
    turn = np.array([[0, 1, 0, 0], [0, 0, -1, 4], [-1, 0, 0, 3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((4, 6, 5), np.int16), affine @ turn), tmp_path / "scan.nii.gz")
    found = read(path, tmp_path / "scan.nii.gz")
    assert np.array_equal(found.labels, expected.transpose(2, 0, 1)[::-1, :, ::-1])
    assert (
        found.remarks[0]
        == f"{path}: the scan is not DICOM, so only the position says that this belongs to it"
    )
    assert found.remarks[1].startswith(gap)


def write_seg(path: Path, images: Sequence[pydicom.Dataset], kind: str, pixels: np.ndarray) -> None:
    """A SEG by highdicom; `pixels` (z, y, x), or with the segments as the last axis."""
    descriptions = [
        hd.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Organ, "MANUAL")
        for number, name in enumerate("ab", start=1)
    ]
    hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segs_of_all_types(tmp_path: Path, kind: str) -> None:
    images = write_series(tmp_path / "ct", SMALL, edit=setting(StudyTime="120000"))
    masks = np.zeros((4, 5, 6, 2), np.uint8)
    masks[1:3, 1:4, 1:5, 0], masks[2, 2, 2:, 1] = 1, 1
    pixels: np.ndarray = masks
    if kind == "LABELMAP":
        pixels = np.where(masks[..., 1] > 0, 2, masks[..., 0]).astype(np.uint8)
    if kind == "FRACTIONAL":
        pixels = masks * 0.6
        pixels[0, 0, 0] = 0.4
    path = tmp_path / "seg.dcm"
    write_seg(path, images, kind, pixels)
    found = read(path, tmp_path / "ct")
    expected = np.zeros(SMALL.shape, np.uint8)
    expected[1:5, 1:4, 1:3], expected[2:, 2, 2] = 1, 2
    assert np.array_equal(found.labels, expected)
    assert [(one.name, one.origin) for one in found.listed] == [("a", "MANUAL"), ("b", "MANUAL")]
    overlap = "a overlaps smaller objects, which keep the voxels they share: b (3)"
    overlap += "; 21 of its 24 voxels are left"
    half = "is fractional; voxels belong to a segment from half of it"
    said = {"BINARY": [overlap], "FRACTIONAL": [half, overlap], "LABELMAP": []}
    assert [remark.removeprefix(f"{path}: ") for remark in found.remarks] == said[kind]
    # On a NIfTI whose rows run the other way, as dcm2niix writes them.
    turn = np.array([[1, 0, 0, 0], [0, -1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
    affine = read_header(tmp_path / "ct").affine @ turn
    nib.save(nib.Nifti1Image(np.zeros(SMALL.shape, np.int16), affine), tmp_path / "scan.nii.gz")
    assert np.array_equal(read(path, tmp_path / "scan.nii.gz").labels, expected[:, ::-1])


def test_a_file_that_holds_no_objects(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", SMALL)
    with pytest.raises(CaseError, match=r"IM900: its Modality is CT; expected RTSTRUCT or SEG"):
        read(tmp_path / "ct" / "IM900", tmp_path / "ct")
    with pytest.raises(CaseError, match=r"ct: a folder with 4 files; give the file of a SEG, RTSTRUCT"):
        read(tmp_path / "ct", tmp_path / "ct")
