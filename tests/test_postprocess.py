"""Post-processing against label maps made by hand, and the rule that keeps a step."""

import math

import numpy as np
import pytest
from scipy.ndimage import label

from foldwise.volumes.postprocess import POSTPROCESSES, helps, largest_component
from synthetic import ball


def test_largest_component_per_class() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[ball(labels.shape, (8, 8, 8), 4)] = 2
    labels[ball(labels.shape, (22, 22, 22), 2)] = 2
    labels[ball(labels.shape, (8, 22, 8), 2)] = 7
    before = labels.copy()
    made = largest_component(labels, {"a": 2, "b": 7, "absent": 9})
    assert (labels == before).all()
    assert made.dtype == labels.dtype
    assert ((made == 2) == ball(labels.shape, (8, 8, 8), 4)).all()
    assert ((made == 7) == (labels == 7)).all()


def test_classes_are_connected_apart() -> None:
    """Two pieces of one class, joined only by a voxel of another, are two components."""
    labels = np.zeros((8, 1, 1), np.uint8)
    labels[:, 0, 0] = [1, 1, 1, 2, 1, 1, 0, 3]
    made = largest_component(labels, {"a": 1, "b": 2})
    assert made[:, 0, 0].tolist() == [1, 1, 1, 2, 0, 0, 0, 3]


def test_voxels_that_share_a_corner_are_joined() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    labels[5, 4:, 5] = 1
    made = largest_component(labels, {"a": 1})
    assert np.argwhere(made).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_against_scipy(seed: int) -> None:
    """Label maps come flipped and in Fortran order from the reader."""
    random = np.random.default_rng(seed)
    stored = np.asfortranarray(random.random((12, 14, 10)) < 0.08).astype(np.int16)
    labels = stored[::-1, :, ::-1]
    parts, _ = label(labels, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    made = largest_component(labels, {"a": 1})
    kept = np.unique(parts[made > 0])
    assert len(kept) == 1
    assert (made > 0).sum() == sizes[kept[0] - 1] == sizes.max()


def test_nothing_to_keep() -> None:
    nothing = np.zeros((4, 5, 6), np.uint8)
    assert not largest_component(nothing, {"a": 1}).any()


def test_steps_by_name() -> None:
    labels = np.zeros((5, 1, 1), np.uint8)
    labels[:, 0, 0] = [1, 1, 0, 1, 0]
    made = {name: step(labels, {"a": 1})[:, 0, 0].tolist() for name, step in POSTPROCESSES.items()}
    assert made == {"none": [1, 1, 0, 1, 0], "largest_component": [1, 1, 0, 0, 0]}


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
