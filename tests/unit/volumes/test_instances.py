"""Instances that a coarser grid or a crop loses, and the spacing that keeps them."""

import json
import logging
import re
from pathlib import Path

import cc3d
import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.volumes.cache import cache_case, check_labels, lost_of, open_case
from foldwise.volumes.crop import Masks, crop_case
from foldwise.volumes.geometry import Box, Lineage, int3, resample_labels, resample_labels_within
from foldwise.volumes.instances import find_centres, find_instances, finest, losses, lost_in_grid
from foldwise.volumes.settings import Cache, Crop
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume


def test_instances_by_hand() -> None:
    """Two of class 1, one of them two voxels with one corner in common; one of class 2; 9 is not asked."""
    labels = np.zeros((8, 7, 6), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    labels[2, 1, 1] = 2
    labels[5:8, 2:7, 3:5] = 1
    labels[4, 4, 4] = 9
    found = find_instances(labels, [1, 2])
    boxes = {(int(v), *map(tuple, b.tolist())) for v, b in zip(found.values, found.boxes, strict=True)}
    assert boxes == {
        (1, (0, 2), (0, 2), (0, 2)),
        (1, (5, 8), (2, 7), (3, 5)),
        (2, (2, 3), (1, 2), (1, 2)),
    }
    assert found.counts({"a": 1, "b": 2, "c": 3}) == {"a": 2, "b": 1, "c": 0}
    # Half an extent, or a voxel.
    large = found.only(found.boxes[:, 0, 0] == 5)
    assert finest(large, (1.0, 1.0, 4.0)).tolist() == [[1.5, 2.5, 4.0]]
    assert len(find_instances(labels, [3]).values) == 0


def test_centres_by_hand() -> None:
    """That of a row of three is its middle; specks are their own."""
    mask = np.zeros((9, 8, 7), bool)
    mask[1:4, 2, 3] = True
    mask[7, 5, 5] = mask[7, 5, 1] = True
    assert sorted(find_centres(mask).tolist()) == [[2, 2, 3], [7, 5, 1], [7, 5, 5]]
    assert find_centres(mask & False).shape == (0, 3)


@pytest.mark.parametrize("axis", range(3))
def test_specks_in_one_row(tmp_path: Path, axis: int) -> None:
    """Their box is one voxel thin, where cc3d fails."""
    label = np.zeros((12, 12, 12), np.uint8)
    for number in (2, 4, 7):
        place = [5, 5, 5]
        place[axis] = number
        label[tuple(place)] = 1
    assert len(find_centres(label > 0)) == len(find_instances(label, [1]).values) == 3
    image = np.random.default_rng(0).integers(0, 90, label.shape).astype(np.int16)
    for name, data in (("image", image), ("label", label)):
        write_volume(Volume(data, np.diag([1.0, 2, 3, 1])), tmp_path / f"{name}.nii.gz")
    crop_case(
        [tmp_path / "image.nii.gz"],
        tmp_path / "label.nii.gz",
        None,
        None,
        Crop(to="none"),
        {"a": 1},
        tmp_path,
    )
    assert json.loads((tmp_path / "crop.json").read_text())["lesions_mm"] == [[1, 2, 3]] * 3
    cache_case("c", tmp_path, Cache(), {"a": 1}, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        assert sorted(file["centre/a"][()][:, axis].tolist()) == [2, 4, 7]


@pytest.mark.parametrize("seed", range(4))
def test_part_of_a_grid_equals_the_whole_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, (23, 17, 12)).repeat(2, 0).repeat(3, 1).astype(np.uint8)
    shape = int3(random.integers(5, 40, 3))
    whole = resample_labels(labels, shape)
    start = [int(random.integers(0, n)) for n in shape]
    size = [int(random.integers(1, n - s + 1)) for n, s in zip(shape, start, strict=True)]
    box = Box(int3(start), int3(size))
    assert (resample_labels_within(labels, shape, box) == whole[box.slices]).mean() > 0.999


@pytest.mark.parametrize("seed", range(3))
def test_lost_instances_are_those_without_a_voxel(seed: int) -> None:
    """Against components of the resampled map, with instances too far apart to merge."""
    random = np.random.default_rng(seed)
    labels = np.zeros((60, 60, 60), np.uint8)
    for x in range(0, 60, 15):
        for y in range(0, 60, 15):
            edges = random.integers(1, 6, 3)
            at = np.array([x, y, int(random.integers(0, 50))]) + random.integers(2, 5, 3)
            labels[tuple(slice(a, a + n) for a, n in zip(at, edges, strict=True))] = 1 + (x + y) % 2
    found = find_instances(labels, [1, 2])
    lost = lost_in_grid(found, labels, (20, 20, 20))
    kept = cc3d.connected_components(resample_labels(labels, (20, 20, 20)), connectivity=26).max()
    assert 0 < lost.sum() < len(lost) == 16
    assert len(lost) - lost.sum() == kept
    # The spacing that the text names keeps all of them.
    text = losses(Volume(labels, np.eye(4)), (20, 20, 20), {"a": 1, "b": 2}).text
    named = re.search(r"at 3 × 3 × 3 mm; ([\d.]+) × ([\d.]+) × ([\d.]+) mm keeps them", text)
    assert named, text
    step = tuple(float(edge) for edge in named.groups())
    whole = Lineage.of(int3(labels.shape), np.eye(4), Box((0, 0, 0), int3(labels.shape)))
    shape = whole.resized(None, (step[0], step[1], step[2])).shape
    assert cc3d.connected_components(resample_labels(labels, shape), connectivity=26).max() == 16


def test_nothing_is_lost_without_resampling_and_large_ones_are_found() -> None:
    labels = np.zeros((80, 70, 60), np.uint8)
    labels[5:75, 4:66, 3:55] = 1
    found = losses(Volume(labels, np.eye(4)), (40, 35, 30), {"a": 1})
    assert (found.instances, found.lost, found.text) == ({"a": 1}, {"a": 0}, "")
    labels[:] = 0
    labels[3, 3, 3] = 1
    assert losses(Volume(labels, np.eye(4)), (80, 70, 60), {"a": 1}).text == ""


def test_lost_instances_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One lesion of 2.8 × 2.8 × 3 mm, one of 14 × 14 × 15 mm, and one outside the crop's mask."""
    caplog.set_level(logging.INFO)
    affine = np.diag([-0.7, -0.7, 1, 1])
    label = np.zeros((48, 48, 40), np.uint8)
    label[20:24, 20:24, 10:13] = 1
    label[4:24, 24:44, 20:35] = 1
    label[40:46, 2:8, 2:10] = 1
    inside = np.zeros(label.shape, np.uint8)
    inside[2:30, 10:46, 5:38] = 1
    image = np.random.default_rng(0).integers(0, 90, label.shape).astype(np.int16)
    paths = {}
    files: dict[str, np.ndarray] = {"image": image, "label": label, "inside": inside}
    for name, data in files.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        write_volume(Volume(data, affine), paths[name])
    labels = {"tumour": 1, "node": 2}
    crop = Crop(to="region", margin_mm=0)
    crop_case([paths["image"]], paths["label"], None, Masks(paths["inside"]), crop, labels, tmp_path)
    cache_case("p7", tmp_path, Cache(spacing=(3, 3, 3)), labels, tmp_path / "c.h5")
    with open_case(tmp_path / "c.h5") as file:
        assert lost_of(file) == {"tumour": {"instances": 3, "cut_away": 1, "resampled": 1}}
        assert len(file["foreground"]["tumour"]) > 0
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    # 28 × 36 voxels of 0.7 mm become 7 × 8.
    assert said == [
        "case p7: 1 of 2 instances of tumour lost: no voxel is left of them at 2.8 × 3.15 × 3 mm; "
        "1.4 × 1.4 × 1.5 mm keeps them (cache.spacing)",
        "case p7: 1 of 3 instances of tumour lie outside the crop",
    ]
    targets = Targets(labels)
    check_labels([str(tmp_path / "c.h5")], targets)
    # If nothing else is left, nothing can be learnt.
    label[4:24, 24:44, 20:35] = 0
    write_volume(Volume(label, affine), paths["label"])
    crop_case([paths["image"]], paths["label"], None, Masks(paths["inside"]), crop, labels, tmp_path)
    assert json.loads((tmp_path / "crop.json").read_text())["instances"] == {"tumour": 2, "node": 0}
    cache_case("p7", tmp_path, Cache(spacing=(3, 3, 3)), labels, tmp_path / "c.h5")
    with pytest.raises(CaseError, match="lost all labelled voxels of the 1 training cases"):
        check_labels([str(tmp_path / "c.h5")], targets)
