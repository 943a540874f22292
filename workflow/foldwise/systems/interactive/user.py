"""A simulated person who sees the truth of one slice at a time and marks it."""

from __future__ import annotations

from dataclasses import replace

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from foldwise.systems.interactive.diameter import longest_line
from foldwise.systems.interactive.hints import Hints, no_points
from foldwise.systems.interactive.kinds import KINDS, Kind
from foldwise.systems.interactive.marks import Marks, of_slice
from foldwise.volumes.draw import line_voxels

# Smallest part of a mistake worth a click, in voxels.
WORTH = 4
Spacing = tuple[float, float]


def draw_marks(
    truth: np.ndarray,
    seen: np.ndarray,
    kind: Kind,
    random: np.random.Generator,
    *,
    axis: int,
    place: int,
    spacing: tuple[float, float, float],
) -> Marks:
    """A person's marks for an object on a plane of a scan; see `draw_hints`.

    The diameter of an object that is not found yet is a line. Strokes that correct are marks inside and
    outside.

    Args:
        truth: the object on this plane (rows, columns): the grid's other two axes, in their order.
        seen: the mask shown there, possibly empty.
        kind: kind of marks.
        random: for random draws.
        axis: the axis (0 to 2) across the planes.
        place: index of the plane.
        spacing: of the scan's grid. mm.
    """
    kind = _one(kind, random)
    rows, columns = (step for number, step in enumerate(spacing) if number != axis)
    marks = of_slice(draw_hints(truth, seen, kind, random, spacing=(rows, columns)), axis, place)
    if kind == "line" and truth.any() and _unmarked(truth, seen):
        # Its voxels are in order.
        return replace(marks, inside=Marks(axis).inside, lines=marks.inside[None, [0, -1]])
    return marks


def draw_hints(
    truth: np.ndarray,
    seen: np.ndarray,
    kind: Kind,
    random: np.random.Generator,
    jitter: float = 0,
    spacing: Spacing = (1, 1),
) -> Hints:
    """A person's marks for an object on a slice.

    extreme: the four extreme points. box: a box. points: a click in the middle of each part. scribble: along
    the middle line. line: along the longest diameter. hybrid: one of these at random.

    Clicks and strokes correct a mask that has found the object: one in the largest part that is missing, and
    one outside, in the largest excess; each only where there is such a part. If the mask is right, or has
    found nothing of the object, they mark the object as if none was shown (and the largest excess, if any).
    Extreme points and boxes are drawn around the whole object; if the mask has found it and contradicts none
    of them, they would change nothing, and clicks correct it. Where there is no object, the only mark is that
    there is none.

    Args:
        truth: the object on this slice (rows, columns).
        seen: the mask shown there, possibly empty.
        kind: kind of marks.
        random: for random draws.
        jitter: maximum error of extreme points and corners. Voxels.
        spacing: mm between rows and between columns.
    """
    if not truth.any():
        return Hints(nothing=True)
    kind = _one(kind, random)
    if kind in ("extreme", "box"):
        around = _around(truth, kind, random)
        if _unmarked(truth, seen) or not _obeys(seen, truth, around):
            return around.shifted(random, jitter)
        kind = "points"
    wanted = truth if _unmarked(truth, seen) else _largest(truth & ~seen)
    draw = {"points": _middles, "scribble": _middle_line, "line": _diameter}[kind]
    return Hints(inside=draw(wanted, spacing), outside=draw(_largest(seen & ~truth), spacing))


def _one(kind: Kind, random: np.random.Generator) -> Kind:
    """The kind itself, or one of the others for `hybrid`, which comes last."""
    return KINDS[int(random.integers(len(KINDS) - 1))] if kind == "hybrid" else kind


def _unmarked(truth: np.ndarray, seen: np.ndarray) -> bool:
    """Whether a person marks the object itself, not what is missing of it."""
    return not (truth & seen).any() or np.array_equal(truth, seen)


def _around(truth: np.ndarray, kind: Kind, random: np.random.Generator) -> Hints:
    if kind == "box":
        return Hints(box=_corners(truth).astype(float))
    where = np.argwhere(truth)
    chosen = []
    for axis in (0, 1):
        for end in (where[:, axis].min(), where[:, axis].max()):
            chosen.append(random.choice(where[where[:, axis] == end]))
    return Hints(extreme=np.array(chosen, float))


def _corners(mask: np.ndarray) -> np.ndarray:
    """First and last row and column of a mask."""
    where = np.argwhere(mask)
    return np.stack([where.min(0), where.max(0)])


def _obeys(seen: np.ndarray, truth: np.ndarray, around: Hints) -> bool:
    """Whether a mask lies within the object's box and holds its extreme points."""
    (low, high), (least, most) = _corners(truth), _corners(seen)
    rows, columns = around.extreme.astype(int).T
    return bool((least >= low).all() and (most <= high).all() and seen[rows, columns].all())


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts of at least `WORTH` voxels (all of a smaller mask's), the largest first."""
    parts, count = cc3d.connected_components(mask.astype(np.uint8), connectivity=8, return_N=True)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = [int(n) for n in np.argsort(-sizes) if sizes[n] >= min(WORTH, sizes.max())]
    return [parts == n + 1 for n in order]


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part; the mask itself if it is empty."""
    return _parts(mask)[0] if mask.any() else mask


def _middles(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Of each part the voxel (row, column) farthest from its border, in mm."""
    middles = []
    for part in _parts(mask):
        depth = distance_transform_edt(np.pad(part, 1), sampling=spacing)[1:-1, 1:-1]
        middles.append(np.unravel_index(int(depth.argmax()), part.shape))
    return np.array(middles, float) if middles else no_points()


def _middle_line(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Voxels of the middle line, which does not depend on the spacing."""
    line = skeletonize(mask)
    return np.argwhere(line if line.any() else mask).astype(float)


def _diameter(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Voxels along the longest diameter, in order."""
    return line_voxels(*longest_line(mask, spacing)).astype(float) if mask.any() else no_points()
