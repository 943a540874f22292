"""Straight lines of voxels."""

from __future__ import annotations

import numpy as np
from skimage.draw import line_nd


def line_voxels(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The voxels (n, 3) of a straight line, with both ends."""
    voxels: np.ndarray = np.stack(line_nd(start, end, endpoint=True), 1)
    return voxels
