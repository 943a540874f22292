"""Label files: values of any kind, segments of 3D Slicer, and voxels that are to be ignored."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from foldwise.files import CaseError, read_json
from foldwise.settings import validate
from foldwise.systems.interactive.settings import Settings as Interactive
from foldwise.systems.segmentation.settings import Settings
from foldwise.volumes.cache import cache_case, open_case
from foldwise.volumes.crop import crop_case
from foldwise.volumes.labels import absent_classes, check_label, label_header, labelled, read_labels
from foldwise.volumes.settings import Cache, Crop
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import LPS_TO_RAS, Header, Volume, write_volume

SHAPE = (10, 9, 8)
AFFINE = LPS_TO_RAS @ np.diag([0.8, 0.9, 2.5, 1])
GRID = Header(SHAPE, AFFINE, np.dtype(np.int16))
TWO = Targets({"tumour": 1, "oedema": 2})


def nifti(path: Path, stored: np.ndarray, slope: float = 1, intercept: float = 0) -> Path:
    """Stored values with a slope and an intercept, as the format has them."""
    image = nib.Nifti1Image(stored, AFFINE, dtype=stored.dtype)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("stored", "slope", "value"),
    [
        (np.uint8(255), 1, 255),
        (np.uint16(65535), 1, 65535),
        (np.int32(70000), 1, 70000),
        (np.uint64(2**31 - 1), 1, 2**31 - 1),
        (np.float32(257), 1, 257),
        (np.float64(3), 1, 3),
        (np.uint8(6), 0.5, 3),
        (np.int16(255), 1 / 255, 1),  # 1.0000000591 in float32
    ],
)
def test_values_are_whole_whatever_their_type(tmp_path: Path, stored: Any, slope: float, value: int) -> None:
    data = np.zeros(SHAPE, stored.dtype)
    data[2:4, 3, 5] = stored
    found = read_labels(nifti(tmp_path / "l.nii", data, slope), Targets({"a": value}), GRID).data
    assert np.argwhere(found == value).tolist() == [[2, 3, 5], [3, 3, 5]]
    assert (found == 0).sum() == found.size - 2


@pytest.mark.parametrize(
    ("stored", "slope", "said"),
    [
        (np.float32(0.9999), 1, r"0\.9998999\d* \(1 voxels\).*interpolation: resample"),
        (np.float64(1 + 1e-5), 1, r"1\.00001 \(1 voxels\)"),
        (np.int8(-1), 1, r"-1 \(1 voxels\)"),
        (np.uint64(2**40), 1, rf"{2**40} \(1 voxels\)"),
        (np.uint8(255), 1, r"255 \(1 voxels\).*0/255 mask"),
        (np.float32(np.inf), 1, r"inf \(1 voxels\)"),
        (np.int16(3), 0.25, r"0\.75 \(1 voxels\)"),
    ],
)
def test_other_values_are_refused_by_name(tmp_path: Path, stored: Any, slope: float, said: str) -> None:
    data = np.zeros(SHAPE, stored.dtype)
    data[1, 1, 1] = stored
    with pytest.raises(CaseError, match=rf"l\.nii: label values that are not in data\.labels: {said}"):
        read_labels(nifti(tmp_path / "l.nii", data, slope), Targets({"a": 1}), GRID)


# Segmentations of 3D Slicer -----------------------------------------------------------------------------

Segment = tuple[str, int, int]  # name, layer, value


def seg_nrrd(
    path: Path,
    layers: np.ndarray,
    segments: Sequence[Segment],
    steps: Sequence[Sequence[float]] = ((0.8, 0, 0), (0, 0.9, 0), (0, 0, 2.5)),
    origin: Sequence[float] = (0, 0, 0),
    old: bool = False,
) -> Path:
    """A segmentation (layers, x, y, z) in LPS as 3D Slicer writes it."""
    text = "NRRD0004\ntype: unsigned char\nspace: left-posterior-superior\nencoding: gzip\n"
    directions = " ".join(f"({a},{b},{c})" for a, b, c in steps)
    sizes = " ".join(map(str, layers.shape if len(layers) > 1 else layers.shape[1:]))
    if len(layers) > 1:
        text += f"dimension: 4\nkinds: list domain domain domain\nspace directions: none {directions}\n"
    else:
        text += f"dimension: 3\nkinds: domain domain domain\nspace directions: {directions}\n"
    text += f"sizes: {sizes}\nspace origin: ({','.join(map(str, origin))})\n"
    for n, (name, layer, value) in enumerate(segments):
        text += f"Segment{n}_ID:=s{n}\nSegment{n}_Name:={name}\n"
        text += "" if old else f"Segment{n}_Layer:={layer}\nSegment{n}_LabelValue:={value}\n"
    data = layers.astype(np.uint8).tobytes(order="F")
    path.write_bytes(text.encode() + b"\n" + gzip.compress(data, mtime=0))
    return path


def two_layers() -> np.ndarray:
    """240 voxels in the first layer, 60 in the second one, which share 8."""
    layers = np.zeros((2, *SHAPE), np.uint8)
    layers[0, 1:7, 1:9, 1:6] = 1
    layers[1, 5:10, 7:9, 2:8] = 1
    return layers


TUMOUR, OEDEMA = ("Tumour ", 0, 1), ("oedema", 1, 1)


@pytest.mark.parametrize(
    ("segments", "targets", "expected", "said"),
    [
        # The names of segments, whatever their values; the later class wins.
        ([TUMOUR, OEDEMA], TWO, {1: 240 - 16, 2: 60}, ["16 voxels lie in segments of tumour and of oedema"]),
        (
            [TUMOUR, OEDEMA],
            Targets({"oedema": 70000, "tumour": 3}),
            {70000: 60 - 16, 3: 240},
            ["16 voxels lie in segments of oedema and of tumour; they count as tumour"],
        ),
        # A voxel of both is in every region of the other.
        (
            [TUMOUR, OEDEMA],
            Targets({"oedema": 2, "tumour": 1}, {"whole": ("oedema", "tumour"), "core": ("tumour",)}),
            {2: 60 - 16, 1: 240},
            [],
        ),
        # One class: the other segment is left out, and named.
        ([TUMOUR, ("skull", 1, 1)], Targets({"tumour": 1}), {1: 240}, ["are left out: 'skull'"]),
        # A class without a segment has no voxels.
        (
            [TUMOUR, ("ignore", 1, 1)],
            Targets.of({"tumour": 1, "ignore": 9, "node": 2}),
            {1: 224, 9: 60},
            ["count as ignore"],
        ),
        # No name fits: the values decide if they can.
        (
            [("A", 0, 1), ("B", 1, 2)],
            TWO,
            {1: 240 - 16, 2: 60},
            ["tumour is 'A' (1), oedema is 'B' (2)", "16 voxels lie in"],
        ),
    ],
)  # fmt: skip
def test_segments_are_found_by_name(
    tmp_path: Path, segments: list[Segment], targets: Targets, expected: dict[int, int], said: list[str]
) -> None:
    layers = two_layers()
    layers[1] *= segments[1][2]
    path = seg_nrrd(tmp_path / "s.seg.nrrd", layers, segments)
    remarks: list[str] = []
    found = read_labels(path, targets, GRID, remarks.append)
    assert {value: int((found.data == value).sum()) for value in expected} == expected
    assert int((found.data > 0).sum()) == sum(expected.values())
    assert len(remarks) == len(said)
    for remark, words in zip(remarks, said, strict=True):
        assert str(path) in remark
        assert words in remark
    # From the header alone: all but the overlaps.
    header = label_header(path)
    assert header.shape == SHAPE
    assert np.allclose(header.affine, AFFINE)
    assert all("voxels" not in remark for remark in check_label(header, targets, GRID))


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ([("tumor", 0, 1), OEDEMA], r"segment 'tumor' is no class of data\.labels; is it tumour\?"),
        ([("tumour", 0, 1), ("edema", 1, 1)], "segment 'edema' is no class of data.labels; is it oedema"),
        ([("A", 0, 1), ("B", 1, 1)], r"no segment has the name of a class \(tumour, oedema\), and 2 of them"),
        ([("A", 0, 1), ("B", 1, 7)], r"segment 'B' has neither the name nor the value \(7\) of a class"),
        ([("A", 0, 1), ("B", 0, 1)], "the segments A, B have the same value in the same layer"),
    ],
)
def test_segments_that_could_be_mistaken_are_refused_by_their_header(
    tmp_path: Path, segments: list[Segment], said: str
) -> None:
    path = seg_nrrd(tmp_path / "s.seg.nrrd", two_layers(), segments)
    with pytest.raises(CaseError, match=rf"s\.seg\.nrrd: .*{said}"):
        check_label(label_header(path), TWO, GRID)


def test_values_that_are_no_segments_are_refused(tmp_path: Path) -> None:
    layers = two_layers()
    layers[0, 0, 0, :3], layers[1, 0, 0, 0] = 7, 1  # 1 is a segment of the second layer, 7 is none
    path = seg_nrrd(tmp_path / "s.seg.nrrd", layers, [TUMOUR, OEDEMA])
    said = r"s\.seg\.nrrd: 3 voxels of layer 0 have values that belong to no segment \(7\)"
    with pytest.raises(CaseError, match=said):
        read_labels(path, TWO, GRID)
    with pytest.raises(CaseError, match=said):
        labelled(path, GRID)


def test_a_box_of_the_images_grid_is_placed_on_it(tmp_path: Path) -> None:
    """Stored as z, reversed x, y, from voxel (7, 2, 3) on; one voxel is marked at (6, 4, 5)."""
    layers = np.zeros((1, 4, 3, 5), np.uint8)
    layers[0, 2, 1, 2] = 4
    steps = ((0, 0, 2.5), (-0.8, 0, 0), (0, 0.9, 0))
    path = seg_nrrd(tmp_path / "s.seg.nrrd", layers, [("tumour", 0, 4)], steps, (7 * 0.8, 2 * 0.9, 3 * 2.5))
    found = read_labels(path, Targets({"tumour": 1}), GRID).data
    assert found.shape == SHAPE
    assert np.argwhere(found).tolist() == [[6, 4, 5]]
    assert np.argwhere(labelled(path, GRID)).tolist() == [[6, 4, 5]]


@pytest.mark.parametrize(
    ("origin", "step", "said"),
    [
        ((0.4, 0, 0), 0.8, "its voxels are not those of the case's image; in 3D Slicer, choose the image"),
        ((0, 0, 0), 0.4, "its voxels are not those of the case's image"),
        ((2.4, 0, 0), 0.8, r"48 voxels of segment 'tumour' lie outside the image"),
    ],
)
def test_another_grid_is_refused(tmp_path: Path, origin: Sequence[float], step: float, said: str) -> None:
    layers = np.zeros((1, *SHAPE), np.uint8)
    layers[0, 2:9, 0:6, 0:4] = 1  # two of seven planes beyond the border, if moved by three voxels
    steps = ((step, 0, 0), (0, 0.9, 0), (0, 0, 2.5))
    path = seg_nrrd(tmp_path / "s.seg.nrrd", layers, [("tumour", 0, 1)], steps, origin)
    with pytest.raises(CaseError, match=said):
        read_labels(path, Targets({"tumour": 1}), GRID)
    # An empty margin may extend beyond the image.
    if "outside" in said:
        layers[0, 7:] = 0
        seg_nrrd(path, layers, [("tumour", 0, 1)], steps, origin)
        assert int((read_labels(path, Targets({"tumour": 1}), GRID).data > 0).sum()) == 5 * 6 * 4


def test_the_first_version_of_the_format_had_a_layer_per_segment(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "s.seg.nrrd", two_layers(), [TUMOUR, OEDEMA], old=True)
    found = read_labels(path, TWO, GRID).data
    assert [int((found == value).sum()) for value in (1, 2)] == [224, 60]


# Voxels to ignore ---------------------------------------------------------------------------------------


def test_ignore_is_no_class() -> None:
    targets = Targets.of({"a": 5, "ignore": 7, "b": 2})
    assert (targets.classes, targets.names) == ({"a": 5, "b": 2}, ("a", "b"))
    assert (targets.ignore, targets.ignored) == (7, 3)
    assert targets.labels == {"a": 5, "b": 2, "ignore": 7}
    assert targets.membership.tolist() == [[False, True, False, False], [False, False, True, False]]
    assert Targets.from_dict(targets.as_dict()) == targets
    assert "ignore" not in Targets({"a": 1}).as_dict()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"labels": {"ignore": 255}}, "no class besides `ignore`"),
        ({"labels": {"a": 1, "Ignore": 255}}, "class Ignore: for voxels that count nowhere, write `ignore`"),
        ({"labels": {"a": 255, "ignore": 255}}, "share the voxel value 255"),
        ({"labels": {"a": 1, "ignore": 255}, "regions": {"r": ["a", "ignore"]}}, "belong to no region"),
        ({"labels": {"a": 1, "ignore": 255}, "regions": {"ignore": ["a"]}}, "belong to no region"),
    ],
)
def test_ignore_is_refused_where_it_has_no_meaning(data: dict[str, Any], said: str) -> None:
    with pytest.raises(CaseError, match=said):
        validate(Settings, {"experiment": "x", "data": {"sheet": "s.csv", **data}})


def test_settings_that_cannot_have_it() -> None:
    values = {"experiment": "x", "data": {"sheet": "s.csv", "labels": {"a": 1, "ignore": 2}}}
    weighted = {"models": {"m": {"sampling": {"label_weights": {"ignore": 1}}}}}
    with pytest.raises(CaseError, match="label_weights lists ignore, which are not classes"):
        validate(Settings, {**values, **weighted})
    with pytest.raises(CaseError, match=r"data\.labels\.ignore: an interactive experiment cannot"):
        validate(Interactive, {**values, "system": "interactive"})


def test_ignored_voxels_are_in_no_fact_and_no_sampler(tmp_path: Path) -> None:
    """Class a is 2 voxels of grey value 50, 4 are ignored with 900; the weight map covers both."""
    image, label = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8)
    image[0, 0, 0], image[1:3, 1, 1], label[1:3, 1, 1] = 1, 50, 3
    image[4:8, 2, 2], label[4:8, 2, 2] = 900, 255
    files: dict[str, np.ndarray] = {"i": image, "l": label, "w": (label > 0).astype(np.uint8)}
    for name, data in files.items():
        write_volume(Volume(data, AFFINE), tmp_path / f"{name}.nii.gz")
    paths = [tmp_path / f"{name}.nii.gz" for name in files]
    labels = {"ignore": 255, "a": 3}
    crop_case([paths[0]], paths[1], paths[2], None, Crop(to="none"), labels, tmp_path)
    facts = read_json(tmp_path / "crop.json")
    voxel = 0.8 * 0.9 * 2.5 / 1000
    assert facts["foreground_ml"] == {"a": pytest.approx(2 * voxel)}
    assert facts["ignored_ml"] == pytest.approx(4 * voxel)
    assert facts["instances"] == {"a": 1}
    assert np.load(tmp_path / "foreground.npy").tolist() == [[50, 50]]
    assert int(labelled(paths[1], GRID, 255).sum()) == 2
    cache_case("c", tmp_path, Cache(), labels, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        stored = file["label"][()]
        assert [int((stored == number).sum()) for number in (1, 2)] == [2, 4]
        assert {name: len(places) for name, places in file["foreground"].items()} == {"a": 2}
        assert (file["weight"][()] > 0).sum() == 2
        counted = file["counted"][()]
        assert len(counted) == stored.size - 4
        assert (stored[tuple(counted.T)] != 2).all()


def test_resampling_ignores_where_most_is_ignored(tmp_path: Path) -> None:
    """Three source voxels for each of the cache: 2 + 1 of them, or 1 + 1 + 1, which is a tie."""
    label = np.zeros((9, 3, 3), np.uint8)
    label[0:2], label[2] = 9, 1  # mostly ignored
    label[3:5], label[5] = 1, 9  # mostly of the class
    label[6] = 9  # mostly background
    image = np.arange(label.size, dtype=np.int16).reshape(label.shape)
    for name, data in (("i", image), ("l", label)):
        write_volume(Volume(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    labels = {"a": 1, "ignore": 9}
    crop_case([tmp_path / "i.nii.gz"], tmp_path / "l.nii.gz", None, None, Crop(to="none"), labels, tmp_path)
    cache_case("c", tmp_path, Cache(shape=(3, 3, 3)), labels, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        assert file["label"][:, 1, 1].tolist() == [2, 1, 0]


def test_classes_that_no_case_has() -> None:
    targets = Targets.of({"a": 1, "b": 2, "ignore": 3})
    assert absent_classes({"c0": ["empty"], "c1": ["a"]}, targets) == [
        "class b is in none of the 2 labels of the training cases: it cannot be learnt"
    ]
    assert absent_classes({"c0": ["a", "b"]}, targets) == []
    with pytest.raises(CaseError, match="none of the 2 labels of the training cases has a voxel of a, b"):
        absent_classes({"c0": ["empty"], "c1": []}, targets)
