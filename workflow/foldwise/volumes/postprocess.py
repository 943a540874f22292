"""Post-processing of label maps, and whether it helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cc3d
import numpy as np


def largest_component(labels: np.ndarray, classes: dict[str, int]) -> np.ndarray:
    """Keep each class's largest 26-connected component and clear the others.

    Args:
        labels: label map (x, y, z); not changed.
        classes: class name → voxel value.
    """
    made = labels.copy()
    for value in classes.values():
        mask = labels == value
        if mask.any():
            made[mask & ~(cc3d.largest_k(mask, k=1, connectivity=26) > 0)] = 0
    return made


def helps(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a step raises the mean score of the same cases; pairs with a NaN do not count."""
    pairs = np.array([before, after], float)
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    return pairs.size > 0 and bool(pairs[1].mean() > pairs[0].mean())


POSTPROCESSES: dict[str, Callable[[np.ndarray, dict[str, int]], np.ndarray]] = {
    "none": lambda labels, classes: labels,
    "largest_component": largest_component,
}
