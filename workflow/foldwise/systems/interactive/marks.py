"""Marks: what a person says about an object, in voxels of the scan's grid; and which voxels that settles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from foldwise.systems.interactive.hints import Hints
from foldwise.volumes.draw import line_voxels


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


def _no_points() -> np.ndarray:
    return np.zeros((0, 3), np.int64)


def _no_pairs() -> np.ndarray:
    return np.zeros((0, 2, 3), np.int64)


def _no_spans() -> np.ndarray:
    return np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class Marks:
    """Marks of one object that were made on planes across one axis of the grid.

    All are whole voxel indices (x, y, z) of the array, from 0.

    Attributes:
        axis: the axis (0 to 2) across the planes on which the marks were drawn.
        inside: (n, 3) voxels of the object: clicks, and the voxels of scribbles and brushes.
        outside: (n, 3) voxels that are not of it.
        extreme: (n, 3) the object's outermost voxels on their plane; usually four.
        lines: (n, 2, 3) ends of the object's longest diameter on a plane, as in RECIST; all voxels between
            them are of the object.
        boxes: (n, 2, 3) opposite corners, both within the box, of a box on a plane around the object there.
        spans: (n, 2) first and last plane of the object.
        empty: (n,) planes without the object.
    """

    axis: int
    inside: np.ndarray = field(default_factory=_no_points)
    outside: np.ndarray = field(default_factory=_no_points)
    extreme: np.ndarray = field(default_factory=_no_points)
    lines: np.ndarray = field(default_factory=_no_pairs)
    boxes: np.ndarray = field(default_factory=_no_pairs)
    spans: np.ndarray = field(default_factory=_no_spans)
    empty: np.ndarray = field(default_factory=_none)

    def __bool__(self) -> bool:
        return any(len(getattr(self, name)) for name in KINDS)

    @property
    def drawn(self) -> np.ndarray:
        """(n, 3) all voxels said to be of the object."""
        lines = [line_voxels(*ends) for ends in self.lines]
        return np.concatenate([self.inside, self.extreme, *lines])

    def planes(self) -> set[int]:
        """Planes with marks; spans mark none."""
        boxes = self.boxes.reshape(-1, 3)
        return {
            *np.concatenate([self.drawn, self.outside, boxes])[:, self.axis].tolist(),
            *self.empty.tolist(),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        given = {name: getattr(self, name).tolist() for name in KINDS if len(getattr(self, name))}
        return {"axis": self.axis, **given}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError: arrays of another shape, or unknown names.
        """
        empty = cls(0)
        arrays = {}
        for name, value in values.items():
            if name == "axis":
                continue
            if name not in KINDS:
                raise ValueError(f"unknown kind of marks {name}")
            array = np.asarray(value, float)
            arrays[name] = np.rint(array).astype(np.int64).reshape(-1, *getattr(empty, name).shape[1:])
        return cls(int(values["axis"]), **arrays)


KINDS = tuple(each.name for each in fields(Marks) if each.name != "axis")
# All marks of an object, the oldest first.
Said = tuple[Marks, ...]


@dataclass(frozen=True)
class Settled:
    """What marks settle about an object. A later mark replaces an earlier one of the same voxel.

    Attributes:
        inside: flat indices of voxels that are of the object.
        outside: flat indices of voxels that are not of it.
        barred: (x, y, z) bool: voxels outside boxes, extreme points and spans, or on empty planes; None if
            there are no such marks. `inside` has priority.
    """

    inside: np.ndarray
    outside: np.ndarray
    barred: np.ndarray | None

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """A mask (x, y, z) bool that obeys every mark."""
        obeyed = mask.copy() if self.barred is None else mask & ~self.barred
        obeyed.flat[self.inside] = True
        obeyed.flat[self.outside] = False
        return obeyed

    def broken(self, mask: np.ndarray) -> int:
        """Number of marked voxels that a mask contradicts; barred ones count each."""
        wrong = int((~mask.flat[self.inside]).sum()) + int(mask.flat[self.outside].sum())
        if self.barred is None:
            return wrong
        beyond = mask & self.barred
        beyond.flat[self.inside] = False
        return wrong + int(beyond.sum())


