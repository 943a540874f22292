"""Outlines of masks along the borders of their voxels, as closed polygons without holes.

On borders, not through the centres of the outer voxels: a polygon encloses just the area of its voxels, a
single voxel has an outline, and every centre is half a voxel away from it, so that any reader which asks for
centres finds the same voxels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

# Steps between corners of voxels, counter-clockwise.
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# A voxel's sides in that order: the corner at which each starts, axis and step to the voxel beyond.
SIDES = (((0, 0), 1, -1), ((1, 0), 0, 1), ((1, 1), 1, 1), ((0, 1), 0, -1))
WITH_DIAGONALS = np.ones((3, 3), bool)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The outlines of a slice's parts; voxels of a part share edges.

    A hole is joined to the outside by a channel without width, DICOM's "keyhole" (PS3.3, C.8.8.6.3), since a
    plain contour of an RTSTRUCT has no holes. Readers that fill what is inside any contour and readers that
    fill what is inside an odd number of them find the same.

    Args:
        mask: (x, y) bool.

    Returns:
        For each part its corners (n, 2) in voxel indices (centres are at whole numbers), counter-clockwise
        where x points right and y up; the last is not the first again.
    """
    parts, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        edges = _edges(np.pad(parts[box] == number, 1))
        # Half a voxel from a corner to the centre, and one for the padding.
        start = [along.start - 1.5 for along in box]
        found.append(np.array(list(_turns(edges)), float) + start)
    return found


def _edges(part: np.ndarray) -> np.ndarray:
    """The steps of a walk around a part: (4, x, y) bool, from every voxel's lower left corner by `STEPS`.

    The part is to the left of every step along its border. Channels to its holes are taken both ways.
    """
    edges = np.stack(
        [np.roll(part & ~np.roll(part, -step, axis), corner, (0, 1)) for corner, axis, step in SIDES]
    )
    border = np.asarray(edges.any(0))
    gaps, _ = ndimage.label(~part, WITH_DIAGONALS)
    for number, box in enumerate(ndimage.find_objects(gaps), start=1):
        if number == gaps[0, 0]:
            continue
        # To the left of the hole's leftmost voxel, which no other of its voxels can bar.
        x = box[0].start
        y = int((gaps[x] == number).argmax())
        while True:
            edges[2, x, y] = edges[0, x - 1, y] = True
            x -= 1
            if border[x, y]:
                break
    return edges


def _turns(edges: np.ndarray) -> Iterator[tuple[int, int]]:
    """The corners at which the walk turns.

    It turns left where it can: so it keeps all of the part on its left, and never crosses itself.
    """
    open_ = edges.tolist()
    # The lower left corner of the leftmost column, where only one step starts.
    x, y = start = tuple(np.argwhere(edges[0])[0].tolist())
    heading = 3
    while True:
        turned = next(way for way in (heading + 1, heading, heading + 3) if open_[way % 4][x][y]) % 4
        if turned != heading:
            yield x, y
        heading = turned
        x, y = x + STEPS[heading][0], y + STEPS[heading][1]
        if (x, y) == start:
            return
