"""Marks: what a person says about an object, in voxels of the scan's grid; and which voxels that settles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
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
        painted: whether the voxels were painted one by one, not marked for an engine.
    """

    axis: int
    inside: np.ndarray = field(default_factory=_no_points)
    outside: np.ndarray = field(default_factory=_no_points)
    extreme: np.ndarray = field(default_factory=_no_points)
    lines: np.ndarray = field(default_factory=_no_pairs)
    boxes: np.ndarray = field(default_factory=_no_pairs)
    spans: np.ndarray = field(default_factory=_no_spans)
    empty: np.ndarray = field(default_factory=_none)
    painted: bool = False

    def __bool__(self) -> bool:
        return any(len(getattr(self, name)) for name in KINDS)

    @property
    def drawn(self) -> np.ndarray:
        """(n, 3) all voxels said to be of the object."""
        lines = [line_voxels(*ends) for ends in self.lines]
        return np.concatenate([self.inside, self.extreme, *lines])

    def planes(self) -> set[int]:
        """Planes with marks. Spans mark none, nor does a brush that painted several planes at once."""
        boxes = self.boxes.reshape(-1, 3)
        places = np.unique(np.concatenate([self.drawn, self.outside, boxes])[:, self.axis])
        return {*([] if self.painted and len(places) > 1 else places.tolist()), *self.empty.tolist()}

    @property
    def bounds(self) -> bool:
        """Whether these marks say how far the object reaches, not only where it is."""
        return self.painted or bool(len(self.extreme) + len(self.boxes) + len(self.outside) + len(self.empty))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        given = {name: getattr(self, name).tolist() for name in KINDS if len(getattr(self, name))}
        return {"axis": self.axis, **given, **({"painted": True} if self.painted else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            ValueError: arrays of another shape, unknown names, or no axis.
        """
        axis = int(values["axis"])
        if axis not in range(3):
            raise ValueError(f"axis {axis}; expected 0 to 2")
        empty = cls(axis)
        arrays = {}
        for name, value in values.items():
            if name in ("axis", "painted"):
                continue
            if name not in KINDS:
                raise ValueError(f"unknown kind of marks {name}")
            array = np.asarray(value, float)
            arrays[name] = np.rint(array).astype(np.int64).reshape(-1, *getattr(empty, name).shape[1:])
        return cls(axis, **arrays, painted=bool(values.get("painted")))


# Fewer extreme points do not enclose an object.
ALL_SIDES = 4
# Beyond any grid.
FAR = 2**31
KINDS = tuple(each.name for each in fields(Marks) if each.name not in ("axis", "painted"))
# All marks of an object, the oldest first.
Said = tuple[Marks, ...]


@dataclass(frozen=True)
class Settled:
    """What marks settle about an object. A later mark replaces an earlier one of the same voxel.

    Attributes:
        inside: flat indices of voxels that are of the object.
        outside: flat indices of voxels that are not of it.
        limits: boxes, extreme points, spans and empty planes that still hold.
        shape: of the grid.
    """

    inside: np.ndarray
    outside: np.ndarray
    limits: tuple[Limit, ...]
    shape: tuple[int, ...]

    @cached_property
    def barred(self) -> np.ndarray | None:
        """Voxels (x, y, z) bool beyond a limit; None if there are no limits. `inside` has priority."""
        if not self.limits:
            return None
        barred = np.zeros(self.shape, bool)
        for limit in self.limits:
            limit.apply(barred)
        return barred

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """A mask (x, y, z) bool that obeys every mark."""
        obeyed: np.ndarray = mask.copy() if self.barred is None else mask & ~self.barred
        obeyed.flat[self.inside] = True
        obeyed.flat[self.outside] = False
        return obeyed

    def on_plane(self, axis: int, place: int) -> Plane:
        """What is settled on a plane."""
        flat = [number for number in range(3) if number != axis]

        def there(indices: np.ndarray) -> np.ndarray:
            voxels = np.unravel_index(indices, self.shape)
            here = voxels[axis] == place
            rows, columns = (voxels[number][here] for number in flat)
            return np.ravel_multi_index((rows, columns), tuple(self.shape[number] for number in flat))

        barred = None if self.barred is None else np.take(self.barred, place, axis)
        return Plane(there(self.inside), there(self.outside), barred)

    def barred_planes(self, axis: int, count: int) -> np.ndarray:
        """Planes (count,) across an axis on which the object is not."""
        if self.barred is None:
            return np.zeros(count, bool)
        planes: np.ndarray = np.all(self.barred, axis=tuple(n for n in range(3) if n != axis))
        return planes

    def broken(self, mask: np.ndarray) -> int:
        """Number of marked voxels that a mask contradicts; barred ones count each."""
        wrong = int((~mask.flat[self.inside]).sum()) + int(mask.flat[self.outside].sum())
        if self.barred is None:
            return wrong
        beyond = mask & self.barred
        beyond.flat[self.inside] = False
        return wrong + int(beyond.sum())


@dataclass(frozen=True)
class Plane:
    """What marks settle on a plane: flat indices and `barred` as in `Settled`, of (rows, columns)."""

    inside: np.ndarray
    outside: np.ndarray
    barred: np.ndarray | None

    def probable(self, mask: np.ndarray) -> np.ndarray:
        """Probabilities (rows, columns) uint8 that obey every mark."""
        obeyed = mask.copy()
        if self.barred is not None:
            obeyed[self.barred] = 0
        obeyed.flat[self.inside] = 255
        obeyed.flat[self.outside] = 0
        return obeyed


def settled(said: Iterable[Marks], shape: tuple[int, ...]) -> Settled:
    """What an object's marks settle.

    A later mark withdraws an earlier one that contradicts it: of the same voxel; a box, span or empty plane
    outside which the object is now marked; or marked voxels outside a box, a span, or on an empty plane.

    Args:
        said: in the order in which they were made.
        shape: of the grid.
    """
    voxels, values, turns = [np.zeros(0, np.int64)], [np.zeros(0, bool)], [np.zeros(0, np.int64)]
    corners, when_boxed = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    latest: dict[tuple[int, int, int], tuple[int, Limit]] = {}
    for turn, marks in enumerate(said):
        for points, value in ((marks.drawn, True), (marks.outside, False)):
            voxels.append(np.ravel_multi_index(tuple(points.T), shape))
            values.append(np.full(len(points), value))
            turns.append(np.full(len(points), turn))
        corners.append(marks.boxes.reshape(-1, 3))
        when_boxed.append(np.full(2 * len(marks.boxes), turn))
        latest |= {key: (turn, limit) for key, limit in limits_of(marks).items()}
    every, value_, turn_ = (np.concatenate(parts)[::-1] for parts in (voxels, values, turns))
    found, first = np.unique(every, return_index=True)
    inside, when, outside = found[value_[first]], turn_[first][value_[first]], found[~value_[first]]
    where = np.stack(np.unravel_index(inside, shape), 1)
    limits = []
    kept = np.ones(len(inside), bool)
    for turn, limit in latest.values():
        beyond = limit.bars(where)
        # A box says that the object is there, too.
        boxed = limit.bars(np.concatenate(corners)) if not len(limit.boxes) else np.zeros(1, bool)
        if (beyond & (when >= turn)).any() or (boxed & (np.concatenate(when_boxed) >= turn)).any():
            continue
        kept &= ~beyond
        limits.append(limit)
    return Settled(inside[kept], outside, tuple(limits), shape)


@dataclass(frozen=True)
class Limit:
    """Planes on which the object lies only within some boxes.

    Attributes:
        axis: across the planes.
        first, last: the planes.
        boxes: (n, 2, 3) lowest and highest voxels; none: the object is not on these planes.
    """

    axis: int
    first: int
    last: int
    boxes: np.ndarray

    def bars(self, voxels: np.ndarray) -> np.ndarray:
        """Which voxels (n, 3) lie on the planes, but in no box."""
        there = (voxels[:, self.axis] >= self.first) & (voxels[:, self.axis] <= self.last)
        above, below = voxels[:, None] >= self.boxes[:, 0], voxels[:, None] <= self.boxes[:, 1]
        barred: np.ndarray = there & ~np.any(np.all(above & below, axis=2), axis=1)
        return barred

    def apply(self, barred: np.ndarray) -> None:
        """Bar the planes, except in the boxes, unless they were barred before."""
        planes = [slice(None)] * 3
        planes[self.axis] = slice(self.first, self.last + 1)
        before = barred[tuple(planes)].copy()
        barred[tuple(planes)] = True
        for low, high in self.boxes.tolist():
            box = [slice(a, b + 1) for a, b in zip(low, high, strict=True)]
            inner = list(box)
            inner[self.axis] = slice(low[self.axis] - self.first, high[self.axis] - self.first + 1)
            barred[tuple(box)] = before[tuple(inner)]


def limits_of(marks: Marks) -> dict[tuple[int, int, int], Limit]:
    """Limits by planes or ends; a later one of the same planes, or the same end, replaces an earlier one."""
    axis, nowhere = marks.axis, _no_pairs()
    limits = {}
    for first, last in marks.spans.tolist():
        limits[axis, -1, 0] = Limit(axis, 0, first - 1, nowhere)
        limits[axis, FAR, 0] = Limit(axis, last + 1, FAR, nowhere)
    for place in marks.empty.tolist():
        limits[axis, place, place] = Limit(axis, place, place, nowhere)
    boxes = [np.stack([corners.min(0), corners.max(0)]) for corners in marks.boxes]
    for place in np.unique(marks.extreme[:, axis]).tolist():
        points = marks.extreme[marks.extreme[:, axis] == place]
        if len(points) >= ALL_SIDES:
            boxes.append(np.stack([points.min(0), points.max(0)]))
    # Several boxes on a plane: the object is within any of them.
    for place in {int(box[0, axis]) for box in boxes}:
        there = np.stack([box for box in boxes if box[0, axis] == place])
        limits[axis, place, place] = Limit(axis, place, place, there)
    return limits


def on_plane(said: Iterable[Marks], axis: int, place: int) -> Hints:
    """An object's marks on a plane as rows and columns, for networks that see slices.

    Args:
        said: the marks; those that were drawn across another axis count with their voxels.
        axis: across the planes.
        place: index of the plane.
    """
    flat = [number for number in range(3) if number != axis]
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    extreme: list[np.ndarray] = []
    box: list[np.ndarray] = []
    nothing = False
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
