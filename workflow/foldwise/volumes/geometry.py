"""Boxes, crops and resampling that keep the affine exact, and the transformation back to the source grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.transform import resize

from foldwise.volumes.volume import Volume

Int3 = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A box of whole voxels: first corner and shape, axes as stored (x, y, z)."""

    start: Int3
    shape: Int3

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of an array."""
        x, y, z = (slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))
        return x, y, z


def bounding_box(mask: np.ndarray, margin_mm: float, spacing: tuple[float, ...]) -> Box:
    """The smallest box around a mask's non-zero voxels, grown by a margin and clipped to the array.

    Raises:
        ValueError: the mask is empty.
    """
    start, stop = [], []
    for axis, step in enumerate(spacing):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not filled.size:
            raise ValueError("the mask is empty")
        grow = int(np.ceil(margin_mm / step - 1e-3))  # stored steps are rounded
        start.append(max(0, int(filled[0]) - grow))
        stop.append(min(mask.shape[axis], int(filled[-1]) + 1 + grow))
    return Box(int3(start), int3(np.subtract(stop, start)))


def crop(volume: Volume, box: Box) -> Volume:
    """Crop to a box; the affine's origin moves to the box's first voxel: t' = R·start + t."""
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ np.asarray(box.start, float)
    return Volume(volume.data[box.slices], affine)


@dataclass(frozen=True)
class Lineage:
    """How a cached grid was derived from its source: crop, then orientation to RAS, then resampling.

    Attributes:
        source_shape: voxels of the source (x, y, z).
        source_affine: the source's affine, 16 numbers row by row.
        box: the kept part of the source.
        shape: voxels of the cached grid, RAS axes.
    """

    source_shape: Int3
    source_affine: tuple[float, ...]
    box: Box
    shape: Int3

    @property
    def affine(self) -> np.ndarray:
        """The source's affine, 4×4."""
        return np.array(self.source_affine).reshape(4, 4)

    @property
    def cached_affine(self) -> np.ndarray:
        """The affine of the cached grid."""
        cropped = crop(Volume(np.empty(self.source_shape, bool), self.affine), self.box)
        return _resized_affine(cropped.oriented().affine, self._turned_shape, self.shape)

    @property
    def _turned_shape(self) -> Int3:
        return int3(np.array(self.box.shape)[np.argsort(io_orientation(self.affine)[:, 0])])

    def to_box(self, data: np.ndarray) -> np.ndarray:
        """Map values of the cached grid back to the box in the source's orientation.

        Args:
            data: (x, y, z) on the cached grid; floats are interpolated linearly, other types are
                copied by nearest neighbour. Nothing is interpolated if the grid was not resampled.
        """
        turned = resample(data, self._turned_shape)
        back = ornt_transform(axcodes2ornt(("R", "A", "S")), io_orientation(self.affine))
        return apply_orientation(turned, back)

    def to_source(self, box_data: np.ndarray, fill: float = 0) -> Volume:
        """Paste values of the box into the source grid; `fill` elsewhere."""
        full = np.full(self.source_shape, fill, box_data.dtype)
        full[self.box.slices] = box_data
        return Volume(full, self.affine)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and HDF5 attributes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        box = Box(int3(values["box"]["start"]), int3(values["box"]["shape"]))
        return cls(
            int3(values["source_shape"]),
            tuple(values["source_affine"]),
            box,
            int3(values["shape"]),
        )


def grid_for(volume: Volume, spacing: tuple[float, float, float] | None) -> Int3:
    """Shape of a volume resampled to `spacing` (mm); its current shape for None."""
    if spacing is None:
        return int3(volume.data.shape)
    extent = np.array(volume.data.shape) * volume.spacing
    return int3(np.maximum(1, np.rint(extent / spacing)))


def resample(data: np.ndarray, shape: Int3) -> np.ndarray:
    """Resample an array to another shape of the same extent (voxel borders, not centres, coincide).

    Floats are interpolated linearly, with a Gaussian against aliasing if the grid becomes coarser;
    other types are taken from the nearest voxel.
    """
    if data.shape == tuple(shape):
        return data
    linear = np.issubdtype(data.dtype, np.floating)
    resampled = resize(
        data,
        shape,
        order=1 if linear else 0,
        mode="edge",
        anti_aliasing=linear,
        preserve_range=True,
    )
    return resampled.astype(data.dtype, copy=False)


def resample_labels(labels: np.ndarray, shape: Int3) -> np.ndarray:
    """Resample a label map: the share of each value, 0 too, linearly, and then the value with the largest.

    This is smoother than nearest neighbour. A value needs a larger share than 0 has.
    """
    if labels.shape == tuple(shape):
        return labels
    return _largest(labels, lambda mask: resample(mask.astype(np.float32), shape), shape)


def resample_labels_within(labels: np.ndarray, shape: Int3, box: Box) -> np.ndarray:
    """A box of what `resample_labels` gives, computed from the voxels around it alone."""
    if labels.shape == tuple(shape):
        return labels[box.slices]
    factors = np.divide(labels.shape, shape)
    # As in skimage's resize: a Gaussian, cut off at four standard deviations, and then linearly.
    sigmas = np.maximum(0, (factors - 1) / 2)
    places, around = [], []
    for axis in range(3):
        centres = (np.arange(box.shape[axis]) + box.start[axis] + 0.5) * factors[axis] - 0.5
        reach = int(4 * sigmas[axis] + 0.5) + 1
        first = max(0, int(centres[0]) - reach)
        around.append(slice(first, int(centres[-1]) + reach + 2))
        places.append(centres - first)
    grid = np.meshgrid(*places, indexing="ij")

    def shares(mask: np.ndarray) -> np.ndarray:
        smooth = gaussian_filter(mask.astype(np.float32), sigmas, mode="nearest")
        found: np.ndarray = map_coordinates(smooth, grid, order=1, mode="nearest")
        return found

    return _largest(labels[tuple(around)], shares, box.shape)


def _largest(labels: np.ndarray, shares: Callable[[np.ndarray], np.ndarray], shape: Int3) -> np.ndarray:
    """The value with the largest share, from a function of the mask of each."""
    best, rest = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    largest = np.zeros(shape, labels.dtype)
    for value in np.unique(labels[labels > 0]):
        share = shares(labels == value)
        largest[share > best] = value
        np.maximum(best, share, out=best)
        rest -= share
    largest[best <= rest] = 0
    return largest


def resized(volume: Volume, shape: Int3) -> Volume:
    """Resample a volume to a shape: its extent is kept, so the step is extent/voxels."""
    affine = _resized_affine(volume.affine, volume.data.shape, shape)
    return Volume(resample(volume.data, shape), affine)


def _resized_affine(affine: np.ndarray, old: tuple[int, ...], new: tuple[int, ...]) -> np.ndarray:
    factor = np.array(old) / np.array(new)
    scale = np.diag([*factor, 1.0])
    # The first voxel's centre moves because the borders stay: half a new voxel minus half an old one.
    scale[:3, 3] = (factor - 1) / 2
    return affine @ scale


def int3(values: Any) -> Int3:
    """Three integers as a tuple."""
    x, y, z = (int(value) for value in values)
    return x, y, z
