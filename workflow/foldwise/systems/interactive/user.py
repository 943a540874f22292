"""A simulated person who sees the truth of one slice at a time and marks it."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from foldwise.systems.interactive.hints import Hints, no_points
from foldwise.systems.interactive.kinds import KINDS, Kind

# Smallest part of a mistake worth a click, in voxels.
WORTH = 4


def draw_hints(
    truth: np.ndarray, seen: np.ndarray, kind: Kind, random: np.random.Generator, jitter: float = 0
) -> Hints:
    """A person's marks for an object on a slice.

    extreme: the four extreme points. box: a box. points: a click in the middle of each part; if a mask is
    already shown, one in the middle of its largest miss and of its largest excess. scribble: along the middle
    line of the object, and of the largest excess. hybrid: one of these at random.

    Args:
        truth: the object on this slice (rows, columns).
        seen: the mask shown there, possibly empty.
        kind: kind of marks.
        random: for random draws.
        jitter: maximum error of extreme points and corners. Voxels.
    """
    if not truth.any():
        return Hints(nothing=True)
    if kind == "hybrid":
        kind = KINDS[int(random.integers(len(KINDS) - 1))]
    if kind == "extreme":
        return Hints(extreme=_extremes(truth, random)).shifted(random, jitter)
    if kind == "box":
        where = np.argwhere(truth)
        corners = np.stack([where.min(0), where.max(0)]).astype(float)
        return Hints(box=corners).shifted(random, jitter)
    missed, excess = truth & ~seen, seen & ~truth
    if kind == "points":
        inside = [_middle(part) for part in _parts(truth)]
        if seen.any() and (found := _parts(missed)):
            inside.append(_middle(found[0]))
        outside = [_middle(part) for part in _parts(excess)[:1]]
        return Hints(inside=_points(inside), outside=_points(outside))
    lines = np.argwhere(_line(truth)).astype(float)
    unwanted = [np.argwhere(_line(part)) for part in _parts(excess)[:1]]
    return Hints(inside=lines, outside=unwanted[0].astype(float) if unwanted else no_points())


def _extremes(truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    where = np.argwhere(truth)
    chosen = []
    for axis in (0, 1):
        for end in (where[:, axis].min(), where[:, axis].max()):
            chosen.append(random.choice(where[where[:, axis] == end]))
    return np.array(chosen, float)


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts of at least `WORTH` voxels (all of a smaller mask's), the largest first."""
    parts, count = cc3d.connected_components(mask.astype(np.uint8), connectivity=8, return_N=True)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = [int(n) for n in np.argsort(-sizes) if sizes[n] >= min(WORTH, sizes.max())]
    return [parts == n + 1 for n in order]


def _middle(part: np.ndarray) -> np.ndarray:
    """The voxel farthest from the part's border."""
    depth = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    return np.array(np.unravel_index(int(depth.argmax()), part.shape), float)


def _line(part: np.ndarray) -> np.ndarray:
    line: np.ndarray = skeletonize(part)
    return line if line.any() else part


def _points(points: list[np.ndarray]) -> np.ndarray:
    return np.stack(points) if points else no_points()
