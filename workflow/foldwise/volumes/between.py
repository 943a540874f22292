"""Filling an object's mask between slices on which it is known."""

from __future__ import annotations

import itertools

import numpy as np

from foldwise.video.regions import propagate


def between_slices(mask: np.ndarray, axis: int) -> np.ndarray:
    """A mask with every gap between filled slices filled, by shape-based interpolation (Raya and Udupa 1990).

    Slices with any voxel, and those before the first and after the last, stay as they are.

    Args:
        mask: (x, y, z) bool.
        axis: across the slices.
    """
    slices = np.moveaxis(mask, axis, 0)
    filled = slices.copy()
    for first, last in itertools.pairwise(np.flatnonzero(slices.any((1, 2))).tolist()):
        if last > first + 1:
            filled[first : last + 1] = propagate(
                {0: slices[first], last - first: slices[last]}, last - first + 1
            )
    return np.moveaxis(filled, 0, axis)
