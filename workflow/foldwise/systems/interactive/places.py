"""Mapping between the voxels of a source file and the stack of slices that the networks see."""

from __future__ import annotations

import numpy as np
from nibabel.affines import apply_affine

from foldwise.volumes.geometry import Lineage
from foldwise.volumes.slices import AXES, plane


class Places:
    """Coordinates of a source (voxels as in its file) and of a stack (slice, row, column).

    Attributes:
        source_axis: the axis of the source (0 to 2) that is across the slices, at least approximately.
    """

    def __init__(self, lineage: Lineage, axis: str) -> None:
        """Store a cached grid's lineage and the slicing axis (x, y or z of RAS)."""
        order = [AXES.index(axis), *plane(axis)]
        self._order = order
        self._shape = tuple(lineage.shape[number] for number in order)
        self._to_cache = np.linalg.inv(lineage.cached_affine) @ lineage.affine
        self.source_axis = [ras for ras, _ in lineage.turn].index(AXES.index(axis))
        self._source_shape = lineage.source_shape

    def to_stack(self, voxels: np.ndarray) -> np.ndarray:
        """Source voxels (n, 3) as slice, row and column (n, 3); not rounded."""
        cached: np.ndarray = apply_affine(self._to_cache, np.asarray(voxels, float).reshape(-1, 3))
        return cached[:, self._order]

    def to_source(self, places: np.ndarray) -> np.ndarray:
        """The inverse of `to_stack`."""
        stack = np.asarray(places, float).reshape(-1, 3)
        cached = np.empty_like(stack)
        cached[:, self._order] = stack
        voxels: np.ndarray = apply_affine(np.linalg.inv(self._to_cache), cached)
        return voxels

    def slice_in_source(self, place: int) -> int:
        """The index along the source's axis of the slice nearest to a slice of the stack."""
        middle = [place, (self._shape[1] - 1) / 2, (self._shape[2] - 1) / 2]
        along = self.to_source(np.array(middle))[0, self.source_axis]
        return int(np.clip(np.rint(along), 0, self._source_shape[self.source_axis] - 1))

    def slice_of_source(self, index: int) -> int:
        """The slice of the stack nearest to an index along the source's axis; it may lie outside."""
        middle = (np.array(self._source_shape) - 1) / 2
        middle[self.source_axis] = index
        return int(np.rint(self.to_stack(middle)[0, 0]))
