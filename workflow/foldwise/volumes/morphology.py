"""Morphology of masks in mm, and masks on coarser grids."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.morphology import convex_hull_image

from foldwise.volumes.geometry import bounding_box

Spacing = tuple[float, ...]


def dilated(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Dilation by a ball, in mm."""
    if not mask.any():
        return mask
    whole = np.zeros_like(mask)
    near = bounding_box(mask, radius, spacing).slices
    whole[near] = distance(~mask[near], spacing) <= radius
    return whole


def eroded(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Erosion by a ball, in mm; the array's border does not erode."""
    if mask.all() or not mask.any():
        return mask
    whole = np.zeros_like(mask)
    near = bounding_box(mask, min(spacing), spacing).slices  # with a voxel of background on each side
    part = mask[near]
    whole[near] = part if part.all() else distance(part, spacing) > radius
    return whole


def distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Distance of every voxel of a mask to the nearest voxel outside it, in mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask (x, y, z) with the holes of its axial slices filled."""
    whole = np.empty_like(mask)
    for z in range(mask.shape[2]):
        whole[:, :, z] = ndimage.binary_fill_holes(mask[:, :, z])
    return whole


def hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of a mask's voxels (x, y, z): voxels whose centre is at most half a voxel outside."""
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    try:
        found = ConvexHull(surface)
    except QhullError:  # too few slices for a body
        whole = np.zeros_like(mask)
        for place in np.flatnonzero(mask.any(axis=(0, 1))):
            whole[:, :, place] = convex_hull_image(mask[:, :, place])
        return whole
    # Each half-space bounds a column's third coordinate from above or from below, or the whole column.
    x, y, z = np.ogrid[: mask.shape[0], : mask.shape[1], : mask.shape[2]]
    above, below = np.full(mask.shape[:2], np.inf), np.full(mask.shape[:2], -np.inf)
    for a, b, c, offset in np.unique(found.equations.round(9), axis=0):
        left = 0.5 - offset - a * x[..., 0] - b * y[..., 0]
        if c > 0:
            above = np.minimum(above, left / c)
        elif c < 0:
            below = np.maximum(below, left / c)
        else:
            above = np.where(left < 0, -np.inf, above)
    return np.asarray((z >= below[..., None]) & (z <= above[..., None]))


def enlarged(mask: np.ndarray, factors: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Blocks back to voxels."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.repeat(mask, factor, axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]
