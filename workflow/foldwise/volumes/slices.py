"""Slices of a volume along any axis, and square network inputs cut from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

AXES = "xyz"


def plane(axis: str) -> tuple[int, int]:
    """The two axes of a volume (x, y, z) that are rows and columns of a slice across `axis`."""
    rows, columns = (number for number in range(3) if number != AXES.index(axis))
    return rows, columns


@dataclass(frozen=True)
class Window:
    """A box of a slice's voxels as a square input: resized with its proportions in mm, and centred.

    Attributes:
        start: first row and column of the box; may lie outside the slice.
        shape: rows and columns of the box.
        inner: rows and columns of the box in the input.
        size: edge of the input.
    """

    start: tuple[int, int]
    shape: tuple[int, int]
    inner: tuple[int, int]
    size: int

    @classmethod
    def round(
        cls, start: tuple[int, int], shape: tuple[int, int], spacing: tuple[float, float], size: int
    ) -> Window:
        """The window of a box: its longer side in mm fills the input.

        Args:
            start: first row and column.
            shape: rows and columns.
            spacing: mm between rows and between columns.
            size: edge of the input.
        """
        extent = np.multiply(shape, spacing)
        rows, columns = np.clip(np.rint(size * extent / extent.max()), 1, size).astype(int)
        return cls(start, shape, (int(rows), int(columns)), size)

    @property
    def _pad(self) -> tuple[int, int]:
        return (self.size - self.inner[0]) // 2, (self.size - self.inner[1]) // 2

    def to_input(self, image: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """(n, channels, rows, columns) of whole slices to (n, channels, size, size).

        Smoothed if it becomes coarser; `fill` is used around the box and beyond the slice.
        """
        rows, columns = image.shape[2:]
        top, left = self.start
        bottom, right = top + self.shape[0], left + self.shape[1]
        cut = image[:, :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        beyond = (max(-left, 0), max(right - columns, 0), max(-top, 0), max(bottom - rows, 0))
        if any(beyond):
            cut = F.pad(cut, beyond, value=fill)
        if tuple(cut.shape[2:]) != self.inner:
            cut = F.interpolate(cut, self.inner, mode="bilinear", antialias=True)
        above, before = self._pad
        around = (before, self.size - self.inner[1] - before, above, self.size - self.inner[0] - above)
        return F.pad(cut, around, value=fill)

    def to_slice(self, maps: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(n, channels, size, size) back to (n, channels, rows, columns); 0 outside the box."""
        above, before = self._pad
        cut = maps[:, :, above : above + self.inner[0], before : before + self.inner[1]]
        if tuple(cut.shape[2:]) != self.shape:
            cut = F.interpolate(cut, self.shape, mode="bilinear", antialias=True)
        top, left = self.start
        bottom, right = top + self.shape[0], left + self.shape[1]
        return F.pad(cut, (left, columns - right, top, rows - bottom))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) as row and column of a slice's voxels, in pixels of the input."""
        scale = np.divide(self.inner, self.shape)
        pixels: np.ndarray = (points - self.start + 0.5) * scale - 0.5 + self._pad
        return pixels
