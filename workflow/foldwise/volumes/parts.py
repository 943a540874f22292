"""Parts of a mask that do not touch: which to remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.geometry import bounding_box
from foldwise.volumes.grids import voxel_ml_of


@dataclass(frozen=True)
class Islands:
    """Parts to remove.

    Attributes:
        indices: flat indices of their voxels.
        parts: number of parts to remove.
        left: number of parts that stay.
        ml: volume to remove.
    """

    indices: np.ndarray
    parts: int
    left: int
    ml: float


def apart_from(mask: np.ndarray, affine: np.ndarray, voxel: Sequence[int]) -> Islands:
    """All parts but the one at a voxel.

    Voxels that touch by a face, an edge or a corner are of one part.

    Args:
        mask: (x, y, z) bool.
        affine: of the grid.
        voxel: of the part that stays.

    Raises:
        CaseError: the voxel is not in the mask.
    """
    if not mask[tuple(voxel)]:
        raise CaseError("the object is not there; point at the part that stays")
    parts, start = _parts(mask)
    kept = parts[tuple(np.subtract(voxel, start))]
    sizes = np.bincount(parts.ravel())
    return _islands(mask, affine, parts, start, (sizes > 0) & (np.arange(len(sizes)) != kept))


def smaller_than(mask: np.ndarray, affine: np.ndarray, ml: float) -> Islands:
    """All parts whose volume is less than some mL; parts as in `apart_from`.

    Raises:
        CaseError: the mask is empty, or no part would be left.
    """
    if not mask.any():
        raise CaseError("the object has no voxels")
    parts, start = _parts(mask)
    sizes = np.bincount(parts.ravel()) * voxel_ml_of(affine)
    small = (sizes > 0) & (sizes < ml)
    if small[1:].all():
        raise CaseError(
            f"all parts are smaller than {ml:g} mL, the largest has {sizes[1:].max():.3g} mL; give a smaller "
            f"volume, or remove the object"
        )
    return _islands(mask, affine, parts, start, small)


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each voxel's part, from 1, within a box; and the box's first voxel."""
    box = bounding_box(mask, 0, (1.0, 1.0, 1.0)).slices
    # cc3d fails on some arrays that are one voxel thin.
    padded = np.ascontiguousarray(np.pad(mask[box], 1))
    parts: np.ndarray = cc3d.connected_components(padded, connectivity=26)[1:-1, 1:-1, 1:-1]
    return parts, np.array([side.start for side in box])


def _islands(
    mask: np.ndarray, affine: np.ndarray, parts: np.ndarray, start: np.ndarray, gone: np.ndarray
) -> Islands:
    gone[0] = False
    places = np.argwhere(gone[parts]) + start
    indices = np.ravel_multi_index(tuple(places.T), mask.shape)
    there = int(parts.max())
    return Islands(indices, int(gone.sum()), there - int(gone.sum()), len(indices) * voxel_ml_of(affine))
