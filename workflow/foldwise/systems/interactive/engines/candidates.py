"""The mask of a plane from the marks on it: several shapes are tried, and weighted by the image."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.special import softmax
from skimage.draw import polygon2mask

from foldwise.systems.interactive.engines.corrections import STROKE, changed, corrected
from foldwise.systems.interactive.engines.planes import ACROSS, Plane, View
from foldwise.systems.interactive.engines.shapes import depth_mm, iou, pooled, radius_mm, signed_mm, window

# Where only the middle of an object is marked, its half width is unknown: all of these are tried (mm), as
# far as they are above the pixels' size; and for a diameter these shares of it.
HALF_WIDTHS = 3.0 * 1.5 ** np.arange(9)
SHARES = np.array([0.2, 0.3, 0.4])
# The lower, the more the best of them counts. Higher for strokes, whose length already tells sizes apart.
TEMPERATURE, OF_STROKES = 0.2, 0.6
# The radius of an object is about this share of a stroke along its middle, within the factor e (one standard
# deviation).
OF_LENGTH = 0.5
# A painted area at least so deep (pixels) shows the shape of the object, not only its middle.
DEEP = 3.0
# Odds at the middle of an outline whose tips are known, and of one that is only a box; and their limits.
KNOWN, GUESSED = (6.0, 4.0), (2.0, 3.0)
# What makes a mask plausible, beside contrast: the assumed shape; other grey values than around it; reaching
# all sides of the box; being a correction of what a person has seen.
ASSUMED, APART, REACHES, SEEN = 0.5, 0.5, 1.0, 0.2
# A probability and how plausible it is.
Try = tuple[np.ndarray, float]


def probability(plane: Plane) -> tuple[np.ndarray, float]:
    """The probability (rows, columns) of the object, and its expected IoU; 0 where nothing is known.

    Clicks and strokes on a mask that was seen correct it; they are not in the middle of the object. Else
    several shapes are tried; the result is their mean, weighted by how plausible each is on the image, and
    the less they agree, the lower is the expected IoU.
    """
    shape = plane.seen & ~plane.outside
    painted = plane.inside.any() and depth_mm(plane.inside, (1, 1)).max() >= DEEP
    if painted:
        shape = shape | plane.inside
    usable = shape.any()
    if usable and plane.box is None and not painted:
        return changed(plane), 1.0
    tries: list[Try] = []
    if plane.box is not None:
        tries.append(_enclosed(plane, plane.box))
    if usable:
        view, found, core = corrected(plane, shape, plane.seen | shape)
        tries.append(_tried(plane, view, found, core, SEEN))
    # A correction is not in the middle of the object.
    stroke = 0.0 if usable or plane.box is not None else _length(plane)
    if plane.inside.any() and not usable:
        tries += _grown(plane, stroke)
    if not tries:
        return np.zeros(plane.seen.shape, np.float32), 0.0
    weights = softmax(np.array([score for _, score in tries]) / (OF_STROKES if stroke else TEMPERATURE))
    mean = np.asarray(sum(weight * found for weight, (found, _) in zip(weights, tries, strict=True)))
    shares = [iou(found > 0.5, mean > 0.5) for found, _ in tries]
    return mean, float(weights @ shares)


def _enclosed(plane: Plane, box: np.ndarray) -> Try:
    """Within a box: as outlined by where the object touches its sides, unless the image says otherwise."""
    low, high = box
    where = np.zeros(plane.seen.shape, bool)
    where[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
    view = View(plane, window(where, np.ceil(0.75 * (high - low + 1))), (high - low + 1).max() // ACROSS)
    touched, (middle, limit) = _touched(plane.inside, low, high), KNOWN
    if touched is None:
        row, column = (low + high) / 2
        touched, (middle, limit) = np.array([[column, column], [row, row]]), GUESSED
    assumed = polygon2mask(view.inside.shape, view.pixels(outline(low, high, touched)))
    if not assumed.any():
        # Thinner than the window's pixels.
        assumed = pooled(where[view.where], view.factor, np.any)
    distance = signed_mm(assumed, view.spacing)
    depth = float(distance.max())
    prior = (middle * distance / depth).clip(-limit, limit)
    found = view.settle(prior, distance > depth / 2, view.outside & (distance > -1.5 * depth))
    return _tried(plane, view, found, assumed)


def _touched(inside: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Where marks touch the sides of a box, as extreme points do; None unless they touch all four.

    Args:
        inside: (rows, columns) bool.
        low: (2,) first row and column of the box.
        high: (2,) last ones.

    Returns:
        (2, 2): columns of the first and last row, then rows of the first and last column.
    """
    sides = [[inside[low[0]], inside[high[0]]], [inside[:, low[1]], inside[:, high[1]]]]
    if not all(side.any() for pair in sides for side in pair):
        return None
    return np.array([[np.median(np.flatnonzero(side)) for side in pair] for pair in sides])


