"""Masks and grey values of planes: distances, components, windows and coarser grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, zoom

Window = tuple[slice, ...]
# Farther than any voxel. mm.
FAR = 1e3


def signed_mm(mask: np.ndarray, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Distance of each voxel from the border of a mask in mm, negative outside; ±`FAR` if there is none."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, FAR if mask.all() else -FAR, np.float32)
    half = min(spacing) / 2
    within = distance_transform_edt(mask, sampling=spacing)
    beyond = distance_transform_edt(~mask, sampling=spacing)
    return np.where(mask, within - half, half - beyond).astype(np.float32)


def depth_mm(mask: np.ndarray, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Distance of each pixel of a mask on a plane from the nearest one outside, also beyond the plane. mm."""
    depth: np.ndarray = distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1]
    return depth


def radius_mm(mask: np.ndarray, spacing: Sequence[float] | np.ndarray) -> float:
    """Radius of a disc as large as a mask on a plane. mm."""
    return float(np.sqrt(mask.sum() * np.prod(spacing) / np.pi))


def reachable(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected components of a mask (two dimensions) that contain seeds; nothing if none does."""
    parts = cc3d.connected_components(mask.astype(np.uint8), connectivity=4)
    kept = np.unique(parts[seeds & mask])
    return np.isin(parts, kept[kept > 0])


def window(mask: np.ndarray, margin: Sequence[int] | np.ndarray) -> Window:
    """The box around a mask and a margin in voxels, within the array."""
    where = np.argwhere(mask)
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + margin + 1, mask.shape)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))


def pooled(plane: np.ndarray, factor: int, how: Callable[..., np.ndarray] = np.mean) -> np.ndarray:
    """Blocks of factor × factor pixels of the last two axes, joined; those at the end are filled up."""
    if factor == 1:
        return plane
    rows, columns = plane.shape[-2:]
    pads = [(0, 0)] * (plane.ndim - 2) + [(0, -rows % factor), (0, -columns % factor)]
    full = np.pad(plane, pads, mode="edge")
    blocks = (full.shape[-2] // factor, factor, full.shape[-1] // factor, factor)
    return how(full.reshape(*plane.shape[:-2], *blocks), axis=(-3, -1))


def enlarged(plane: np.ndarray, factor: int, shape: Sequence[int]) -> np.ndarray:
    """The inverse of `pooled`, linearly interpolated; `shape`: rows and columns of the result."""
    if factor == 1:
        return plane
    larger: np.ndarray = zoom(plane, factor, order=1, grid_mode=True, mode="nearest")
    return larger[: shape[0], : shape[1]]


def noise_of(image: np.ndarray) -> np.ndarray:
    """Grey values of each channel that count as different: (channels, 1, 1).

    Twice the robust standard deviation of the differences between neighbours, and at least a share of the
    contrast, since generated or filtered images have no noise.
    """
    share, factor = 0.02, 2 * 1.4826
    noise = []
    for channel in image:
        steps = np.concatenate([np.abs(np.diff(channel, axis=axis)).ravel() for axis in (0, 1)])
        typical = float(np.median(steps)) if len(steps) else 0.0
        noise.append(max(factor * typical, 2 * share * float(channel.std()), 1e-6))
    return np.array(noise, np.float32)[:, None, None]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 0 if both are empty."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def beyond(
    mask: np.ndarray, middle: np.ndarray, click: np.ndarray, spacing: Sequence[float] | np.ndarray
) -> np.ndarray:
    """The part of a mask on the other side of the border between an object's middle and a click outside.

    The click is in the middle of an excess, so the border is as far from it as it is deep in the mask, at
    most half of the way. Elsewhere the distances from both have the ratio that they have there: a circle of
    Apollonius.

    Args:
        mask: (rows, columns) bool.
        middle: (rows, columns) bool: where the object is. What is not half as deep in the mask as the click
            is at its border, not in its middle; if that is all, nothing is beyond.
        click: (rows, columns) bool, not empty, within the mask.
        spacing: mm between rows and between columns.
    """
    depth = depth_mm(mask, spacing)
    middle = middle & (depth >= depth[click].max() / 2)
    if not middle.any():
        return np.zeros(mask.shape, bool)
    within = distance_transform_edt(~middle, sampling=spacing)
    away = distance_transform_edt(~click, sampling=spacing)
    apart = float(within[click].min())
    deep = min(float(depth[click].max()), apart / 2)
    return np.asarray(mask & (away * (apart - deep) < within * deep))
