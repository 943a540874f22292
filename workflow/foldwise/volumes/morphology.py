"""Morphology of masks in mm, and masks on coarser grids."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Spacing = tuple[float, ...]


def dilated(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Dilation by a ball, in mm."""
    if not mask.any():
        return mask
    return np.asarray(distance(~mask, spacing) <= radius)


def eroded(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Erosion by a ball, in mm; the array's border does not erode."""
    if mask.all():
        return mask
    return np.asarray(distance(mask, spacing) > radius)


def distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Distance of every voxel of a mask to the nearest voxel outside it, in mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask (x, y, z) with the holes of its axial slices filled."""
    whole = np.empty_like(mask)
    for z in range(mask.shape[2]):
        whole[:, :, z] = ndimage.binary_fill_holes(mask[:, :, z])
    return whole


def enlarged(mask: np.ndarray, factors: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Blocks back to voxels."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.repeat(mask, factor, axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]
