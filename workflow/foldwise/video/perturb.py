"""Changes of an ultrasound picture as its physics would cause them, to test how robust a network is.

A scanner shows echoes on a logarithmic scale: grey value 255 is the strongest echo, and 0 is `dynamic_range`
dB or more below it. So what multiplies an echo by 10^(x / 20) adds 255 · x / dynamic_range to its grey value.
Black stays black, since its level is not known, and so does everything outside the scanner's image area.
All functions are pure: frames (n, height, width, 3) uint8 in, new frames out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

# Loss behind an object that reflects or absorbs almost everything. dB.
SHADOW_DB = 40
# Share of a shadow's width over which each of its sides fades.
PENUMBRA = 0.1
# Where shadows lie: shares of the picture's width, and of its depth for their beginning.
SHADOW_ACROSS, SHADOW_FROM = (0.2, 0.8), (0.1, 0.5)
# Lines at the sides of a picture whose slopes differ by less are parallel: a linear probe.
PARALLEL = 0.05
# Rows that fix the lines at the sides.
LEAST_ROWS = 8
# Points of the table of a gamma distribution.
QUANTILES = np.linspace(0.0005, 0.9995, 1000)


@dataclass(frozen=True)
class Area:
    """The scanner's image area and its beams, which start at its upper edge.

    Attributes:
        mask: (height, width) bool.
        depth: (height, width), 0 at the probe to 1 at the end of the longest beam.
        across: (height, width), 0 to 1 from the leftmost to the rightmost beam.
    """

    mask: np.ndarray
    depth: np.ndarray
    across: np.ndarray


def area_of(mask: np.ndarray) -> Area:
    """The beams of an image area: those of a sector meet where the lines at its sides do.

    Args:
        mask: (height, width) bool, with the probe at the top; an empty one stands for the whole frame.
    """
    if not mask.any():
        mask = np.ones_like(mask)
    rows, columns = np.indices(mask.shape)
    lit = np.flatnonzero(mask.any(axis=1))
    left = mask[lit].argmax(axis=1)
    right = mask.shape[1] - 1 - mask[lit, ::-1].argmax(axis=1)
    widening = lit[: int((right - left).argmax()) + 1]
    radius, angle = rows.astype(float), columns.astype(float)
    if len(widening) >= LEAST_ROWS:
        one, other = (np.polyfit(widening, side[: len(widening)], 1) for side in (left, right))
        if other[0] - one[0] > PARALLEL:
            y = (one[1] - other[1]) / (other[0] - one[0])
            x = np.polyval(one, y)
            radius, angle = np.hypot(columns - x, rows - y), np.arctan2(columns - x, rows - y)
    return Area(mask, _share(radius, mask), _share(angle, mask))


def gain(frames: np.ndarray, area: Area, change: float, dynamic_range: float) -> np.ndarray:
    """Other gain.

    Args:
        frames: (n, height, width, 3) uint8.
        area: of these frames.
        change: in dB; below 0: darker.
        dynamic_range: of the picture, in dB.
    """
    return _louder(frames, area, np.array(change), dynamic_range)


def attenuation(frames: np.ndarray, area: Area, loss: float, dynamic_range: float) -> np.ndarray:
    """Tissue that absorbs more: echoes lose `loss` · depth, with depth from 0 to 1 along the beam.

    Args:
        frames: (n, height, width, 3) uint8.
        area: of these frames.
        loss: at the greatest depth, in dB.
        dynamic_range: of the picture, in dB.
    """
    return _louder(frames, area, -loss * area.depth, dynamic_range)


def shadow(
    frames: np.ndarray, area: Area, width: float, dynamic_range: float, seed: Sequence[int]
) -> np.ndarray:
    """An acoustic shadow: a sector of the beams, dark from some depth on, the same in all frames.

    Its place depends only on the seed, so a wider one contains a narrower one.

    Args:
        frames: (n, height, width, 3) uint8.
        area: of these frames.
        width: share of the beams; 0: none.
        dynamic_range: of the picture, in dB.
        seed: of the place.
    """
    if width == 0:
        return frames.copy()
    random = np.random.default_rng([*seed, 0])
    middle, begin = random.uniform(*SHADOW_ACROSS), random.uniform(*SHADOW_FROM)
    inside = np.clip((width / 2 - abs(area.across - middle)) / (PENUMBRA * width), 0, 1)
    return _louder(frames, area, -SHADOW_DB * inside * (area.depth > begin), dynamic_range)


def speckle(
    frames: np.ndarray,
    area: Area,
    contrast: float,
    dynamic_range: float,
    seed: Sequence[int],
    numbers: Sequence[int],
    grain: float,
) -> np.ndarray:
    """More speckle: intensities are multiplied by noise of a gamma distribution with a mean of 1.

    Its standard deviation is the contrast; at 1 the intensity is exponential and the amplitude Rayleigh's,
    as in fully developed speckle. Every frame has its own noise.

    Args:
        frames: (n, height, width, 3) uint8.
        area: of these frames.
        contrast: of the noise; 0: none.
        dynamic_range: of the picture, in dB.
        seed: of the noise.
        numbers: of the frames, which give each its noise.
        grain: full width at half maximum of the Gaussian that smooths the noise. Pixels.
    """
    if contrast == 0:
        return frames.copy()
    levels = 10 * np.log10(stats.gamma.ppf(QUANTILES, contrast**-2, scale=contrast**2))
    normal = stats.norm.ppf(QUANTILES)
    changes: dict[int, np.ndarray] = {}
    for number in map(int, numbers):
        if number not in changes:
            drawn = np.random.default_rng([*seed, 1, number]).standard_normal(area.mask.shape)
            smooth = ndimage.gaussian_filter(drawn, grain / 2.355, mode="wrap")
            changes[number] = np.interp(smooth / smooth.std(), normal, levels)
    change = np.stack([changes[int(number)] for number in numbers])
    return _louder(frames, area, change, dynamic_range)


def _louder(frames: np.ndarray, area: Area, change: np.ndarray, dynamic_range: float) -> np.ndarray:
    """Frames whose echoes changed by so many dB: a number, or (height, width), or one such for each frame."""
    added = np.broadcast_to(255 * change / dynamic_range, frames.shape[:3])[..., None]
    changed = np.rint(np.clip(frames + added, 0, 255)).astype(np.uint8)
    echoes = area.mask & frames.any(axis=-1)
    return np.where(echoes[..., None], changed, frames)


def _share(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Values from 0 at their least in a mask to 1 at their greatest."""
    low, high = values[mask].min(), values[mask].max()
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)
