"""Outlines of masks: areas and insides are those of the voxels, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import points_in_poly

from foldwise.volumes.outlines import outlines


def area(corners: np.ndarray) -> float:
    """By the shoelace formula; positive if counter-clockwise."""
    (x, y), (next_x, next_y) = corners.T, np.roll(corners, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)


def test_a_voxel_and_a_bar() -> None:
    mask = np.zeros((6, 5), bool)
    mask[3, 2] = True
    mask[0, 0:3] = True
    bar, voxel = outlines(mask)
    assert bar.tolist() == [[-0.5, -0.5], [0.5, -0.5], [0.5, 2.5], [-0.5, 2.5]]
    assert voxel.tolist() == [[2.5, 1.5], [3.5, 1.5], [3.5, 2.5], [2.5, 2.5]]


def test_a_ring_is_one_contour_with_a_channel() -> None:
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    (ring,) = outlines(mask)
    # Around the outside, at (-0.5, 0.5) along the channel, around the hole, and back.
    assert ring.tolist() == [
        *([-0.5, -0.5], [2.5, -0.5], [2.5, 2.5], [-0.5, 2.5]),
        *([-0.5, 0.5], [0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5], [-0.5, 0.5]),
    ]
    assert area(ring) == 8


def test_voxels_that_touch_at_a_corner_are_parts_of_their_own() -> None:
    assert [area(part) for part in outlines(np.eye(3, dtype=bool))] == [1, 1, 1]


def test_an_empty_slice() -> None:
    assert outlines(np.zeros((4, 4), bool)) == []


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.8, 0.95])
def test_any_mask_comes_back(share: float) -> None:
    """Holes in holes, islands, corners that touch: by scikit-image, an odd number of windings is inside."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        mask = rng.random(rng.integers(1, 14, 2)) < share
        found = outlines(mask)
        centres = np.argwhere(np.ones_like(mask))
        windings = sum((points_in_poly(centres, part) for part in found), np.zeros(len(centres), int))
        assert np.array_equal(windings.reshape(mask.shape), mask)
        assert sum(map(area, found)) == mask.sum()
        steps = [np.diff(part, axis=0, append=part[:1]) for part in found]
        assert all(((step == 0).sum(1) == 1).all() for step in steps)
