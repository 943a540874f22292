"""Marks as prompts for networks that know points, boxes and scribbles."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, label

from foldwise.systems.interactive.marks import ALL_SIDES, Said, limits_of, settled
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


def prompts_of(said: Said, shape: tuple[int, ...], thickness: np.ndarray) -> list[list[Prompt]]:
    """The prompts of each of an object's marks; what later ones withdrew is left out.

    Spans, empty planes and painted voxels are none.

    Args:
        said: all marks of the object, the oldest first.
        shape: of the grid (x, y, z).
        thickness: of scribbles along each axis, as the network was trained with; thinner ones are thickened.
    """
    valid = settled(said, shape)
    inside = np.stack(np.unravel_index(valid.inside, shape), 1)
    latest = {key: turn for turn, marks in enumerate(said) for key in limits_of(marks)}
    prompts: list[list[Prompt]] = []
    for turn, marks in enumerate(said):
        some: list[Prompt] = []
        prompts.append(some)
        if marks.painted:
            continue
        for key, limit in limits_of(marks).items():
            if latest[key] == turn and not limit.bars(inside).any():
                some += [Prompt("box", True, low, np.ones(high - low + 1, bool)) for low, high in limit.boxes]
        clicks, sides = [marks.inside], marks.extreme[:, marks.axis]
        # They are on the border, where the network does not expect points; four make a box.
        clicks += [marks.extreme[sides == n] for n in np.unique(sides) if (sides == n).sum() < ALL_SIDES]
        parts = [line_voxels(*ends) for ends in marks.lines] + [np.concatenate(clicks)]
        for points, settled_, object_ in (
            *((points, valid.inside, True) for points in parts),
            (marks.outside, valid.outside, False),
        ):
            kept = points[np.isin(np.ravel_multi_index(tuple(points.T), shape), settled_)]
            some += _strokes(kept, object_, shape, thickness)
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
