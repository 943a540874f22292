"""Hints on a slice: a person's marks, and their encoding for a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from foldwise.volumes.slices import Window

# Hint channels: marks inside, marks outside, extreme points, the box, the mask so far.
CHANNELS = 5
# Full width at half maximum of a mark for an input of 512 pixels, and its minimum.
FWHM, LEAST_FWHM = 10 / 512, 3.0
# Margin of a crop beyond hints that enclose the object, as a share of their longer side.
MARGIN = 0.5


def no_points() -> np.ndarray:
    """An empty list of points."""
    return np.zeros((0, 2))


@dataclass(frozen=True)
class Hints:
    """Marks for one object on one slice, as rows and columns of the slice's voxels.

    Attributes:
        inside: (n, 2) points of the object: clicks, or the voxels of a scribble.
        outside: (n, 2) points outside it.
        extreme: (n, 2) its topmost, bottommost, leftmost and rightmost points.
        box: (2, 2) opposite corners of a box around it, or no points.
        nothing: the object is not on this slice.
    """

    inside: np.ndarray = field(default_factory=no_points)
    outside: np.ndarray = field(default_factory=no_points)
    extreme: np.ndarray = field(default_factory=no_points)
    box: np.ndarray = field(default_factory=no_points)
    nothing: bool = False

    @property
    def marks(self) -> np.ndarray:
        """All points that lie in or on the object."""
        return np.concatenate([self.inside, self.extreme, self.box])

    def __bool__(self) -> bool:
        return self.nothing or len(self.marks) + len(self.outside) > 0

    def with_points(self, kind: str, points: np.ndarray) -> Hints:
        """These hints and further points of a kind: inside, outside, extreme or box."""
        values: dict[str, Any] = {kind: np.concatenate([getattr(self, kind), points])}
        return replace(self, **values)

    def shifted(self, random: np.random.Generator, most: float) -> Hints:
        """Points moved at random by at most `most` voxels, like a hand; scribbles stay."""
        if not most:
            return self

        def moved(points: np.ndarray) -> np.ndarray:
            return points + random.uniform(-most, most, points.shape)

        return replace(self, extreme=moved(self.extreme), box=moved(self.box))


def window_of(hints: Hints, previous: np.ndarray, spacing: tuple[float, float], size: int) -> Window:
    """The hint network's window: around hints and mask if they enclose the object, else the whole slice.

    Args:
        hints: on the slice.
        previous: mask so far (rows, columns), possibly empty.
        spacing: mm between rows and between columns.
        size: edge of the input.
    """
    rows, columns = previous.shape
    whole = Window.round((0, 0), (rows, columns), spacing, size)
    if not (len(hints.extreme) + len(hints.box) or previous.any()):
        return whole
    points = np.concatenate([hints.marks, hints.outside, np.argwhere(previous)])
    low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    # In mm, so that the margin is the same along rows and columns.
    margin = np.ceil(MARGIN * ((high - low + 1) * spacing).max() / np.array(spacing))
    start = np.maximum(low - margin, 0).astype(int)
    stop = np.minimum(high + margin + 1, (rows, columns)).astype(int)
    top, left = start.tolist()
    height, width = (stop - start).tolist()
    return Window.round((top, left), (height, width), spacing, size)


def hint_maps(hints: Hints, window: Window) -> np.ndarray:
    """The first four hint channels (4, size, size) float32, 0 to 1.

    Marks are Gaussians about their points (the largest value counts), the box is filled.
    """
    maps = np.zeros((CHANNELS - 1, window.size, window.size), np.float32)
    width = max(LEAST_FWHM, FWHM * window.size)
    for channel, points in enumerate((hints.inside, hints.outside, hints.extreme)):
        maps[channel] = _marks(window.points(points), window.size, width)
    if len(hints.box):
        corners = np.clip(np.rint(window.points(hints.box)), 0, window.size - 1).astype(int)
        (top, left), (bottom, right) = corners.min(0), corners.max(0)
        maps[3, top : bottom + 1, left : right + 1] = 1
    return maps


def hint_input(
    image: torch.Tensor, hints: Hints, seen: np.ndarray, window: Window, fill: float
) -> torch.Tensor:
    """The hint network's input for a slice: (1, channels + hint channels, size, size).

    Args:
        image: (1, channels, rows, columns), normalised.
        hints: on the slice.
        seen: mask so far (rows, columns).
        window: the part of the slice to use.
        fill: grey value beyond the slice.
    """
    maps = torch.from_numpy(hint_maps(hints, window))[None]
    shown = window.to_input(torch.from_numpy(seen).float()[None, None])
    return torch.cat([window.to_input(image, fill), maps, shown], 1)


def followed(hints: Hints, mask: np.ndarray) -> float:
    """How well a mask (rows, columns) follows hints: 0 if empty or elsewhere, 1 if it contradicts none.

    The minimum of: the share of the inside points within it, the share of the outside points not within it,
    and the IoU of its bounding box with that of the extreme points or the box. Both boxes are enlarged by a
    voxel on each side, since hands are no more precise.
    """
    if hints.nothing:
        return float(not mask.any())
    shares = [1.0]
    if len(hints.inside):
        shares.append(_share(hints.inside, mask))
    if len(hints.outside):
        shares.append(1 - _share(hints.outside, mask))
    around = np.concatenate([hints.extreme, hints.box])
    if len(around):
        shares.append(_box_iou(around, np.argwhere(mask)) if mask.any() else 0.0)
    return min(shares)


def _share(points: np.ndarray, mask: np.ndarray) -> float:
    """Share of the points that lie in the mask."""
    rows, columns = np.clip(np.rint(points).astype(int), 0, np.array(mask.shape) - 1).T
    return float(mask[rows, columns].mean())


def _box_iou(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.stack([one.min(0), other.min(0)]) - 1, np.stack([one.max(0), other.max(0)]) + 1
    both = np.maximum(high.min(0) - low.max(0) + 1, 0).prod()
    return float(both / ((high - low + 1).prod(1).sum() - both))


def _marks(points: np.ndarray, size: int, width: float) -> np.ndarray:
    pixels = np.rint(points).astype(int)
    pixels = pixels[((pixels >= 0) & (pixels < size)).all(1)]
    if not len(pixels):
        return np.zeros((size, size), np.float32)
    away = np.ones((size, size), bool)
    away[pixels[:, 0], pixels[:, 1]] = False
    distance = distance_transform_edt(away)
    marks: np.ndarray = np.exp(-4 * np.log(2) * (distance / width) ** 2).astype(np.float32)
    return marks
