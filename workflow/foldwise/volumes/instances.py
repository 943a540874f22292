"""Instances, the connected components of a class, and which of them a coarser grid loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np

from foldwise.volumes.geometry import Box, Int3, bounding_box, int3, resample_labels_within
from foldwise.volumes.volume import Volume

# Edge of the boxes in which large instances are looked for, in voxels.
PART = 32


@dataclass(frozen=True)
class Instances:
    """The 26-connected components of each class of a label map.

    Attributes:
        values: (n) their values in the label map.
        boxes: (n, 3, 2) first voxel and the one after the last, along each axis.
    """

    values: np.ndarray
    boxes: np.ndarray

    def counts(self, names: Mapping[str, int]) -> dict[str, int]:
        """Name → the number of its instances, from name → its value."""
        found = Counter(self.values.tolist())
        return {name: found[value] for name, value in names.items()}

    def extents_mm(self, spacing: Sequence[float]) -> np.ndarray:
        """(n, 3) edges of their boxes in mm."""
        edges: np.ndarray = np.diff(self.boxes, axis=2)[..., 0] * np.asarray(spacing, float)
        return edges

    def only(self, chosen: np.ndarray) -> Instances:
        """The chosen ones, by a mask (n)."""
        return Instances(self.values[chosen], self.boxes[chosen])


def find_values(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The voxels of a label map (x, y, z) that have any of some values, as a mask."""
    # A NIfTI lies in memory in the order of z; in another one, NumPy would copy it, slowly.
    return np.isin(labels.T, values).T


def find_instances(labels: np.ndarray, values: Sequence[int]) -> Instances:
    """The instances of some values in a label map (x, y, z)."""
    wanted = find_values(labels, values)
    if not wanted.any():
        return Instances(np.zeros(0, int), np.zeros((0, 3, 2), int))
    box = bounding_box(wanted, 0, (1.0, 1.0, 1.0))
    kept = np.where(wanted[box.slices], labels[box.slices], 0)
    parts, boxes = _components(kept)  # which never mix values
    of_part = np.zeros(len(boxes) + 1, kept.dtype)
    of_part[parts] = kept
    return Instances(of_part[1:], boxes + np.array(box.start)[:, None])


def find_centres(mask: np.ndarray) -> np.ndarray:
    """(n, 3): the voxel of each 26-connected component of a mask (x, y, z) that is closest to its mean."""
    if not mask.any():
        return np.zeros((0, 3), int)
    whole = bounding_box(mask, 0, (1.0, 1.0, 1.0))
    parts, boxes = _components(mask[whole.slices])
    centres = []
    for number, edges in enumerate(boxes, start=1):
        voxels = np.argwhere(parts[tuple(slice(*edge) for edge in edges)] == number)
        nearest = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()
        centres.append(voxels[nearest] + edges[:, 0] + whole.start)
    return np.array(centres)


def _components(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the components of a label map, from 1, and their boxes as in `Instances`."""
    # cc3d fails on some arrays that are one voxel thin.
    parts = cc3d.connected_components(np.pad(labels, 1), connectivity=26)
    boxes = cc3d.statistics(parts, no_slice_conversion=True)["bounding_boxes"][1:].astype(int)
    return parts[1:-1, 1:-1, 1:-1], boxes.reshape(-1, 3, 2) + np.array([0, 1]) - 1


def lost_in_box(instances: Instances, labels: np.ndarray, box: Box) -> np.ndarray:
    """Which instances of a label map (x, y, z) have no voxel in a box: (n) bool."""
    start = np.maximum(instances.boxes[..., 0], box.start)
    stop = np.minimum(instances.boxes[..., 1], np.add(box.start, box.shape))
    gone = np.ones(len(instances.values), bool)
    for number in np.flatnonzero((stop > start).all(1)):
        inside = Box(int3(start[number]), int3(stop[number] - start[number]))
        gone[number] = not (labels[inside.slices] == instances.values[number]).any()
    return gone


def lost_in_grid(instances: Instances, labels: np.ndarray, shape: Int3) -> np.ndarray:
    """Which instances of a label map (x, y, z) have no voxel if it is resampled to a shape: (n) bool.

    One has a voxel if there is one of its value in its box. So an instance that merges with another is kept.
    """
    gone = np.zeros(len(instances.values), bool)
    # An axis that becomes finer loses nothing, and may have too many voxels to look at.
    shape = int3(np.minimum(shape, labels.shape))
    if labels.shape == shape:
        return gone
    scale = np.divide(shape, labels.shape)
    for number, (value, edges) in enumerate(zip(instances.values, instances.boxes, strict=True)):
        start, stop = np.floor(edges[:, 0] * scale + 1e-6), np.ceil(edges[:, 1] * scale - 1e-6)
        gone[number] = not any(
            (resample_labels_within(labels, shape, part) == value).any()
            for part in _parts(Box(int3(start), int3(stop - start)))
        )
    return gone


def _parts(box: Box) -> Iterator[Box]:
    """Boxes that fill a box, since the first one of a large instance decides already."""
    for start in product(
        *(range(first, first + n, PART) for first, n in zip(box.start, box.shape, strict=True))
    ):
        stop = np.minimum(np.add(start, PART), np.add(box.start, box.shape))
        yield Box(int3(start), int3(stop - start))


def finest(instances: Instances, spacing: Sequence[float]) -> np.ndarray:
    """(n, 3) in mm: the voxel edges that keep each instance.

    A voxel of half an extent lies wholly within it wherever the grid begins; no grid needs to be finer than
    the label's own.
    """
    return np.maximum(instances.extents_mm(spacing) / 2, spacing)


@dataclass(frozen=True)
class Losses:
    """What resampling does to the instances of a label map.

    Attributes:
        instances: class → number of its instances.
        lost: class → number of those without a voxel afterwards.
        text: this in words, with the spacing that keeps them; "" if nothing is lost.
    """

    instances: dict[str, int]
    lost: dict[str, int]
    text: str


def losses(labels: Volume, shape: Int3, names: Mapping[str, int]) -> Losses:
    """Find the instances of a label map (x, y, z) that resampling to a shape loses.

    Args:
        labels: the label map.
        shape: of the grid that it is resampled to.
        names: class → its value.
    """
    found = find_instances(labels.data, [*names.values()])
    gone = found.only(lost_in_grid(found, labels.data, shape))
    instances, lost = found.counts(names), gone.counts(names)
    if not len(gone.values):
        return Losses(instances, lost, "")
    coarse = np.multiply(labels.spacing, labels.data.shape) / shape
    listed = ", ".join(
        f"{lost[name]} of {instances[name]} instances of {name}" for name in names if lost[name]
    )
    sizes = [
        " × ".join(f"{edge:.4g}" for edge in edges) for edges in (coarse, _keeping(labels, gone, coarse))
    ]
    text = (
        f"{listed} lost: no voxel is left of them at {sizes[0]} mm; {sizes[1]} mm keeps them (cache.spacing)"
    )
    return Losses(instances, lost, text)


def _keeping(labels: Volume, lost: Instances, coarse: np.ndarray) -> np.ndarray:
    """The voxel edges in mm that keep instances which a coarser grid loses, tried on the label map."""
    own = np.minimum(labels.spacing, coarse)
    step = np.minimum(finest(lost, labels.spacing).min(0), coarse)
    # Rounded down, so that the figure in a message is the one that was tried.
    step = np.maximum(np.floor(step * 100 + 0.01) / 100, own)
    shape = int3(np.maximum(1, np.rint(np.multiply(labels.data.shape, labels.spacing) / step)))
    return own if lost_in_grid(lost, labels.data, shape).any() else step
