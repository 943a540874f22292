"""Voxels of a file on the grid of a scan: turned and cut without a change of any value, or resampled."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from foldwise.files import CaseError
from foldwise.volumes.grids import corners, turn_of
from foldwise.volumes.volume import Header, Volume, same_grid


class OtherGridError(CaseError):
    """A label map whose voxels are not those of the scan; it may be resampled."""


def turned(found: Header, grid: Header | Volume) -> np.ndarray | None:
    """Voxel index of a file to voxel index of a grid, 4×4, of whole numbers and without scaling.

    None if the file's voxels are not voxels of the grid, or of its continuation beyond its borders.
    """
    to_grid = np.rint(np.linalg.inv(grid.affine) @ found.affine)
    steps = np.abs(to_grid[:3, :3])
    if (steps.sum(0) != 1).any() or (steps.sum(1) != 1).any():
        return None
    there = Header(found.shape[:3], grid.affine @ to_grid, found.dtype)
    return to_grid.astype(int) if same_grid(there, found) else None


def laid(data: np.ndarray, to_grid: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """A file's voxels on a grid, 0 where it has none; and the number of those other than 0 beyond the grid.

    Args:
        data: (x, y, z) of the file.
        to_grid: from `turned`.
        shape: of the grid.
    """
    order = np.abs(to_grid[:3, :3]).argmax(1)
    first, last = (to_grid[:3] @ [*corner, 1] for corner in ((0, 0, 0), np.subtract(data.shape, 1)))
    start = np.minimum(first, last)
    flips = tuple(axis for axis in range(3) if to_grid[axis, order[axis]] < 0)
    part = np.flip(data.transpose(order), flips)
    low, high = np.maximum(start, 0), np.minimum(start + part.shape, shape)
    # In the order of memory that the file has: copies across it take seconds.
    whole = np.zeros_like(part, shape=shape)
    if (high > low).all():
        here = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
        whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = part[here]
    return whole, int(np.count_nonzero(data)) - int(np.count_nonzero(whole))


def nearest(data: np.ndarray, affine: np.ndarray, grid: Header) -> np.ndarray:
    """The value of the file's nearest voxel at every voxel of a grid; 0 outside the file.

    Args:
        data: (x, y, z) of the file.
        affine: of the file.
        grid: the grid; either may be sheared.
    """
    to_file = np.linalg.inv(affine) @ grid.affine
    found: np.ndarray = ndimage.affine_transform(
        data, to_file[:3, :3], to_file[:3, 3], tuple(grid.shape[:3]), order=0, mode="grid-constant"
    )
    return found


def described(grid: Header) -> str:
    """A grid in words: size, spacing, directions of its axes, and its extent in the patient."""
    size = "×".join(map(str, grid.shape[:3]))
    spacing = "×".join(f"{edge:.4g}" for edge in np.linalg.norm(grid.affine[:3, :3], axis=0))
    letters = "".join("LRPAIS"[2 * axis + (way > 0)] for axis, way in turn_of(grid.affine))
    reached = corners(grid.affine, grid.shape, 0.5)
    extent = ", ".join(
        f"{axis} {low:.1f} to {high:.1f}"
        for axis, low, high in zip("xyz", reached.min(0), reached.max(0), strict=True)
    )
    return f"{size} voxels of {spacing} mm, {letters}, {extent} mm"
