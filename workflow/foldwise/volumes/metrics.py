"""Scores of a label map against the truth, per case and class, and their summary over folds and patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, distance_transform_edt

from foldwise.volumes.geometry import bounding_box

METRICS = ("dice", "jaccard", "hd95_mm", "surface_dice", "volume_error_ml", "lesion_recall", "false_lesions")


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: tuple[float, float, float],
    classes: dict[str, int],
    *,
    tolerance_mm: float,
) -> list[dict[str, float | int | str | bool]]:
    """Score a case.

    Where truth and prediction are both empty, overlaps and distances are NaN and `empty` is set: the case is
    left out of means and counted. Where only one is empty, overlaps are 0 and HD95 is NaN, since no distance
    exists. Lesions are 26-connected components; one is found if a predicted voxel lies in it, and a predicted
    component that overlaps none is false.

    Args:
        prediction: label map (x, y, z).
        truth: label map of the same shape.
        spacing: voxel edges in mm.
        classes: class name → voxel value.
        tolerance_mm: tolerance of the surface Dice (Nikolov et al. 2018).

    Returns:
        A row per class: class, dice, jaccard, hd95_mm, surface_dice, volume_ml, truth_ml, volume_error_ml
        (predicted − true), lesions, lesions_found, lesion_recall, false_lesions, empty.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    voxel_ml = float(np.prod(spacing)) / 1000
    rows = []
    for name, value in classes.items():
        found, real = _cut(prediction == value, truth == value)
        rows.append({"class": name, **_scores(found, real, spacing, voxel_ml, tolerance_mm)})
    return rows


def _cut(found: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks cut to the box of their union and one voxel more; nothing is lost outside it."""
    union = found | real
    if not union.any():
        return found[:1, :1, :1], real[:1, :1, :1]
    box = bounding_box(union, 0, (1.0, 1.0, 1.0)).slices
    return np.pad(found[box], 1), np.pad(real[box], 1)


def _scores(
    found: np.ndarray,
    real: np.ndarray,
    spacing: tuple[float, float, float],
    voxel_ml: float,
    tolerance_mm: float,
) -> dict[str, float | int | bool]:
    both, either = int((found & real).sum()), int((found | real).sum())
    sizes = int(found.sum()), int(real.sum())
    nan = float("nan")
    hd95, surface = nan, (0.0 if either else nan)
    if all(sizes):
        to_real, to_found = surface_distances(found, real, spacing)
        # The larger of both directions' 95th percentiles, as DeepMind's and MONAI's implementations have it.
        hd95 = max(float(np.percentile(to_real, 95)), float(np.percentile(to_found, 95)))
        within = (to_real <= tolerance_mm).sum() + (to_found <= tolerance_mm).sum()
        surface = float(within / (len(to_real) + len(to_found)))
    lesions, found_lesions, false_lesions = _lesions(found, real)
    return {
        "dice": 2 * both / sum(sizes) if either else nan,
        "jaccard": both / either if either else nan,
        "hd95_mm": hd95,
        "surface_dice": surface,
        "volume_ml": sizes[0] * voxel_ml,
        "truth_ml": sizes[1] * voxel_ml,
        "volume_error_ml": (sizes[0] - sizes[1]) * voxel_ml,
        "lesions": lesions,
        "lesions_found": found_lesions,
        "lesion_recall": found_lesions / lesions if lesions else nan,
        "false_lesions": false_lesions,
        "empty": not either,
    }


def surface_distances(
    first: np.ndarray, second: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the nearest of the other, in both directions.

    A surface voxel is one with a face neighbour outside its mask.
    """
    surfaces = [mask & ~binary_erosion(mask) for mask in (first, second)]
    to_first, to_second = (distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return to_second[surfaces[0]], to_first[surfaces[1]]


def _lesions(found: np.ndarray, real: np.ndarray) -> tuple[int, int, int]:
    """Lesions of the truth, those found, and predicted components that touch none."""
    true_parts, lesions = cc3d.connected_components(real, connectivity=26, return_N=True)
    parts, components = cc3d.connected_components(found, connectivity=26, return_N=True)
    hit = len(np.setdiff1d(np.unique(true_parts[found]), 0))
    touching = len(np.setdiff1d(np.unique(parts[real]), 0))
    return int(lesions), hit, int(components) - touching


def fold_summary(
    rows: pd.DataFrame, metrics: Sequence[str] = METRICS, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Means over cases and folds, and a 95 % bootstrap interval of the mean over patients.

    Args:
        rows: one per model, fold, case and class: columns model, case, group, fold, class and metrics.
        metrics: columns to summarise; NaN is left out and counted.
        resamples: bootstrap resamples of the groups (patients), with replacement.
        seed: of the resamples.

    Returns:
        A row per model, class and metric: mean, std (over cases, ddof 1), fold_mean, fold_std (of the folds'
        means, ddof 1), n, excluded, low, high.
    """
    made = []
    for (model, name), part in rows.groupby(["model", "class"], sort=False):
        for metric in metrics:
            values = part[part[metric].notna()]
            by_fold = values.groupby("fold")[metric].mean()
            low, high = _bootstrap(values, metric, resamples, seed)
            made.append(
                {
                    "model": model,
                    "class": name,
                    "metric": metric,
                    "mean": values[metric].mean(),
                    "std": values[metric].std(ddof=1),
                    "fold_mean": by_fold.mean(),
                    "fold_std": by_fold.std(ddof=1),
                    "n": len(values),
                    "excluded": len(part) - len(values),
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(made)


def _bootstrap(values: pd.DataFrame, metric: str, resamples: int, seed: int) -> tuple[Any, Any]:
    """Percentiles 2.5 and 97.5 of the mean over cases, patients drawn with replacement."""
    groups = values.groupby("group")[metric].agg(["sum", "count"]).to_numpy()
    if len(groups) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    sums, counts = groups[drawn].sum(axis=1).T
    low, high = np.percentile(sums / counts, [2.5, 97.5])
    return float(low), float(high)
