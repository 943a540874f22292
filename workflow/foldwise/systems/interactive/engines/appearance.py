"""What an object looks like compared with its surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.ndimage import gaussian_filter1d

# Bins of a histogram, from -REACH to REACH widths of the object about its median. Values beyond look alike.
BINS, REACH = 64, 2.7
CENTRES = ((np.arange(BINS) + 0.5) / BINS * 2 - 1) * REACH
# Standard deviation of the smoothing, in bins, and share of the samples that may have any value.
SMOOTH, ANY = 1.5, 0.1
# No grey value is more telling than this logarithm of a likelihood ratio.
MOST = 3.0


@dataclass(frozen=True)
class Appearance:
    """Likelihood ratios of grey values.

    Attributes:
        middle, width: (channels, 1, 1) median and scale of the object's grey values.
        ratios: (channels, bins) logarithms of likelihood ratios.
    """

    middle: np.ndarray
    width: np.ndarray
    ratios: np.ndarray

    @classmethod
    def of(cls, inside: np.ndarray, outside: np.ndarray, noise: np.ndarray) -> Self:
        """From samples of both.

        Args:
            inside: (channels, n) grey values of the object, n > 0.
            outside: (channels, n) grey values around it; none: nothing can be told apart.
            noise: (channels, 1, 1) grey values that count as different.
        """
        middle = np.median(inside, 1)[:, None]
        spread = 1.4826 * np.median(np.abs(inside - middle), 1)[:, None]
        width = 1.5 * np.maximum(spread, noise[:, 0])
        rows = [
            np.log(_density(one) / _density(other)) if other.size else np.zeros(BINS)
            for one, other in zip((inside - middle) / width, (outside - middle) / width, strict=True)
        ]
        return cls(middle[..., None], width[..., None], np.array(rows))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Logarithm of the likelihood ratio (rows, columns) of an image (channels, rows, columns)."""
        total = np.zeros(image.shape[1:], np.float32)
        for channel, row in zip((image - self.middle) / self.width, self.ratios, strict=True):
            total += np.interp(channel, CENTRES, row)
        return total.clip(-MOST, MOST)


def _density(values: np.ndarray) -> np.ndarray:
    inner = values.clip(CENTRES[0], CENTRES[-1])
    counted = np.histogram(inner, BINS, (-REACH, REACH))[0].astype(float)
    smooth = gaussian_filter1d(counted, SMOOTH, mode="nearest")
    return np.asarray((1 - ANY) * smooth / smooth.sum() + ANY / BINS)