def settled(said: Iterable[Marks], shape: tuple[int, ...]) -> Settled:
    """What an object's marks settle.

    Args:
        said: in the order in which they were made.
        shape: of the grid.
    """
    voxels, values = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    barred: np.ndarray | None = None
    for marks in said:
        for points, value in ((marks.drawn, True), (marks.outside, False)):
            voxels.append(np.ravel_multi_index(tuple(points.T), shape))
            values.append(np.full(len(points), value))
        if limits := _limits(marks, shape):
            barred = np.zeros(shape, bool) if barred is None else barred
            for place, value in limits:
                barred[place] = value
    every, said_ = np.concatenate(voxels)[::-1], np.concatenate(values)[::-1]
    found, first = np.unique(every, return_index=True)
    return Settled(found[said_[first]], found[~said_[first]], barred)


def _limits(marks: Marks, shape: tuple[int, ...]) -> list[tuple[tuple[slice, ...], bool]]:
    """Boxes of the array that are barred (True) or allowed (False), to be applied in this order."""
    axis, whole = marks.axis, [slice(None)] * 3
    limits: list[tuple[tuple[slice, ...], bool]] = []

    def on(first: int, last: int) -> tuple[slice, ...]:
        return tuple(slice(first, last + 1) if number == axis else whole[number] for number in range(3))

    for first, last in marks.spans.tolist():
        limits += [(on(0, first - 1), True), (on(last + 1, shape[axis] - 1), True)]
    limits += [(on(place, place), True) for place in marks.empty.tolist()]
    around = list(marks.boxes)
    for place in np.unique(marks.extreme[:, axis]).tolist():
        points = marks.extreme[marks.extreme[:, axis] == place]
        if len(points) >= 4:
            around.append(np.stack([points.min(0), points.max(0)]))
    # Several boxes on a plane: the object is within any of them.
    boxes = [(corners.min(0), corners.max(0)) for corners in around]
    limits += [(on(int(low[axis]), int(high[axis])), True) for low, high in boxes]
    limits += [
        (tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)), False)
        for low, high in boxes
    ]
    return limits


def on_plane(said: Iterable[Marks], axis: int, place: int) -> Hints:
    """An object's marks on a plane as rows and columns, for networks that see slices.

    Args:
        said: the marks; those that were drawn across another axis count with their voxels.
        axis: across the planes.
        place: index of the plane.
    """
    flat = [number for number in range(3) if number != axis]
    inside, outside, extreme, box, nothing = [], [], [], [], False
    for marks in said:
        drawn = marks.inside if marks.axis == axis else marks.drawn
        lines = [line_voxels(*ends) for ends in marks.lines] if marks.axis == axis else []
        for points, kept in ((drawn, inside), (marks.outside, outside), *((line, inside) for line in lines)):
            kept.append(points[points[:, axis] == place][:, flat])
        if marks.axis == axis:
            extreme.append(marks.extreme[marks.extreme[:, axis] == place][:, flat])
            box += [corners[:, flat] for corners in marks.boxes if corners[0, axis] == place]
            nothing = nothing or place in marks.empty

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((0, 2)), *parts])

    corners = joined(box)
    return Hints(
        inside=joined(inside),
        outside=joined(outside),
        extreme=joined(extreme),
        # Of several boxes, the one around all.
        box=np.stack([corners.min(0), corners.max(0)]) if len(corners) else corners,
        nothing=nothing and not len(joined(inside)),
    )


def of_slice(hints: Hints, axis: int, place: int) -> Marks:
    """The marks of hints on a slice: the inverse of `on_plane`."""

    def voxels(points: np.ndarray) -> np.ndarray:
        return np.insert(np.rint(points).astype(np.int64).reshape(-1, 2), axis, place, axis=1)

    return Marks(
        axis,
        inside=voxels(hints.inside),
        outside=voxels(hints.outside),
        extreme=voxels(hints.extreme),
        boxes=voxels(hints.box).reshape(-1, 2, 3),
        empty=np.array([place] if hints.nothing else [], np.int64),
    )