def outline(low: np.ndarray, high: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """Quarters of ellipses from each place where the object touches its box to the next; (n, 2) pixels."""
    (top, bottom), (left, right) = touched
    first, last = low - 0.5, high + 0.5
    tips = [(first[0], top), (right, last[1]), (last[0], bottom), (left, first[1])]
    angles = np.linspace(0, np.pi / 2, 24)
    cosine, sine = np.cos(angles), np.sin(angles)
    quarters = []
    for turn, (start, stop) in enumerate(zip(tips, tips[1:] + tips[:1], strict=True)):
        # The centre shares its row with one of both tips, and its column with the other one.
        row, column = (start[0], stop[1]) if turn % 2 else (stop[0], start[1])
        to_start, to_stop = (sine, cosine) if turn % 2 else (cosine, sine)
        rows = row + (start[0] + stop[0] - 2 * row) * to_start
        columns = column + (start[1] + stop[1] - 2 * column) * to_stop
        quarters.append(np.stack([rows, columns], 1))
    return np.concatenate(quarters)


def _length(plane: Plane) -> float:
    """Length of the longest stroke inside; 0: there are only clicks, or a diameter. mm."""
    if plane.line:
        return 0.0
    parts = cc3d.connected_components(plane.inside.astype(np.uint8))
    spans = [[axis.stop - axis.start for axis in box] for box in find_objects(parts)]
    strokes = [float(np.linalg.norm(span * plane.spacing)) for span in spans if max(span) > STROKE]
    return max(strokes, default=0.0)


def _grown(plane: Plane, stroke: float) -> list[Try]:
    """Around marks in the middle of the object, which is as wide as each of several sizes.

    If the longest mark is a stroke, its length (mm, else 0) says which of them are likely.
    """
    middle = np.argwhere(plane.inside)
    length = float(np.linalg.norm((np.ptp(middle, 0) + 1) * plane.spacing))
    sizes = length * SHARES if plane.line else HALF_WIDTHS * min(1.0, plane.spacing.min())
    extent = np.array(plane.inside.shape) * plane.spacing
    if plane.box is not None:
        extent = (np.ptp(plane.box, 0) + 1) * plane.spacing
    tries = []
    for size in sizes[: max(1, int((sizes < 0.4 * extent.min()).sum()))]:
        margin = np.ceil(3 * size / plane.spacing) + 2
        view = View(plane, window(plane.inside, margin), int(size / 12 / plane.spacing.min()))
        away = distance_transform_edt(~view.inside, sampling=view.spacing)
        if plane.line:
            centre = (middle.mean(0) * plane.spacing)[:, None, None]
            apart = np.sqrt(((view.places() - centre) ** 2).sum(0))
            view.outside |= apart > 0.525 * length + view.spacing.max()
        core = away < max(size / 2, 1.5 * view.spacing.min())
        ring = (away > size) & (away < 2 * size + 2 * view.spacing.max())
        found = view.settle((3 * (1 - away / size)).clip(-3, 3), core, ring)
        bonus = 0.0
        if stroke:
            radius = max(radius_mm(found > 0.5, view.spacing), view.spacing.min())
            bonus = APART * view.apart(found > 0.5)
            bonus -= OF_STROKES * np.log(radius / (OF_LENGTH * stroke)) ** 2 / 2
        tries.append(_tried(plane, view, found, away < size, bonus))
    return tries


def _tried(plane: Plane, view: View, found: np.ndarray, assumed: np.ndarray, bonus: float = 0) -> Try:
    score = _plausibility(view, found > 0.5, assumed) + bonus
    whole = view.whole(found)
    if plane.box is not None and (whole > 0.5).any():
        where = np.argwhere(whole > 0.5)
        low, high = np.maximum(where.min(0), plane.box[0]), np.minimum(where.max(0), plane.box[1])
        both = np.prod(high - low + 1)
        either = np.prod(np.ptp(where, 0) + 1) + np.prod(np.ptp(plane.box, 0) + 1) - both
        score += REACHES * float(both / either)
    return whole, score


def _plausibility(view: View, mask: np.ndarray, assumed: np.ndarray) -> float:
    """Contrast across the border, less that within the mask, and agreement with the assumed shape."""
    border, within = [np.zeros(0)], [np.zeros(0)]
    for axis, contrast in enumerate(view.contrasts):
        one, other = (np.take(mask, np.arange(mask.shape[axis])[part], axis) for part in (_FIRST, _LAST))
        border.append(contrast[one ^ other])
        within.append(contrast[one & other])
    across, inner = np.concatenate(border), np.concatenate(within)
    if not len(across) or not len(inner):
        return -1.0
    edges = [mask[0], mask[-1], mask[:, 0], mask[:, -1]]
    cut = sum(int(edge.sum()) for edge in edges) / len(across)
    agreement = (mask & assumed).sum() / (mask | assumed).sum()
    return float(across.mean() - inner.mean() + ASSUMED * agreement - 2 * cut)


_FIRST, _LAST = slice(None, -1), slice(1, None)
