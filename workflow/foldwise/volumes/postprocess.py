"""Post-processing of label maps, and whether it helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cc3d
import numpy as np
from scipy.ndimage import binary_fill_holes

from foldwise.volumes.settings import Step
from foldwise.volumes.targets import Targets


def processed(labels: np.ndarray, targets: Targets, step: Step, voxel_ml: float) -> np.ndarray:
    """A label map after one step.

    Args:
        labels: label map (x, y, z); not changed.
        targets: meaning of the values.
        step: as in the settings.
        voxel_ml: volume of a voxel, in mL.
    """
    if isinstance(step, str):
        return POSTPROCESSES[step](labels, targets)
    return remove_below(labels, targets, step["remove_below_ml"] / voxel_ml)


def text(step: Step) -> str:
    """A step as in the settings, on one line."""
    return step if isinstance(step, str) else f"remove_below_ml: {step['remove_below_ml']}"


def largest_foreground(labels: np.ndarray, targets: Targets) -> np.ndarray:
    """Keep the largest 26-connected component of all labelled voxels together, and clear all others.

    Args:
        labels: label map (x, y, z); not changed.
        targets: meaning of the values.
    """
    return np.where(_largest(labels > 0), labels, 0).astype(labels.dtype)


def largest_component(labels: np.ndarray, targets: Targets) -> np.ndarray:
    """Keep each class's or region's largest 26-connected component.

    Voxels of the others are cleared, or assigned to the surrounding region.

    Args:
        labels: label map (x, y, z); not changed.
        targets: meaning of the values.
    """
    return _kept(labels, targets, _largest)


def remove_below(labels: np.ndarray, targets: Targets, voxels: float) -> np.ndarray:
    """Clear the 26-connected components of each class or region that have fewer voxels.

    Their voxels are cleared, or assigned to the surrounding region.

    Args:
        labels: label map (x, y, z); not changed.
        targets: meaning of the values.
        voxels: number of voxels, which need not be whole.
    """
    # A volume that is exactly so many voxels must not be rounded up to one more; a huge one clears all.
    fewest = math.ceil(round(min(voxels, labels.size + 1), 6))

    def large(mask: np.ndarray) -> np.ndarray:
        return np.asarray(cc3d.dust(mask, fewest, connectivity=26)) > 0

    return _kept(labels, targets, large)


def fill_holes(labels: np.ndarray, targets: Targets) -> np.ndarray:
    """Fill holes: background that a class or region encloses in 3-D gets its value; other classes are kept.

    Args:
        labels: label map (x, y, z); not changed.
        targets: meaning of the values.
    """
    result = labels.copy()
    for name, values in targets.values.items():
        filled = binary_fill_holes(np.isin(labels, values))
        result[filled & (result == 0)] = targets.value(name)
    return result


def helps(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a step raises the mean score of the same cases; pairs with a NaN do not count."""
    pairs = np.array([before, after], float)
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    return pairs.size > 0 and bool(pairs[1].mean() > pairs[0].mean())


def _kept(labels: np.ndarray, targets: Targets, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Without what `of` takes from the mask of each class or region."""
    result = labels.copy()
    for name, values in targets.values.items():
        mask = np.isin(result, values)
        result[mask & ~of(mask)] = targets.without(name)
    return result


def _largest(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return mask
    return np.asarray(cc3d.largest_k(mask, k=1, connectivity=26)) > 0


POSTPROCESSES: dict[str, Callable[[np.ndarray, Targets], np.ndarray]] = {
    "largest_foreground": largest_foreground,
    "largest_component": largest_component,
    "fill_holes": fill_holes,
}
