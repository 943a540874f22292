"""Boxes, crops and resampling that keep the affine exact, and the transformation back to the source grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from skimage.transform import resize

from foldwise.volumes.grids import Grid, Turn, is_sheared, spacing_of, straight_grid, turn_of
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

    Args:
        mask: (x, y, z).
        margin_mm: the margin.
        spacing: distance between the planes across each axis, in mm.

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
    """Crop to a box; the affine's origin moves to the box's first voxel."""
    return Volume(volume.data[box.slices], _shifted(volume.affine, box.start))


@dataclass(frozen=True)
class Lineage:
    """How a cached grid was derived from its source.

    The source is cropped, resampled to a straight grid if it is sheared, turned to RAS, and resampled to its
    final shape.

    Attributes:
        source_shape: voxels of the source (x, y, z).
        source_affine: the source's affine, 16 numbers row by row.
        box: the kept part of the source.
        shape: voxels of the cached grid, RAS axes.
        turn: how the axes are turned, decided once.
        straight: the straight grid around the box of a sheared source, else None.
    """

    source_shape: Int3
    source_affine: tuple[float, ...]
    box: Box
    shape: Int3
    turn: Turn
    straight: Grid | None = None

    @classmethod
    def of(cls, shape: Int3, affine: np.ndarray, box: Box, turn: Turn | None = None) -> Self:
        """The lineage of a grid that is not resampled to another spacing.

        Args:
            shape: voxels of the source.
            affine: of the source, 4×4.
            box: the kept part.
            turn: if it is decided already.
        """
        straight = straight_grid(_shifted(affine, box.start), box.shape) if is_sheared(affine) else None
        turn = turn or turn_of(affine if straight is None else straight.matrix)
        native = box.shape if straight is None else straight.shape
        return cls(shape, tuple(affine.ravel().tolist()), box, _turned(native, turn), turn, straight)

    @classmethod
    def of_crop(cls, facts: Mapping[str, Any]) -> Self:
        """The same from a crop.json; those of earlier versions have no turn."""
        box = Box(int3(facts["box"]["start"]), int3(facts["box"]["shape"]))
        turn = _read_turn(facts["turn"]) if "turn" in facts else None
        return cls.of(int3(facts["source_shape"]), np.reshape(facts["source_affine"], (4, 4)), box, turn)

    def resized(self, shape: Int3 | None, spacing: tuple[float, float, float] | None) -> Self:
        """The lineage of a grid of the same extent with another shape, or about another spacing in mm."""
        if spacing is not None:
            extent = np.multiply(self.shape, spacing_of(self.cached_affine))
            shape = int3(np.maximum(1, np.rint(extent / spacing)))
        return replace(self, shape=shape or self.shape)

    @property
    def affine(self) -> np.ndarray:
        """The source's affine, 4×4."""
        return np.array(self.source_affine).reshape(4, 4)

    @property
    def cached_affine(self) -> np.ndarray:
        """The affine of the cached grid."""
        grid = self._grid
        turned = grid.matrix @ inv_ornt_aff(self.turn, grid.shape)
        return _resized_affine(turned, self._native, self.shape)

    @property
    def resamples(self) -> bool:
        """Whether values are interpolated."""
        return self.straight is not None or self.shape != self._native

    @property
    def _grid(self) -> Grid:
        """The grid that is turned: of the box, or the straight one around it."""
        affine = _shifted(self.affine, self.box.start)
        return self.straight or Grid(self.box.shape, tuple(affine.ravel()))

    @property
    def _native(self) -> Int3:
        return _turned(self._grid.shape, self.turn)

    def to_cache(self, data: np.ndarray, fill: float = 0) -> np.ndarray:
        """Map values of the box to the cached grid.

        Args:
            data: (x, y, z) in the box; floats are interpolated linearly, other types are copied by nearest
                neighbour. Nothing is interpolated if the grid was not resampled.
            fill: value of the voxels around a sheared box.
        """
        if self.straight is not None:
            data = _sampled(data, _shifted(self.affine, self.box.start), self.straight, fill)
        return resample(apply_orientation(data, self.turn), self.shape)

    def labels_to_cache(self, labels: np.ndarray) -> np.ndarray:
        """Map a label map of the box to the cached grid, as `resample_labels` does."""
        if self.straight is None:
            return resample_labels(apply_orientation(labels, self.turn), self.shape)
        return _largest(labels, lambda mask: self.to_cache(mask.astype(np.float32)), self.shape)

    def to_box(self, data: np.ndarray) -> np.ndarray:
        """Map values of the cached grid back to the box in the source's orientation, as `to_cache` does."""
        back = ornt_transform(axcodes2ornt(("R", "A", "S")), self.turn)
        stored = apply_orientation(resample(data, self._native), back)
        if self.straight is None:
            return stored
        box = Grid(self.box.shape, tuple(_shifted(self.affine, self.box.start).ravel()))
        return _sampled(stored, self.straight.matrix, box, 0)

    def labels_to_box(self, labels: np.ndarray) -> np.ndarray:
        """Map a label map of the cached grid back to the box: the value with the largest share of a voxel."""
        if not self.resamples:
            return self.to_box(labels)
        return _largest(labels, lambda mask: self.to_box(mask.astype(np.float32)), self.box.shape)

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
        """The inverse of `as_dict`; earlier versions neither stored a turn nor straightened."""
        affine = tuple(values["source_affine"])
        box = Box(int3(values["box"]["start"]), int3(values["box"]["shape"]))
        turn = _read_turn(values["turn"]) if "turn" in values else turn_of(np.reshape(affine, (4, 4)))
        grid = values.get("straight")
        straight = Grid(int3(grid["shape"]), tuple(grid["affine"])) if grid else None
        return cls(int3(values["source_shape"]), affine, box, int3(values["shape"]), turn, straight)


