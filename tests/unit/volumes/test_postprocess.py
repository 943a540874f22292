"""Post-processing against handmade label maps, and the rule that keeps a step."""

import math

import numpy as np
import pytest
from scipy.ndimage import label

from foldwise.volumes.postprocess import POSTPROCESSES, helps, largest_component, processed, text
from foldwise.volumes.settings import Step
from foldwise.volumes.targets import Targets
from synthetic import ball


def test_largest_component_per_class() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[ball(labels.shape, (8, 8, 8), 4)] = 2
    labels[ball(labels.shape, (22, 22, 22), 2)] = 2
    labels[ball(labels.shape, (8, 22, 8), 2)] = 7
    before = labels.copy()
    kept = largest_component(labels, Targets({"a": 2, "b": 7, "absent": 9}))
    assert (labels == before).all()
    assert kept.dtype == labels.dtype
    assert ((kept == 2) == ball(labels.shape, (8, 8, 8), 4)).all()
    assert ((kept == 7) == (labels == 7)).all()


def test_classes_are_connected_apart() -> None:
    """Two pieces of one class, joined only by a voxel of another, are two components."""
    labels = np.zeros((8, 1, 1), np.uint8)
    labels[:, 0, 0] = [1, 1, 1, 2, 1, 1, 0, 3]
    kept = largest_component(labels, Targets({"a": 1, "b": 2}))
    assert kept[:, 0, 0].tolist() == [1, 1, 1, 2, 0, 0, 0, 3]


def test_voxels_that_share_a_corner_are_joined() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    labels[5, 4:, 5] = 1
    kept = largest_component(labels, Targets({"a": 1}))
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_against_scipy(seed: int) -> None:
    """The reader returns label maps flipped and in Fortran order."""
    random = np.random.default_rng(seed)
    stored = np.asfortranarray(random.random((12, 14, 10)) < 0.08).astype(np.int16)
    labels = stored[::-1, :, ::-1]
    parts, _ = label(labels, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    largest = largest_component(labels, Targets({"a": 1}))
    kept = np.unique(parts[largest > 0])
    assert len(kept) == 1
    assert (largest > 0).sum() == sizes[kept[0] - 1] == sizes.max()


def test_nothing_to_keep() -> None:
    nothing = np.zeros((4, 5, 6), np.uint8)
    assert not largest_component(nothing, Targets({"a": 1})).any()


def test_steps_by_name() -> None:
    """Two components of one class, where adding another class makes the smaller one larger; and a hole."""
    labels = np.zeros((12, 5, 5), np.uint8)
    labels[:3, 1:4, 1:4] = 1
    labels[1, 2, 2] = 0
    labels[6:8, 1:4, 1:4] = 1
    labels[8:11, 1:4, 1:4] = 2
    targets = Targets({"a": 1, "b": 2})
    results = {name: step(labels, targets) for name, step in POSTPROCESSES.items()}
    assert [(results["largest_foreground"][part] > 0).sum() for part in (slice(0, 5), slice(5, 12))] == [
        0,
        45,
    ]
    assert [(results["largest_component"][part] == 1).sum() for part in (slice(0, 5), slice(5, 12))] == [
        26,
        0,
    ]
    assert (results["largest_component"] == 2).sum() == 27
    assert (results["fill_holes"] != labels).sum() == 1
    assert results["fill_holes"][1, 2, 2] == 1


@pytest.mark.parametrize("seed", range(4))
def test_small_components_against_scipy(seed: int) -> None:
    """Voxels of 0.3 × 0.5 × 2 mm; the volume that is named is itself kept."""
    random = np.random.default_rng(seed)
    labels = np.asfortranarray(random.random((12, 14, 10)) < 0.06).astype(np.int16)[::-1, :, ::-1] * 300
    before, voxel_ml = labels.copy(), 0.3 * 0.5 * 2 / 1000
    parts, _ = label(labels, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    for fewest in (2, 3, 5.4, 10_000):
        found = processed(labels, Targets({"a": 300}), {"remove_below_ml": fewest * voxel_ml}, voxel_ml)
        assert found.dtype == labels.dtype
        assert np.array_equal(found, np.where(sizes[parts] >= fewest, labels, 0))
    assert not processed(labels, Targets({"a": 300}), {"remove_below_ml": 1e308}, voxel_ml).any()
    assert np.array_equal(labels, before)


def test_small_components_of_each_class_and_region() -> None:
    labels = np.zeros((14, 1, 1), np.uint8)
    labels[:, 0, 0] = [1, 1, 1, 2, 2, 1, 0, 2, 2, 2, 0, 1, 1, 0]
    step: Step = {"remove_below_ml": 0.003}
    apart = processed(labels, Targets({"a": 1, "b": 2}), step, 0.001)
    assert apart[:, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 0, 0, 0, 0]
    nested = processed(labels, Targets({"a": 1, "b": 2}, {"whole": ("a", "b"), "core": ("b",)}), step, 0.001)
    assert nested[:, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 2, 2, 2, 0, 0, 0, 0]
    assert text(step) == "remove_below_ml: 0.003"


def test_regions_fall_back_to_the_region_round_them() -> None:
    """A stray core becomes oedema again; a stray whole tumour becomes background."""
    targets = Targets({"oedema": 2, "core": 1}, {"whole": ("oedema", "core"), "centre": ("core",)})
    labels = np.zeros((12, 1, 1), np.uint8)
    labels[:, 0, 0] = [2, 1, 1, 2, 2, 1, 2, 0, 0, 2, 1, 0]
    kept = largest_component(labels, targets)
    assert kept[:, 0, 0].tolist() == [2, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.5, 0.6], [0.6, 0.6], True),
        ([0.5, 0.6], [0.6, 0.5], False),
        ([0.5, 0.6], [0.5, 0.6], False),
        ([0.5, 0.6], [0.9, 0.1], False),
        ([0.5, math.nan], [0.6, 0.0], True),
        ([0.5, 0.9], [0.4, math.nan], False),
        ([math.nan], [math.nan], False),
        ([], [], False),
    ],
)
def test_a_step_is_kept_only_if_it_helps(before: list[float], after: list[float], expected: bool) -> None:
    assert helps(before, after) is expected
