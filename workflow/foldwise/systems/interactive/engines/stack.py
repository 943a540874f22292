"""A scan as planes across an axis, with an object's marks on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter

from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.planes import Plane
from foldwise.systems.interactive.engines.shapes import pooled
from foldwise.systems.interactive.marks import Said, on_plane, settled

# Standard deviation of the smoothing within a plane, in units of the finer pixel edge.
SMOOTH = 0.5


@dataclass(frozen=True)
class Stack:
    """Planes of a scan, and what is said of an object.

    Attributes:
        scan: the scan.
        axis: across the planes.
        marks: of the object.
        labels: (x, y, z) object numbers before the round.
        number: of the object.
        factor: so many pixels are joined along rows and columns.
    """

    scan: Scan
    axis: int
    marks: Said
    labels: np.ndarray
    number: int
    factor: int = 1

    @cached_property
    def spacing(self) -> np.ndarray:
        """(3,) mm between planes, rows and columns."""
        edges = np.array([self.scan.spacing[axis] for axis in self.order])
        return edges * (1, self.factor, self.factor)

    @property
    def order(self) -> list[int]:
        """Axes of the scan: across planes, rows, columns."""
        return [self.axis, *(axis for axis in range(3) if axis != self.axis)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns at full resolution."""
        planes, rows, columns = (self.scan.shape[axis] for axis in self.order)
        return planes, rows, columns

    def __len__(self) -> int:
        return self.scan.shape[self.axis]

    def coarser(self, factor: int) -> Stack:
        """The same with coarser pixels."""
        coarse = replace(self, factor=factor)
        coarse.__dict__["_fixed"] = self._fixed
        return coarse

    @cached_property
    def _fixed(self) -> tuple[np.ndarray, np.ndarray]:
        fixed = settled(self.marks, self.scan.shape)
        inside = np.zeros(self.scan.shape, bool)
        inside.flat[fixed.inside] = True
        outside = (self.labels != 0) & (self.labels != self.number)
        if fixed.barred is not None:
            outside |= fixed.barred
        outside.flat[fixed.outside] = True
        outside &= ~inside
        return np.moveaxis(inside, self.axis, 0), np.moveaxis(outside, self.axis, 0)

    def image(self, place: int) -> np.ndarray:
        """(channels, rows, columns) float32."""
        plane = np.nan_to_num(np.take(self.scan.image, place, self.axis + 1).astype(np.float32))
        edges = np.array([self.scan.spacing[axis] for axis in self.order[1:]])
        widths = SMOOTH * edges.min() / edges
        return pooled(np.stack([gaussian_filter(channel, widths) for channel in plane]), self.factor)

    def inside(self, place: int) -> np.ndarray:
        """(rows, columns) bool: marked as the object."""
        return pooled(self._fixed[0][place], self.factor, np.any)

    def outside(self, place: int) -> np.ndarray:
        """(rows, columns) bool: certainly not the object."""
        return pooled(self._fixed[1][place], self.factor, np.all) & ~self.inside(place)

    def others(self, place: int) -> np.ndarray:
        """(rows, columns) bool: of another object before the round."""
        labels = np.take(self.labels, place, self.axis)
        return pooled((labels != 0) & (labels != self.number), self.factor, np.any)

    def seen(self, place: int) -> np.ndarray:
        """(rows, columns) bool: the object before the round, at full resolution."""
        return np.asarray(np.take(self.labels, place, self.axis) == self.number)

    @cached_property
    def absent(self) -> np.ndarray:
        """(planes,) bool: the object is certainly not there."""
        return np.asarray(self._fixed[1].all((1, 2)))

    def hinted(self, marks: Said) -> list[int]:
        """Planes on which marks say something of the mask; of marks across other axes, the fullest plane."""
        places: set[int] = set()
        for one in marks:
            if one.axis == self.axis:
                places |= one.planes() - set(one.empty.tolist())
            elif len(drawn := np.concatenate([one.drawn, one.outside])):
                places.add(int(np.bincount(drawn[:, self.axis]).argmax()))
        return sorted(places)

    @cached_property
    def _marked(self) -> np.ndarray:
        return np.flatnonzero(self._fixed[0].any((1, 2)))

    def _middle(self, place: int) -> np.ndarray | None:
        if not len(self._marked):
            return None
        return self.inside(int(self._marked[np.abs(self._marked - place).argmin()]))

    def plane(self, place: int) -> Plane:
        """A plane at full resolution, and what is said of it."""
        hints = on_plane(self.marks, self.axis, place)
        # A box counts if it still bars what is beyond it: a later mark may have withdrawn it.
        corners = np.concatenate([hints.box, hints.extreme if len(hints.extreme) >= 4 else hints.box])
        box = np.stack([corners.min(0), corners.max(0)]).astype(int) if len(corners) else None
        line = any(int(ends[0, self.axis]) == place for one in self.marks for ends in one.lines)
        return Plane(
            self.image(place), self.spacing[1:], self.inside(place), self.outside(place), box,
            self.seen(place), line, self._middle(place),
        )  # fmt: skip
