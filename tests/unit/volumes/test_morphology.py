"""Morphology in mm against SciPy's and scikit-image's on whole arrays."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.morphology import convex_hull_image

from foldwise.volumes.morphology import dilated, eroded, hull

SPACING = (1.3, 2.5, 2.0)


@pytest.mark.parametrize("seed", range(8))
def test_balls_within_the_box_of_a_mask(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((30, 25, 20), bool)
    x, y, z = random.integers(0, 12, 3)
    mask[x : x + 16, y : y + 11, z : z + 8] = random.random((16, 11, 8)) > 0.01
    radius = random.uniform(1, 9)
    assert (dilated(mask, SPACING, radius) == (distance_transform_edt(~mask, SPACING) <= radius)).all()
    assert (eroded(mask, SPACING, radius) == (distance_transform_edt(mask, SPACING) > radius)).all()


def test_nothing_and_everything() -> None:
    """The array's border does not erode."""
    for mask in (np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)):
        assert (dilated(mask, SPACING, 3) == mask).all()
        assert (eroded(mask, SPACING, 3) == mask).all()


def test_the_hull_is_scikit_images() -> None:
    """Up to voxels at its surface: scikit-image joins the voxels' edges, we their centres."""
    mask = np.random.default_rng(0).random((30, 25, 20)) > 0.999
    found, expected = hull(mask), convex_hull_image(mask)
    assert (found & mask == mask).all()
    assert (found ^ expected).sum() < 0.05 * expected.sum()
    flat = np.zeros_like(mask)
    flat[3:9, 4:20, 5] = True
    flat[5, 10, 5] = False
    assert hull(flat).sum() == 6 * 16
    assert not hull(flat)[:, :, :5].any()