def straightened(volume: Volume) -> tuple[Volume, Callable[[np.ndarray], np.ndarray]]:
    """A volume on a right-angled grid, and the way back.

    Returns:
        The volume itself, or its values interpolated linearly on the straight grid around it, with its lowest
        value outside it; and a function from arrays on this grid to the volume's own (floats are
        interpolated linearly, other types are taken from the nearest voxel).
    """
    if not is_sheared(volume.affine):
        return volume, lambda data: data
    grid = straight_grid(volume.affine, volume.data.shape)
    own = Grid(int3(volume.data.shape), tuple(volume.affine.ravel()))
    kind = volume.data.dtype
    data = _sampled(volume.data.astype(np.float32), volume.affine, grid, float(volume.data.min()))
    straight = Volume((data if kind.kind == "f" else np.rint(data)).astype(kind), grid.matrix)
    return straight, lambda found: _sampled(found, grid.matrix, own, 0)


def _read_turn(values: Any) -> Turn:
    """A turn from JSON."""
    x, y, z = ((int(axis), int(sign)) for axis, sign in values)
    return x, y, z


def _turned(shape: Int3, turn: Turn) -> Int3:
    return int3(np.array(shape)[np.argsort([axis for axis, _ in turn])])


def _shifted(affine: np.ndarray, start: Int3) -> np.ndarray:
    """The affine of the part of a grid that starts at a voxel: t' = R·start + t."""
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ np.asarray(start, float)
    return shifted


def _sampled(data: np.ndarray, affine: np.ndarray, grid: Grid, fill: float) -> np.ndarray:
    """Values of an array at the voxels of another grid; `fill` where these lie outside its voxels."""
    to_index = np.linalg.inv(affine) @ grid.matrix
    if not np.issubdtype(data.dtype, np.floating):
        return np.asarray(
            affine_transform(
                data, to_index, output_shape=grid.shape, order=0, mode="grid-constant", cval=fill
            )
        )
    values = affine_transform(data, to_index, output_shape=grid.shape, order=1, mode="nearest")
    # The outermost half voxels have their values, too, so the border is found by nearest neighbour.
    inside = np.ones(data.shape, np.uint8)
    inside = affine_transform(inside, to_index, output_shape=grid.shape, order=0, mode="grid-constant")
    values[inside == 0] = fill
    return np.asarray(values)


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
