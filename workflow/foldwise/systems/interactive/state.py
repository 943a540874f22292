"""The state of a session: label map, quality of every slice, all marks; and the slice to look at next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Self

import numpy as np
from scipy.ndimage import find_objects

from foldwise.systems.interactive.marks import Said

# A marked slice is looked at again if its mask follows a smaller share of the marks.
HALF = 0.5
# Doubt of a slice of unknown quality as far from marks as the object is long; less if it is nearer.
UNKNOWN = 0.5
# An error counts so many times on a slice whose marks leave it open, since the masks of others follow it.
FOLLOWED = 2.0
# Slices that are not confirmed are never beyond doubt.
LEAST = 1e-6


@dataclass(frozen=True)
class Suggestion:
    """The slice to look at next.

    Attributes:
        number: of the object.
        place: index along the state's axis.
        doubt: expected error there, as a share of the object's largest area on a slice.
        reason: in words.
    """

    number: int
    place: int
    doubt: float
    reason: str


@dataclass(frozen=True)
class State:
    """The state of a session after a step; a value that no step changes.

    Attributes:
        labels: (x, y, z) uint8 or uint16: object numbers, 0 for background.
        axis: the axis (0 to 2) across the slices.
        quality: object number → (slices,) float32: estimated IoU. Where marks were made: the share of them
            that the mask follows, or the estimate if it is lower and they do not bound the object. NaN:
            unknown; an object that is left out is unknown everywhere.
        marks: object number → all its marks.
        last: the slice of the last marks, or None.
    """

    labels: np.ndarray
    axis: int
    quality: Mapping[int, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    marks: Mapping[int, Said] = field(default_factory=lambda: MappingProxyType({}))
    last: int | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...], axis: int) -> Self:
        """Nothing found yet."""
        return cls(np.zeros(shape, np.uint8), axis)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return self.labels.shape[self.axis]

    def slice_of(self, place: int) -> np.ndarray:
        """Object numbers of a slice (rows, columns)."""
        found: np.ndarray = np.take(self.labels, place, self.axis)
        return found

    @cached_property
    def boxes(self) -> dict[int, tuple[slice, ...]]:
        """Object number → the box around its voxels, for the objects that have any."""
        found = enumerate(find_objects(self.labels), start=1)
        return {number: box for number, box in found if box is not None}

    @cached_property
    def areas(self) -> dict[int, np.ndarray]:
        """Object number → voxels on each slice, for the objects that have any."""
        others = tuple(number for number in range(3) if number != self.axis)
        counted = {}
        for number, box in self.boxes.items():
            areas = np.zeros(self.slices, np.int64)
            areas[box[self.axis]] = (self.labels[box] == number).sum(others)
            counted[number] = areas
        return counted

    def count_from(self, before: State, indices: np.ndarray) -> None:
        """Take the areas from an earlier state; only some voxels (flat indices) have changed since."""
        places = np.unravel_index(indices, self.labels.shape)[self.axis]
        counted = {number: areas.copy() for number, areas in before.areas.items()}
        for state, sign in ((before, -1), (self, 1)):
            values = state.labels.flat[indices]
            for number in set(np.unique(values).tolist()) - {0}:
                areas = counted.setdefault(number, np.zeros(self.slices, np.int64))
                areas += sign * np.bincount(places[values == number], minlength=self.slices)
        self.__dict__["areas"] = {number: areas for number, areas in counted.items() if areas.any()}

    def area(self, number: int) -> np.ndarray:
        """Voxels of an object on each slice."""
        return self.areas.get(number, np.zeros(self.slices, np.int64))

    def quality_of(self, number: int) -> np.ndarray:
        """The quality of each slice for an object."""
        return self.quality.get(number, np.full(self.slices, np.nan, np.float32))

    def hinted(self, number: int) -> set[int]:
        """Slices with marks of an object."""
        said = self.marks.get(number, ())
        return {place for marks in said if marks.axis == self.axis for place in marks.planes()}

    def open_slices(self, number: int) -> set[int]:
        """Slices on which an object was only pointed at, once: its border there is the engine's guess."""
        said = [marks for marks in self.marks.get(number, ()) if marks.axis == self.axis]
        places = [place for marks in said for place in marks.planes()]
        bounded = {place for marks in said if marks.bounds for place in marks.planes()}
        return {place for place in places if places.count(place) == 1} - bounded

    def suggestion(self, numbers: Iterable[int] | None = None) -> Suggestion | None:
        """The most doubtful slice; among equals the nearest to the last marks; None if all is confirmed.

        Args:
            numbers: objects to consider; default: all that have marks or voxels.
        """
        wanted = sorted({*self.areas, *self.marks}) if numbers is None else numbers
        best: Suggestion | None = None
        for number in wanted:
            doubt, reasons = self._doubts(number)
            middle = self.last if self.last is not None else self.slices // 2
            away = np.abs(np.arange(self.slices) - middle)
            place = int(np.lexsort((away, -doubt))[0])
            if doubt[place] > (best.doubt if best else 0):
                best = Suggestion(number, place, float(doubt[place]), reasons(place))
        return best

    def _doubts(self, number: int) -> tuple[np.ndarray, Reasons]:
        said = [marks for marks in self.marks.get(number, ()) if marks.axis == self.axis]
        ruled_out = np.zeros(self.slices, bool)
        for marks in said:
            for first, last in marks.spans.tolist():
                ruled_out[:first], ruled_out[last + 1 :] = True, True
        places = np.arange(self.slices)
        hinted = np.isin(places, list(self.hinted(number)))
        open_ = np.isin(places, list(self.open_slices(number)))
        area, quality = self.area(number), self.quality_of(number)
        doubt = doubts(area, quality, hinted, ruled_out & (area == 0), open_)
        return doubt, Reasons(area, quality, hinted & ~open_)


