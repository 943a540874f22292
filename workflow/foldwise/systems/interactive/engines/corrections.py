"""Changes of a mask on a plane around the marks that contradict it."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.planes import ACROSS, Plane, View
from foldwise.systems.interactive.engines.shapes import (
    beyond,
    depth_mm,
    pooled,
    radius_mm,
    reachable,
    signed_mm,
    window,
)
from foldwise.systems.interactive.engines.spreading import spread
from foldwise.systems.interactive.marks import Settled

# Marks shorter than so many pixels are clicks; strokes are longer than so many.
SMALL, STROKE = 4, 8
# A change that the image suggests is made if a mark is at least this share as deep in it as its middle.
MIDDLE = 0.6
# Nothing that the image suggests is believed if it leaves a smaller share of the mask.
KEEPS = 0.5
# A click reaches so many times as far as it is deep in the mask, or outside it.
CLICK = 1.5
# And a stroke at most as far as this share of its length.
WIDE = 0.3

# A distance between planes across which nothing spreads. mm.
FAR = 1e6


def changed(plane: Plane) -> np.ndarray:
    """The mask (rows, columns) that a person has seen, changed around the marks that contradict it.

    As far as a geodesic from the marks says; or the image, if there the marks are in the middle of what
    changes, as marks of a mistake are.
    """
    slab = Scan(plane.image[:, None], np.diag([FAR, *plane.spacing, 1.0]))
    wrong = {True: plane.inside & ~plane.seen, False: plane.outside & plane.seen}
    marked = [np.flatnonzero(mask) for mask in (plane.inside, wrong[False])]
    fixed = Settled(marked[0], marked[1], (), (1, *plane.seen.shape))
    after = spread(slab, plane.seen[None], fixed)[0]
    after &= ~_beyond(plane, wrong[False])
    if not after.any():
        return after.astype(np.float32)
    likely = _likely(plane, after, plane.seen)
    if not _keeps(likely, after):
        return after.astype(np.float32)
    for wanted, marks in wrong.items():
        differs = (likely == wanted) & (plane.seen != wanted)
        parts = cc3d.connected_components(differs.astype(np.uint8), connectivity=4)
        depth = depth_mm(differs, plane.spacing)
        for number in np.unique(parts[marks & differs]):
            part = parts == number
            if depth[part & marks].max() >= MIDDLE * depth[part].max():
                after[part] = wanted
    return _joined(plane, after, wrong[False]).astype(np.float32)


def adjusted(plane: Plane) -> np.ndarray:
    """A mask (rows, columns) that does not come from marks, changed as far as the image says it is wrong.

    It must have voxels that are not marked outside.
    """
    shape = plane.seen & ~plane.outside
    found = _likely(plane, shape, plane.seen)
    return found if _keeps(found, shape) else changed(plane) > 0.5


def corrected(plane: Plane, shape: np.ndarray, shown: np.ndarray) -> tuple[View, np.ndarray, np.ndarray]:
    """Like a mask, but near marks that contradict the one that was shown.

    Args:
        plane: the plane.
        shape: (rows, columns) bool, not empty: the mask as far as it is known to be right.
        shown: (rows, columns) bool.

    Returns:
        a window of the plane; on its grid, the probability and the mask that it was assumed to be like.
    """
    every = shape | plane.inside | shown
    size = radius_mm(shape, plane.spacing)
    span = np.ptp(np.argwhere(every), 0).max() + 1
    view = View(plane, window(every, np.ceil(0.7 * size / plane.spacing) + 3), span // ACROSS)
    seen, after = (pooled(mask[view.where].astype(np.float32), view.factor) > 0.5 for mask in (shown, shape))
    before, distance = signed_mm(seen, view.spacing), signed_mm(after, view.spacing)
    prior = (distance / (0.15 * size + 0.1)).clip(-4, 4)
    for wrong, sign in ((view.outside & seen, -1), (view.inside & ~seen, 1)):
        if wrong.any():
            # A stroke shows how far a mistake reaches; a click does not.
            length = float((np.ptp(np.argwhere(wrong), 0) * view.spacing).max())
            reach = CLICK * float(np.abs(before[wrong]).max()) - length / 2
            if length > STROKE * plane.spacing.min():
                reach = min(reach, WIDE * length)
            if reach > 0:
                away = distance_transform_edt(~wrong, sampling=view.spacing)
                near = np.exp(-((away / (reach + view.spacing.min())) ** 2))
                prior = prior * (1 - near) + sign * 4 * near
    core = prior > 0
    return view, view.settle(prior, core, (distance < 0) & (distance > -size), core | view.inside), core


def _likely(plane: Plane, shape: np.ndarray, shown: np.ndarray) -> np.ndarray:
    view, found, _ = corrected(plane, shape, shown)
    return view.whole(found) > 0.5


def _beyond(plane: Plane, wrong: np.ndarray) -> np.ndarray:
    """What of the mask seen is beyond clicks outside, as seen from the object's middle."""
    found = np.zeros(plane.seen.shape, bool)
    if plane.middle is None:
        return found
    parts = cc3d.connected_components(wrong.astype(np.uint8))
    for number, box in enumerate(find_objects(parts), start=1):
        if all(axis.stop - axis.start <= SMALL for axis in box):
            found |= beyond(plane.seen, plane.middle & ~plane.outside, parts == number, plane.spacing)
    return found


def _joined(plane: Plane, after: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Without what marks outside have cut off from marks that were right.

    If nothing was right before, any part may be the object.
    """
    held = plane.inside & plane.seen & after
    if not wrong.any() or not held.any():
        return after
    joined = after & (~reachable(plane.seen, wrong) | reachable(after, held))
    return joined if _keeps(joined, after) else after


def _keeps(found: np.ndarray, mask: np.ndarray) -> bool:
    return bool((found & mask).sum() >= KEEPS * mask.sum())
