"""Parts of masks, against counts by hand and scipy's labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from foldwise.files import CaseError
from foldwise.volumes.parts import apart_from, smaller_than

# A voxel has 6 mm³.
AFFINE = np.diag([1.0, 2, 3, 1])


def mask() -> np.ndarray:
    """A cube of 27 voxels with one that touches its corner, a bar of 4, and a voxel."""
    made = np.zeros((12, 10, 8), bool)
    made[1:4, 1:4, 1:4] = made[4, 4, 4] = True
    made[8, 2:6, 6] = made[11, 9, 7] = True
    return made


def test_the_part_at_a_voxel_stays() -> None:
    for voxel, gone in (((4, 4, 4), 5), ((8, 3, 6), 29), ((11, 9, 7), 32)):
        found = apart_from(mask(), AFFINE, voxel)
        assert (len(found.indices), found.parts, found.left) == (gone, 2, 1)
        assert found.ml == pytest.approx(gone * 0.006)
        left = mask()
        left.flat[found.indices] = False
        assert left[voxel]
        assert ndimage.label(left, np.ones((3, 3, 3)))[1] == 1
    with pytest.raises(CaseError, match="not there"):
        apart_from(mask(), AFFINE, (0, 0, 0))


@pytest.mark.parametrize(("ml", "parts", "voxels"), [(0, 0, 0), (0.006, 0, 0), (0.0061, 1, 1), (0.1, 2, 5)])
def test_small_parts_go(ml: float, parts: int, voxels: int) -> None:
    found = smaller_than(mask(), AFFINE, ml)
    assert (found.parts, found.left, len(found.indices)) == (parts, 3 - parts, voxels)
    assert mask().flat[found.indices].all()


def test_something_is_left() -> None:
    with pytest.raises(CaseError, match=r"all parts are smaller than 1 mL, the largest has 0\.168 mL"):
        smaller_than(mask(), AFFINE, 1)
    with pytest.raises(CaseError, match="no voxels"):
        smaller_than(mask() & False, AFFINE, 1)


def test_one_voxel_and_thin_arrays() -> None:
    for shape in ((1, 1, 1), (7, 1, 1), (1, 7, 9)):
        found = apart_from(np.ones(shape, bool), AFFINE, (0, 0, 0))
        assert (found.parts, found.left) == (0, 1)
