"""Label maps, masks and segmentations of 3D Slicer as objects on a scan's grid, and back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.files import CaseError
from foldwise.volumes.objects import Merge, Object, Objects
from foldwise.volumes.objects_in import read_objects
from foldwise.volumes.objects_out import Form, write_objects
from foldwise.volumes.volume import Header, read_header

SHAPE = (7, 6, 5)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 3, 7], [0, 0, 0, 1]])
GRID = Header(SHAPE, AFFINE, np.dtype(np.int16))


def drawn() -> np.ndarray:
    """Values 257 and 70000, without any symmetry."""
    data = np.zeros(SHAPE, np.int32)
    data[1:4, 2, 3], data[5, 0:2, 1] = 70000, 257
    return data


def saved(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def read(path: Path, *, resample: bool = False) -> Objects:
    return read_objects(path, path.with_name("scan.nii.gz"), GRID, resample=resample)


def test_values_are_kept_and_numbered_in_their_order(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "labels.nii.gz", drawn()))
    assert found.listed == (Object("label 257", 257), Object("label 70000", 70000))
    assert found.labels.dtype == np.uint8
    assert np.array_equal(found.labels, np.select([drawn() == 257, drawn() == 70000], [1, 2]))
    assert found.remarks == ()


def test_names_and_colours_of_a_table_of_bids(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("index\tname\tcolor\n70000\tliver\t#ff8001\n5\tspleen\t\n")
    found = read(saved(tmp_path / "labels.nii.gz", drawn()))
    assert found.listed == (Object("label 257", 257), Object("liver", 70000, (255, 128, 1)))
    (tmp_path / "labels.tsv").write_text("id,name\n1,liver\n")
    with pytest.raises(CaseError, match=r"labels.tsv: is no table of labels: expected the columns index"):
        read(tmp_path / "labels.nii.gz")


def test_more_than_255_objects(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.int16)
    data.flat[:210] = np.arange(210)
    assert read(saved(tmp_path / "most.nii", data)).labels.dtype == np.uint8
    grid = Header((10, 10, 10), AFFINE, np.dtype(np.int16))
    many = saved(tmp_path / "m.nii", np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    found = read_objects(many, tmp_path / "scan.nii.gz", grid)
    assert found.labels.dtype == np.uint16
    assert np.array_equal(found.labels.ravel(), np.arange(1000))
    assert found.remarks == (
        f"{many}: has 999 different values, each of which is an object; is it an image?",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.array([0, 0.37, 1], np.float32),
            r"is no label map: 1 of its voxels are not whole numbers, e.g. 0.37",
        ),
        (np.array([0, np.nan, 1], np.float32), r"1 of its voxels are not whole numbers, e.g. nan"),
        (np.array([0, -1000, 40], np.int16), r"is no label map: its values are -1000 to 40"),
        (np.array([0, 1, 4000000000], np.uint32), r"its values are 0 to 4e\+09"),
    ],
)
def test_what_is_no_label_map(tmp_path: Path, values: np.ndarray, message: str) -> None:
    data = np.zeros(SHAPE, values.dtype)
    data[0, 0, :3] = values
    with pytest.raises(CaseError, match=message):
        read(saved(tmp_path / "image.nii", data))


def test_a_map_with_turned_axes_or_of_a_part_is_put_in_its_place(tmp_path: Path) -> None:
    """The voxel (x, y, z) of the file is (6 - z, x, y + 1) of the scan; its first y is cut off."""
    turn = np.array([[0, 0, -1, 6], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]])
    part = drawn()[::-1].transpose(1, 2, 0)[:, 1:]
    found = read(saved(tmp_path / "turned.nii.gz", part, AFFINE @ turn))
    assert np.array_equal(found.labels > 0, drawn() > 0)
    assert found.remarks == ()
    beyond = np.concatenate([part, np.ones_like(part)], axis=1)
    with pytest.raises(CaseError, match=r"b.nii.gz: \d+ labelled voxels lie outside the scan"):
        read(saved(tmp_path / "b.nii.gz", beyond, AFFINE @ turn))


def test_a_map_on_another_grid_is_never_shifted_silently(tmp_path: Path) -> None:
    fine = AFFINE @ np.diag([0.5, 1, 1, 1])
    data = np.zeros((14, 6, 5), np.uint8)
    data[4:10, 2, 3] = 9  # centres at 2 to 4.5 voxels of the scan
    data[1, 0, 0] = 4  # at 0.5: no centre of the scan is nearer than to 0 and 2 of the file
    path = saved(tmp_path / "fine.nii.gz", data, fine)
    with pytest.raises(CaseError) as refused:
        read(path)
    here, there = "y -20.8 to -11.8, z 5.5 to 20.5 mm", "resample it with your own program"
    assert str(refused.value) == (
        f"{path}: lies on another grid than the scan. "
        f"The file: 14×6×5 voxels of 1×1.5×3 mm, LAS, x 16.5 to 30.5, {here}; "
        f"the scan: 7×6×5 voxels of 2×1.5×3 mm, LAS, x 17.0 to 31.0, {here}. "
        f"Load it resampled to the nearest voxel, or {there}"
    )
    found = read(path, resample=True)
    assert np.argwhere(found.labels).tolist() == [[2, 2, 3], [3, 2, 3], [4, 2, 3]]
    assert found.listed == (Object("label 4", 4), Object("label 9", 9))
    assert [remark.removeprefix(f"{path}: ") for remark in found.remarks][1:] == [
        # 7 voxels of 1·1.5·3 mm³, then 3 of 2·1.5·3 mm³.
        "0.0315 mL became 0.027 mL",
        "no voxel is left of label 4",
    ]
    away = fine.copy()
    away[0, 3] += 500
    with pytest.raises(CaseError, match=r"nothing of its 0.0315 mL lies on a voxel of the scan"):
        read(saved(tmp_path / "away.nii.gz", data, away), resample=True)


def test_a_shift_of_a_tenth_of_a_voxel_is_refused(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 0.3
    with pytest.raises(CaseError, match="lies on another grid than the scan"):
        read(saved(tmp_path / "moved.nii.gz", drawn(), moved))


def test_masks_along_a_fourth_axis_that_overlap(tmp_path: Path) -> None:
    data = np.zeros((*SHAPE, 3), np.uint8)
    data[:6, ..., 0], data[2:5, 1, 1, 1], data[4, 1:3, 1, 2] = 1, 255, 1
    path = saved(tmp_path / "masks.nii.gz", data)
    found = read(path)
    expected = np.zeros(SHAPE, np.uint8)
    expected[:6], expected[2:5, 1, 1], expected[4, 1:3, 1] = 1, 2, 3
    assert np.array_equal(found.labels, expected)
    assert [one.name for one in found.listed] == ["channel 1", "channel 2", "channel 3"]
    assert found.remarks == (
        f"{path}: channel 1 overlaps smaller objects, which keep the voxels they share: channel 2 (3), "
        f"channel 3 (1); 176 of its 180 voxels are left",
        f"{path}: channel 2 overlaps smaller objects, which keep the voxels they share: channel 3 (1); "
        f"2 of its 3 voxels are left",
    )
    data[6, 5, 4, 1] = 7
    with pytest.raises(CaseError, match=r"channel 2 has the values 7, 255; expected a mask in each of its 3"):
        read(saved(path, data))


def test_a_background_channel_is_no_object(tmp_path: Path) -> None:
    one_hot = np.stack([drawn() == value for value in (0, 257, 70000)], axis=-1).astype(np.uint8)
    path = saved(tmp_path / "classes.nii.gz", one_hot)
    found = read(path)
    assert np.array_equal(found.labels, np.select([drawn() == 257, drawn() == 70000], [1, 2]))
    assert [(one.name, one.value) for one in found.listed] == [("channel 2", 2), ("channel 3", 3)]
    assert found.remarks == (
        f"{path}: channel 1 is all that no other channel is: the background, and left out",
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_smaller_object_wins_in_any_order(order: tuple[int, ...]) -> None:
    masks = [np.zeros((8, 1, 1), bool) for _ in range(3)]
    masks[0][:8], masks[1][2:7], masks[2][4:6] = True, True, True
    merge = Merge((8, 1, 1), 3)
    for number in order:
        merge.add(Object("abc"[number], number + 1), masks[number])
    names = [" ", *(one.name for one in merge.listed)]
    assert "".join(names[number] for number in merge.labels.ravel()) == "aabbccba"


def test_of_equal_objects_the_later_one_wins_and_the_loss_is_told() -> None:
    merge = Merge((3, 1, 1), 2)
    for name in "ab":
        merge.add(Object(name, 1), np.ones((3, 1, 1), bool))
    assert merge.labels.ravel().tolist() == [2, 2, 2]
    assert merge.remarks() == [
        "a overlaps smaller objects, which keep the voxels they share: b (3); 0 of its 3 voxels are left"
    ]


LISTED = (Object("Leber, rechts", 257, (255, 128, 1)), Object("tumour", 3), Object("empty", 70000))


def objects() -> Objects:
    return Objects(np.select([drawn() == 257, drawn() == 70000], [1, 2]).astype(np.uint8), LISTED, AFFINE)


def test_nifti_keeps_values_and_geometry(tmp_path: Path) -> None:
    write_objects(objects(), tmp_path / "out.nii.gz", "nifti", tmp_path / "scan.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.get_data_dtype() == np.int32
    assert np.array_equal(np.asarray(image.dataobj), np.select([drawn() == 257, drawn() == 70000], [257, 3]))
    assert np.allclose(image.affine, AFFINE)


@pytest.mark.parametrize("shear", [0, 0.2], ids=["straight", "sheared"])
def test_a_segmentation_for_3d_slicer(tmp_path: Path, shear: float) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = shear
    written = Objects(objects().labels, LISTED, affine)
    write_objects(written, tmp_path / "out.seg.nrrd", "slicer", tmp_path / "scan.nii.gz")
    image = sitk.ReadImage(tmp_path / "out.seg.nrrd")
    assert image.GetMetaData("Segment0_Name") == "Leber, rechts"
    assert image.GetMetaData("Segment0_LabelValue") == "257"
    assert image.GetMetaData("Segment0_Color") == "1.000000 0.501961 0.003922"
    assert np.array_equal(sitk.GetArrayFromImage(image).T == 257, drawn() == 257)
    assert np.allclose(image.TransformIndexToPhysicalPoint((1, 2, 3)), [-28, 17 - 3 * shear, 16])
    grid = Header(SHAPE, affine, np.dtype(np.int16))
    found = read_objects(tmp_path / "out.seg.nrrd", tmp_path / "scan.nii.gz", grid)
    assert found.listed == LISTED
    assert np.array_equal(found.labels, written.labels)


def test_overlapping_layers_of_3d_slicer(tmp_path: Path) -> None:
    """Two layers; both segments have the value 1, and so cannot keep it."""
    layers = np.zeros((*SHAPE[::-1], 2), np.uint8)
    layers[1:4, ..., 0], layers[3:, 0, 0, 1] = 1, 1
    image = sitk.GetImageFromArray(layers, isVector=True)
    image.SetSpacing((2, 1.5, 3))
    image.SetDirection(np.diag([1.0, -1, 1]).ravel().tolist())
    image.SetOrigin((-30, 20, 7))
    for number, name in enumerate(("organ", "organ")):
        image.SetMetaData(f"Segment{number}_ID", name)
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", "1")
        image.SetMetaData(f"Segment{number}_Layer", str(number))
    sitk.WriteImage(image, tmp_path / "two.seg.nrrd")
    found = read(tmp_path / "two.seg.nrrd")
    assert [(one.name, one.value) for one in found.listed] == [("organ", 1), ("organ (2)", 2)]
    assert np.argwhere(found.labels == 2).tolist() == [[0, 0, 3], [0, 0, 4]]
    assert (found.labels == 1).sum() == 3 * 42 - 1
    assert "organ (1); 125 of its 126 voxels are left" in found.remarks[0]
    assert found.remarks[1] == "several objects have the same name; the later ones are organ (2)"


def called(*names: str, value: int | None = None) -> tuple[Object, ...]:
    """Objects with values from 1, or all with one."""
    return tuple(
        Object(name, number if value is None else value) for number, name in enumerate(names, start=1)
    )


@pytest.mark.parametrize(
    ("listed", "form", "name", "message"),
    [
        (LISTED, "nifti", "out.nrrd", r"the name must end in .nii.gz or .nii"),
        (LISTED, "rtstruct", "out.nii", r"the name must end in .dcm"),
        (LISTED, "nifti", "taken.nii.gz", r"taken.nii.gz: exists and is not replaced"),
        (called("a", "b", value=1), "nifti", "o.nii", r"'a' has the value 1; each object needs a value"),
        (called("a", "b", value=0), "nifti", "o.nii", r"'a' has the value 0; each object needs a value"),
        (called("a", "a"), "dicom-seg", "o.dcm", r"'a': each object needs a name of its own"),
        (called("a", " "), "slicer", "o.seg.nrrd", r"' ': each object needs a name of its own"),
        (called("a" * 65, "b"), "rtstruct", "o.dcm", r"in DICOM at most 64 characters; rename it"),
        (called("a\\b", "c"), "dicom-seg", "o.dcm", r"names in files have no backslashes"),
        (called("a", "b"), "dicom-seg", "o.dcm", r"scan.nii.gz: not a folder with a DICOM series"),
        (called("a\nSegment0_Layer:=7", "c"), "slicer", "o.seg.nrrd", r"names in files have no .* control"),
        ((), "nifti", "o.nii", r"there is no object to write"),
    ],
)
def test_what_is_not_written(
    tmp_path: Path, listed: tuple[Object, ...], form: Form, name: str, message: str
) -> None:
    (tmp_path / "taken.nii.gz").write_text("mine")
    written = Objects(objects().labels, listed, AFFINE)
    with pytest.raises(CaseError, match=message):
        write_objects(written, tmp_path / name, form, tmp_path / "scan.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.nii.gz"]
    assert (tmp_path / "taken.nii.gz").read_text() == "mine"


def test_a_file_is_replaced_on_request(tmp_path: Path) -> None:
    (tmp_path / "taken.nii.gz").write_text("ours")
    write_objects(objects(), tmp_path / "taken.nii.gz", "nifti", tmp_path, replace=True)
    assert read_header(tmp_path / "taken.nii.gz").shape == SHAPE
