"""Marks as prompts for networks that know points, boxes and scribbles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, label

from foldwise.systems.interactive.marks import Marks
from foldwise.volumes.draw import line_voxels


class Prompt(NamedTuple):
    """A prompt in voxels of the scan's grid.

    Attributes:
        kind: what it is.
        inside: whether it marks the object, or what is not of it.
        start: (3,) its lowest x, y and z.
        voxels: (x, y, z) bool: a scribble from `start` on. Of others, its shape is the prompt's.
    """

    kind: Literal["box", "point", "scribble"]
    inside: bool
    start: np.ndarray
    voxels: np.ndarray


def prompts_of(said: Iterable[Marks], shape: tuple[int, ...], thickness: np.ndarray) -> list[Prompt]:
    """Marks as prompts, in the order in which they were made. Spans and empty planes have none.

    Args:
        said: of one object.
        shape: of the grid (x, y, z).
        thickness: of scribbles along each axis, as the network was trained with; thinner ones are thickened.
    """
    prompts = []
    for marks in said:
        boxes, clicks = list(marks.boxes), [marks.inside]
        for place in np.unique(marks.extreme[:, marks.axis]):
            points = marks.extreme[marks.extreme[:, marks.axis] == place]
            # Points on the border; the network's points are balls inside.
            if len(points) >= 4:
                boxes.append(np.stack([points.min(0), points.max(0)]))
            else:
                clicks.append(points)
        for corners in boxes:
            low, high = corners.min(0), corners.max(0)
            prompts.append(Prompt("box", True, low, np.ones(high - low + 1, bool)))
        for ends in marks.lines:
            prompts += _strokes(line_voxels(*ends), True, shape, thickness)
        prompts += _strokes(np.concatenate(clicks), True, shape, thickness)
        prompts += _strokes(marks.outside, False, shape, thickness)
    return prompts


def _strokes(points: np.ndarray, inside: bool, shape: tuple[int, ...], thickness: np.ndarray) -> list[Prompt]:
    """A point for each single voxel, and a scribble for each other connected component."""
    if not len(points):
        return []
    low, high = points.min(0), points.max(0) + 1
    drawn = np.zeros(high - low, bool)
    drawn[tuple((points - low).T)] = True
    components, count = label(drawn, np.ones((3, 3, 3)))
    prompts = []
    for component in range(1, count + 1):
        voxels = np.argwhere(components == component) + low
        if len(voxels) == 1:
            prompts.append(Prompt("point", inside, voxels[0], np.ones((1, 1, 1), bool)))
        else:
            prompts.append(Prompt("scribble", inside, *_thickened(voxels, shape, thickness)))
    return prompts


def _thickened(
    voxels: np.ndarray, shape: tuple[int, ...], thickness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A scribble as its lowest corner and a mask (x, y, z); flat ones stay on their plane."""
    flat = voxels.min(0) == voxels.max(0)
    brush = np.where(flat, 1, thickness)
    low = np.maximum(voxels.min(0) - brush + 1, 0)
    high = np.minimum(voxels.max(0) + brush, shape)
    drawn = np.zeros(high - low, bool)
    drawn[tuple((voxels - low).T)] = True
    square = np.ones(brush, bool)
    thin = drawn & ~binary_opening(drawn, square)
    return low, drawn | binary_dilation(thin, square)
