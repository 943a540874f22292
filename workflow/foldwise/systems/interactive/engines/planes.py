"""A plane of a scan with what is said about an object on it, and random walks on a window of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_fill_holes
from scipy.special import expit

from foldwise.systems.interactive.engines.appearance import Appearance
from foldwise.systems.interactive.engines.shapes import (
    enlarged,
    noise_of,
    pooled,
    radius_mm,
    reachable,
    signed_mm,
)
from foldwise.systems.interactive.engines.walker import walk

# Weight of appearance and shape against smoothness, of marks, and the contrast in units of noise.
TRUST, SURE, CONTRAST = 0.2, 10.0, 1.0
# Rounds of learning what the object looks like, as in GrabCut (Rother 2004).
ROUNDS = 3
# Pixels across an object that are enough.
ACROSS = 40


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


class View:
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

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Pixels (n, 2) of the plane as pixels of the window, both counted from the first one's centre."""
        first = np.array([part.start for part in self.where])
        return np.asarray((points - first + 0.5) / self.factor - 0.5)

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

    @cached_property
    def contrasts(self) -> list[np.ndarray]:
        """Contrast from 0 to 1 between neighbours along rows, and along columns."""
        steps = [(np.diff(self.image / self.noise, axis=axis) ** 2).sum(0) for axis in (1, 2)]
        return [1 - np.exp(-step / CONTRAST**2) for step in steps]

    def apart(self, mask: np.ndarray) -> float:
        """How far the grey values of a mask differ from those around it; from -1 to 1, 0 if it is empty."""
        ring = around(mask, self.spacing)
        if not mask.any() or not ring.any():
            return 0.0
        likely = expit(Appearance.of(self.image[:, mask], self.image[:, ring], self.noise)(self.image))
        return float(likely[mask].mean() - likely[ring].mean())


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
