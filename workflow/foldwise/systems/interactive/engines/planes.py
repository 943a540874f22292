"""The mask of a plane from the marks on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from scipy.special import expit, softmax

from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.appearance import Appearance
from foldwise.systems.interactive.engines.shapes import (
    beyond,
    depth_mm,
    enlarged,
    iou,
    noise_of,
    pooled,
    radius_mm,
    reachable,
    signed_mm,
    window,
)  # fmt: skip
from foldwise.systems.interactive.engines.spreading import spread
from foldwise.systems.interactive.engines.walker import walk
from foldwise.systems.interactive.marks import Settled

# Weight of appearance and shape against smoothness, of marks, and the contrast in units of noise.
TRUST, SURE, CONTRAST = 0.2, 10.0, 1.0
# Rounds of learning what the object looks like, as in GrabCut (Rother 2004).
ROUNDS = 3
# Pixels across an object that are enough.
ACROSS = 40
# Where only the middle of an object is marked, its half width is unknown: all of these are tried (mm), as
# far as they are above the pixels' size; and for a diameter these shares of it.
HALF_WIDTHS = 3.0 * 1.5 ** np.arange(9)
SHARES = np.array([0.2, 0.3, 0.4])
# The smaller, the more does the best of them count.
TEMPERATURE = 0.2
# A painted area at least so deep (pixels) shows the shape of the object, not only its middle.
DEEP = 3.0


# Marks shorter than so many pixels are clicks.
SMALL = 4
# A change that the image suggests is made if a mark is at least this share as deep in it as its middle.
MIDDLE = 0.6
# Nothing that the image suggests is believed if it leaves a smaller share of the mask.
KEEPS = 0.5
# A click reaches so many times as far as it is deep in the mask, or outside it.
CLICK = 1.5

# A distance between planes across which nothing spreads. mm.
FAR = 1e6

# What makes a mask plausible, beside contrast: the assumed shape; reaching all sides of the box; being a
# correction of what a person has seen.
ASSUMED, REACHES, SEEN = 0.5, 1.0, 0.2
# A probability and how plausible it is.
_Try = tuple[np.ndarray, float]


@dataclass(frozen=True)
class Plane:
    """A plane and what is said about an object on it.

    Attributes:
        image: (channels, rows, columns) float32.
        spacing: (2,) mm between rows and between columns.
        inside: (rows, columns) bool: marked as the object.
        outside: (rows, columns) bool: certainly not the object.
        box: (2, 2) lowest and highest row and column of the object, or None.
        seen: (rows, columns) bool: the mask before.
        line: whether the marks inside are the longest diameter.
        middle: (rows, columns) bool: marked as the object on this plane, or on the nearest one with such
            marks; None: nothing is.
    """

    image: np.ndarray
    spacing: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    box: np.ndarray | None
    seen: np.ndarray
    line: bool = False
    middle: np.ndarray | None = None

    def probability(self) -> tuple[np.ndarray, float]:
        """The probability (rows, columns) of the object, and its expected IoU; 0 where nothing is known.

        Clicks and strokes on a mask that was seen correct it; they are not in the middle of the object. Else
        several shapes are tried; the result is their mean, weighted by how plausible each is on the image,
        and the less they agree, the lower is the expected IoU.
        """
        shape = self.seen & ~self.outside
        painted = self.inside.any() and distance_transform_edt(np.pad(self.inside, 1)).max() >= DEEP
        if painted:
            shape = shape | self.inside
        usable = shape.any()
        if usable and self.box is None and not painted:
            return self._changed(), 1.0
        tries: list[_Try] = []
        if self.box is not None:
            tries.append(self._enclosed(self.box))
        if usable:
            tries.append(self._corrected(shape, self.seen | shape))
        # A correction is not in the middle of the object.
        if self.inside.any() and not painted and not usable:
            tries += self._grown()
        if not tries:
            return np.zeros(self.seen.shape, np.float32), 0.0
        weights = softmax(np.array([score for _, score in tries]) / TEMPERATURE)
        mean = np.asarray(sum(weight * found for weight, (found, _) in zip(weights, tries, strict=True)))
        shares = [iou(found > 0.5, mean > 0.5) for found, _ in tries]
        return mean, float(weights @ shares)

    def corrected(self) -> np.ndarray:
        """The probability if the mask before does not come from marks; the image says how far it is wrong."""
        shape = self.seen & ~self.outside
        if not shape.any():
            return self.probability()[0]
        found = self._corrected(shape, self.seen)[0]
        return found if _keeps(found > 0.5, shape) else self._changed()

    def _changed(self) -> np.ndarray:
        """The mask that a person has seen, changed around the marks that contradict it.

        As far as a geodesic from the marks says; or the image, if there the marks are in the middle of what
        changes, as marks of a mistake are.
        """
        slab = Scan(self.image[:, None], np.diag([FAR, *self.spacing, 1.0]))
        wrong = {True: self.inside & ~self.seen, False: self.outside & self.seen}
        marked = [np.flatnonzero(mask) for mask in (self.inside, wrong[False])]
        fixed = Settled(marked[0], marked[1], (), (1, *self.seen.shape))
        changed = spread(slab, self.seen[None], fixed)[0]
        changed &= ~self._beyond(wrong[False])
        likely = self._corrected(changed, self.seen)[0] > 0.5 if changed.any() else changed
        if not _keeps(likely, changed):
            return changed.astype(np.float32)
        for wanted, marks in wrong.items():
            differs = (likely == wanted) & (self.seen != wanted)
            parts = cc3d.connected_components(differs.astype(np.uint8), connectivity=4)
            depth = depth_mm(differs, self.spacing)
            for number in np.unique(parts[marks & differs]):
                part = parts == number
                if depth[part & marks].max() >= MIDDLE * depth[part].max():
                    changed[part] = wanted
        return changed.astype(np.float32)

    def _beyond(self, wrong: np.ndarray) -> np.ndarray:
        """What of the mask seen is beyond clicks outside, as seen from the object's middle."""
        found = np.zeros(self.seen.shape, bool)
        if self.middle is None:
            return found
        parts = cc3d.connected_components(wrong.astype(np.uint8))
        for number in range(1, int(parts.max()) + 1):
            part = parts == number
            if (np.ptp(np.argwhere(part), 0) < SMALL).all():
                found |= beyond(self.seen, self.middle & ~self.outside, part, self.spacing)
        return found

    def _tried(self, view: _View, found: np.ndarray, assumed: np.ndarray, bonus: float = 0) -> _Try:
        score = view.plausibility(found > 0.5, assumed) + bonus
        whole = view.whole(found)
        if self.box is not None and (whole > 0.5).any():
            where = np.argwhere(whole > 0.5)
            low, high = np.maximum(where.min(0), self.box[0]), np.minimum(where.max(0), self.box[1])
            both = np.prod(high - low + 1)
            either = np.prod(np.ptp(where, 0) + 1) + np.prod(np.ptp(self.box, 0) + 1) - both
            score += REACHES * float(both / either)
        return whole, score

    def _enclosed(self, box: np.ndarray) -> _Try:
        """Within a box: an ellipse, unless the image says otherwise."""
        low, high = box
        extent = (high - low + 1) * self.spacing
        where = np.zeros(self.seen.shape, bool)
        where[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
        factor = (high - low + 1).max() // ACROSS
        view = _View(self, window(where, np.ceil(0.75 * extent / self.spacing)), factor)
        centre = (low + high) / 2 * self.spacing
        away = (view.places() - centre[:, None, None]) / (extent / 2)[:, None, None]
        radius = np.sqrt((away**2).sum(0))
        found = view.settle((4 * (1 - radius)).clip(-3, 3), radius < 0.5, view.outside & (radius < 2.5))
        return self._tried(view, found, radius < 1)

    def _corrected(self, shape: np.ndarray, shown: np.ndarray) -> _Try:
        """Like a mask (rows, columns), but near clicks that contradict the one that was shown."""
        every = shape | self.inside | shown
        size = radius_mm(shape, self.spacing)
        span = np.ptp(np.argwhere(every), 0).max() + 1
        view = _View(self, window(every, np.ceil(0.7 * size / self.spacing) + 3), span // ACROSS)
        seen, after = (
            pooled(mask[view.where].astype(np.float32), view.factor) > 0.5 for mask in (shown, shape)
        )
        before, distance = signed_mm(seen, view.spacing), signed_mm(after, view.spacing)
        prior = (distance / (0.15 * size + 0.1)).clip(-4, 4)
        for wrong, sign in ((view.outside & seen, -1), (view.inside & ~seen, 1)):
            if wrong.any():
                # A stroke shows how far a mistake reaches; a click does not.
                length = float((np.ptp(np.argwhere(wrong), 0) * view.spacing).max())
                reach = CLICK * float(np.abs(before[wrong]).max()) - length / 2
                if reach > 0:
                    away = distance_transform_edt(~wrong, sampling=view.spacing)
                    near = np.exp(-((away / (reach + view.spacing.min())) ** 2))
                    prior = prior * (1 - near) + sign * 4 * near
        core = prior > 0
        found = view.settle(prior, core, (distance < 0) & (distance > -size), core | view.inside)
        return self._tried(view, found, core, SEEN)

    def _grown(self) -> list[_Try]:
        """Around marks in the middle of the object, which is as wide as each of several sizes."""
        middle = np.argwhere(self.inside)
        length = float(np.linalg.norm((np.ptp(middle, 0) + 1) * self.spacing))
        sizes = length * SHARES if self.line else HALF_WIDTHS * min(1.0, self.spacing.min())
        extent = np.array(self.inside.shape) * self.spacing
        if self.box is not None:
            extent = (np.ptp(self.box, 0) + 1) * self.spacing
        sizes = sizes[: max(1, int((sizes < 0.4 * extent.min()).sum()))]
        tries = []
        for size in sizes:
            margin = np.ceil(3 * size / self.spacing) + 2
            view = _View(self, window(self.inside, margin), int(size / 12 / self.spacing.min()))
            away = distance_transform_edt(~view.inside, sampling=view.spacing)
            if self.line:
                centre = (middle.mean(0) * self.spacing)[:, None, None]
                beyond = np.sqrt(((view.places() - centre) ** 2).sum(0))
                view.outside |= beyond > 0.525 * length + view.spacing.max()
            core = away < max(size / 2, 1.5 * view.spacing.min())
            ring = (away > size) & (away < 2 * size + 2 * view.spacing.max())
            found = view.settle((3 * (1 - away / size)).clip(-3, 3), core, ring)
            tries.append(self._tried(view, found, away < size))
        return tries


class _View:
    """A window of a plane with coarser pixels."""

    def __init__(self, plane: Plane, where: Sequence[slice], factor: int):
        self.plane, self.where, self.factor = plane, tuple(where), max(1, int(factor))
        self.image = pooled(plane.image[(slice(None), *where)], self.factor)
        self.inside = pooled(plane.inside[self.where], self.factor, np.any)
        self.outside = pooled(plane.outside[self.where], self.factor, np.all) & ~self.inside
        self.spacing = plane.spacing * self.factor
        self.noise = noise_of(self.image)

    def places(self) -> np.ndarray:
        """(2, rows, columns) mm of the pixels' centres from the plane's first pixel."""
        axes = [
            (part.start + (np.arange(count) + 0.5) * self.factor - 0.5) * step
            for part, count, step in zip(self.where, self.inside.shape, self.plane.spacing, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))

    def whole(self, found: np.ndarray) -> np.ndarray:
        """Values of the window on the plane, 0 elsewhere."""
        values = np.zeros(self.plane.seen.shape, np.float32)
        part = values[self.where]
        part[...] = enlarged(found, self.factor, part.shape)
        return values

    def settle(
        self, prior: np.ndarray, core: np.ndarray, ring: np.ndarray, seeds: np.ndarray | None = None
    ) -> np.ndarray:
        """The probability: appearance is learned from core and ring, then from the mask and around it.

        Args:
            prior: logarithm of the odds, by the shape.
            core: pixels that are likely to be of the object.
            ring: pixels that are likely to be around it.
            seeds: what the object is connected to; default: marks inside, or the core if there are none.
        """
        mask = (core & ~self.outside) | self.inside
        if seeds is None:
            seeds = self.inside if self.inside.any() else mask
        found = mask.astype(np.float32)
        for _ in range(ROUNDS):
            if not mask.any():
                break
            looks = Appearance.of(self.image[:, mask], self.image[:, ring], self.noise)
            odds = expit(looks(self.image) + prior)
            found = decided(self.image / self.noise, odds, TRUST, self.inside, self.outside, self.spacing)
            mask = binary_fill_holes(reachable(found > 0.5, seeds)) & ~self.outside
            found = np.where(mask, np.maximum(found, 0.51), np.minimum(found, 0.49))
            ring = around(mask, self.spacing)
        return found

    def plausibility(self, mask: np.ndarray, assumed: np.ndarray) -> float:
        """Contrast across the border, less that within the mask, and agreement with the assumed shape."""
        border, within = [np.zeros(0)], [np.zeros(0)]
        for axis in (0, 1):
            steps = (np.diff(self.image / self.noise, axis=axis + 1) ** 2).sum(0)
            contrast = 1 - np.exp(-steps / CONTRAST**2)
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


def _keeps(found: np.ndarray, mask: np.ndarray) -> bool:
    return bool(mask.any() and (found & mask).sum() >= KEEPS * mask.sum())


_FIRST, _LAST = slice(None, -1), slice(1, None)


def around(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Surroundings as wide as a mask's radius."""
    distance = signed_mm(mask, spacing)
    return (distance < 0) & (distance > -radius_mm(mask, spacing) - 2 * max(spacing))


def decided(
    image: np.ndarray,
    odds: np.ndarray,
    trust: float,
    inside: np.ndarray,
    outside: np.ndarray,
    spacing: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """`walk` with marked pixels."""
    prior = np.where(inside, 1, np.where(outside, 0, odds))
    weight = np.where(inside | outside, SURE, trust)
    return walk(image, prior, weight, tuple(spacing), CONTRAST)
