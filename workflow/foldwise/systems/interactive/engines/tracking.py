"""Masks from plane to plane: each is the shape of its neighbour, moved to what looks alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.ndimage import binary_fill_holes
from scipy.special import expit

from foldwise.systems.interactive.engines.appearance import Appearance
from foldwise.systems.interactive.engines.planes import around, decided
from foldwise.systems.interactive.engines.shapes import radius_mm, reachable, signed_mm, window

# Weight of the prior against smoothness, and of the appearance in it.
TRUST, LOOKS = 0.2, 0.4
# The shape's odds fall by this factor over a step; they are never surer than `SURE`.
SLOPE, SURE = 1.0, 3.0
# A mask shrinks by at most so many steps per step.
MOST = 2.0
# Differences of the mean probabilities, by grey values, of a mask and its surroundings, between which the
# shape yields to the image.
CLEAR = (0.6, 0.9)
# Smaller masks have ended. Pixels.
LEAST = 3


class Planes(Protocol):
    """Planes of a scan on the grid on which masks are tracked."""

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm between planes, rows and columns."""
        ...

    def image(self, place: int) -> np.ndarray:
        """(channels, rows, columns)."""
        ...

    def inside(self, place: int) -> np.ndarray:
        """(rows, columns) bool: marked as the object."""
        ...

    def outside(self, place: int) -> np.ndarray:
        """(rows, columns) bool: certainly not the object."""
        ...

    def others(self, place: int) -> np.ndarray:
        """(rows, columns) bool: of another object."""
        ...


@dataclass(frozen=True)
class Taper:
    """How an object tapers off beyond the last hinted plane: as an ellipsoid.

    Attributes:
        radius: of its largest plane. mm.
        half: from there to its end. mm.
        begun: from there to the last hinted plane. mm.
    """

    radius: float
    half: float
    begun: float

    def loss(self, gone: float, step: float) -> float:
        """By how much the radius shrinks with the next step, so far beyond the last hinted plane. mm."""
        share = (self.begun + gone) / self.half
        slope = self.radius / self.half * share / np.sqrt(max(1 - share**2, 1e-3))
        return step * min(MOST, slope)


def track(
    planes: Planes,
    looks: Appearance,
    noise: np.ndarray,
    start: int,
    mask: np.ndarray,
    stop: int,
    end: np.ndarray | Taper,
) -> Iterator[tuple[int, np.ndarray]]:
    """Follow an object from a plane; yields further planes and probabilities until it ends.

    Args:
        planes: of the scan.
        looks: of the object.
        noise: (channels, 1, 1) grey values that count as different.
        start: the first plane, which is not yielded.
        mask: (rows, columns) bool, the object there.
        stop: the plane before which to stop; it may be beyond the scan.
        end: the mask at `stop`, into which the shape turns, as in interpolation of signed distances (Raya
            and Udupa 1990); or how the object tapers off.
    """
    gap, pixels = float(planes.spacing[0]), planes.spacing[1:]
    step = 1 if stop > start else -1
    for place in range(start + step, stop, step):
        gone, left = abs(place - start) * gap, abs(stop - place)
        margin = np.ceil((0.4 * radius_mm(mask, pixels) + 2 * gap) / pixels) + 3
        where = window(mask if isinstance(end, Taper) else mask | end, margin)
        distance = signed_mm(mask[where], pixels)
        image = planes.image(place)[(slice(None), *where)]
        likely = looks(image)
        if isinstance(end, Taper):
            # What clearly looks like the object, and not like its surroundings, is followed further.
            ring = around(mask[where], pixels) & ~planes.others(place)[where]
            here = expit(likely[mask[where]]).mean() - expit(likely[ring]).mean() if ring.any() else 0.0
            distance = distance - end.loss(gone, gap) * (1 - float(np.interp(here, CLEAR, (0, 1))))
        else:
            distance += (signed_mm(end[where], pixels) - distance) / (left + 1)
        shape = (distance / (SLOPE * max(gap, pixels.min()))).clip(-SURE, SURE)
        odds = expit(shape + LOOKS * likely)
        inside, outside = planes.inside(place)[where], planes.outside(place)[where]
        found = decided(image / noise, odds, TRUST, inside, outside, pixels)
        new = binary_fill_holes(reachable(found > 0.5, mask[where] | inside)) & ~outside
        if isinstance(end, Taper):
            # A mask larger than the largest hinted one has leaked; what is nearest to the plane before stays.
            most = int(np.pi * end.radius**2 / np.prod(pixels))
            if new.sum() > most:
                level = np.sort(distance[new])[-most]
                new = reachable(new & (distance >= level), mask[where] | inside)
        if new.sum() < LEAST:
            return
        probability = np.zeros(mask.shape, np.float32)
        probability[where] = np.where(new, np.maximum(found, 0.51), np.minimum(found, 0.49))
        mask = probability > 0.5
        yield place, probability