def doubts(
    area: np.ndarray,
    quality: np.ndarray,
    hinted: np.ndarray,
    absent: np.ndarray,
    open_: np.ndarray | None = None,
) -> np.ndarray:
    """The expected error (slices,) of an object on each slice, as a share of its largest area; 0: confirmed.

    A mask's share of wrong voxels is one minus its quality. Where that is unknown, it grows with the distance
    from the marks. An empty slice between filled ones is as doubtful as these are large. So is the first
    empty slice at each end, but squared: an object that tapers off has ended, and one that stops at its
    widest was lost. An object that is found nowhere is doubtful everywhere.

    Args:
        area: voxels of the object on each slice.
        quality: estimated IoU, or NaN.
        hinted: slices with marks: doubtful only if the mask does not follow them, and less than all others.
        absent: slices on which the object is known not to be.
        open_: those of the slices with marks on which these do not bound the object; default: none.
    """
    doubt = np.zeros(len(area))
    filled = np.flatnonzero(area)
    marked = np.flatnonzero(hinted)
    if not len(filled):
        doubt[:] = 1
    else:
        share = area / area.max()
        length = max(1, int(filled[-1] - filled[0]))
        places = np.arange(len(area))
        away = np.abs(places[:, None] - marked).min(1) if len(marked) else np.full(len(area), length)
        guess = np.minimum(1, away / length) * UNKNOWN
        doubt[filled] = (np.where(np.isnan(quality), guess, 1 - quality) * share)[filled].clip(LEAST)
        gaps = np.flatnonzero(area[filled[0] : filled[-1]] == 0) + filled[0]
        doubt[gaps] = np.interp(gaps, filled, share[filled])
        for end, beyond in ((filled[0], filled[0] - 1), (filled[-1], filled[-1] + 1)):
            if 0 <= beyond < len(area):
                doubt[beyond] = max(share[end] ** 2, LEAST)
    doubt[absent] = 0
    unfollowed = np.nan_to_num(quality, nan=1) < HALF
    open_ = np.zeros(len(area), bool) if open_ is None else open_ & (area > 0)
    if open_.any():
        doubt[open_] = (FOLLOWED * (1 - np.nan_to_num(quality, nan=1)) * area / area.max())[open_].clip(0, 1)
    settled = hinted & ~open_
    doubt[settled] = np.where(unfollowed, LEAST * (1 - np.nan_to_num(quality)), 0)[settled]
    return doubt


@dataclass(frozen=True)
class Reasons:
    """Why a slice of an object is doubtful, in words."""

    area: np.ndarray
    quality: np.ndarray
    hinted: np.ndarray

    def __call__(self, place: int) -> str:
        """The reason for a slice."""
        if self.hinted[place]:
            return "the mask does not follow the marks"
        if not self.area.any():
            return "the object was not found on any slice"
        if not self.area[place]:
            filled = np.flatnonzero(self.area)
            between = filled[0] < place < filled[-1]
            return "empty, between slices with a mask" if between else "the first slice beyond the mask"
        if np.isnan(self.quality[place]):
            return "far from marks; its quality is unknown"
        return f"estimated quality {self.quality[place]:.2f}"


def extent(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The box around a mask's voxels; None if it is empty."""
    box: tuple[slice, ...] | None = next(iter(find_objects(mask.view(np.uint8))), None)
    return box
