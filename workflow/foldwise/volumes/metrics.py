"""Scores of a label map against the truth, per case and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cc3d
import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from foldwise.volumes.geometry import bounding_box
from foldwise.volumes.grids import voxel_ml_of

# BraTS's distance if only one of the two masks is empty: the diagonal of its 240×240×155 mm images.
BRATS_WORST_MM = 373.13

# Files store spacings as float32: a distance nominally equal to the tolerance must count as within it.
ROUNDING_MM = 1e-3
# Trees of surface voxels are searched if the box has at least so many voxels for each of them. Otherwise, as
# for a model that has not learnt yet, distance maps are made: a tree takes long to find a point far away.
FEW = 200
NAN = float("nan")


def score(
    prediction: np.ndarray,
    truth: np.ndarray,
    affine: np.ndarray,
    values: Mapping[str, Sequence[int]],
    *,
    tolerance_mm: float,
    brats: bool = False,
    ignore: int | None = None,
    shape: Sequence[int] | None = None,
) -> list[dict[str, float | int | str | bool]]:
    """Score a case.

    If truth and prediction are both empty, overlaps and distances are NaN and `empty` is set: the case is
    left out of means and counted, as in nnU-Net. If only one is empty, every score is the worst possible:
    overlaps 0, HD95 the diagonal of the image (as in BraTS), so that missing a tumour never improves a mean.
    Lesions are 26-connected components; one is found if a predicted voxel lies in it, and a predicted
    component that overlaps none is false. Lesion recall is NaN without lesions.

    HD95 is the larger of both directions' 95th percentiles; ASSD the mean over both surfaces' voxels of the
    distance to the other; surface Dice (Nikolov et al. 2018, arXiv:1809.04430) the share of both surfaces
    within the tolerance of the other. A surface is the centres of the mask's voxels with a face neighbour
    outside it, each counting once, as in MONAI.

    Voxels that the truth ignores are removed from both masks before anything is measured. Only predicted
    components stay whole: one is false if it overlaps no lesion and has a voxel that counts.

    Args:
        prediction: label map (x, y, z).
        truth: label map of the same shape.
        affine: of the grid, 4×4 or 3×3, voxel index to mm; it may be oblique or sheared.
        values: class or region → its voxel values.
        tolerance_mm: tolerance of the surface Dice.
        brats: follow BraTS instead: if both are empty, overlaps are 1 and distances 0; if only one is,
            distances are 373.13 mm.
        ignore: value of the truth's voxels that count nowhere, or None.
        shape: of the whole image, if both maps are cut to a box outside which neither labels a voxel.

    Returns:
        A row per class: class, dice, jaccard, hd95_mm, assd_mm, surface_dice, volume_ml, truth_ml,
        volume_error_ml (predicted − true), lesions, lesions_found, lesion_recall, false_lesions, empty; with
        `ignore`, also ignored_ml, the volume that does not count.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    axes = np.asarray(affine, float)[:3, :3]
    voxel_ml = voxel_ml_of(affine)
    worst_mm = BRATS_WORST_MM if brats else _diagonal(axes * (shape or truth.shape))
    nothing = {"overlap": 1.0, "mm": 0.0} if brats else {"overlap": NAN, "mm": NAN}
    ignored = np.zeros(truth.shape, bool) if ignore is None else truth == ignore
    left_out = {} if ignore is None else {"ignored_ml": int(ignored.sum()) * voxel_ml}
    rows = []
    for name, wanted in values.items():
        everywhere, real, apart = _cut(np.isin(prediction, wanted), np.isin(truth, wanted), ignored)
        found = everywhere & ~apart
        rows.append(
            {
                "class": name,
                **_overlap(found, real, nothing["overlap"]),
                **_surfaces(found, real, axes, tolerance_mm, worst_mm, nothing),
                **_volumes(found, real, voxel_ml),
                **_lesions(everywhere, real, apart),
                **left_out,
                "empty": not (found.any() or real.any()),
            }
        )
    return rows


def _cut(found: np.ndarray, real: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, ...]:
    """All masks cropped to the box of the first two; there is nothing to count outside."""
    union = found | real
    one = slice(0, 1)
    box = bounding_box(union, 0, (1.0, 1.0, 1.0)).slices if union.any() else (one, one, one)
    return found[box], real[box], more[box]


def _overlap(found: np.ndarray, real: np.ndarray, nothing: float) -> dict[str, float]:
    both, either = int((found & real).sum()), int((found | real).sum())
    if not either:
        return {"dice": nothing, "jaccard": nothing}
    return {"dice": 2 * both / (either + both), "jaccard": both / either}


def _volumes(found: np.ndarray, real: np.ndarray, voxel_ml: float) -> dict[str, float]:
    predicted, true = int(found.sum()), int(real.sum())
    return {
        "volume_ml": predicted * voxel_ml,
        "truth_ml": true * voxel_ml,
        "volume_error_ml": (predicted - true) * voxel_ml,
    }


def _surfaces(
    found: np.ndarray,
    real: np.ndarray,
    axes: np.ndarray,
    tolerance_mm: float,
    worst_mm: float,
    nothing: dict[str, float],
) -> dict[str, float]:
    if not (found.any() or real.any()):
        return {
            "hd95_mm": nothing["mm"],
            "assd_mm": nothing["mm"],
            "surface_dice": nothing["overlap"],
        }
    if not (found.any() and real.any()):
        return {"hd95_mm": worst_mm, "assd_mm": worst_mm, "surface_dice": 0.0}
    distances = surface_distances(found, real, axes)
    both = np.concatenate(distances)
    return {
        "hd95_mm": max(float(np.percentile(way, 95)) for way in distances),
        "assd_mm": float(both.mean()),
        "surface_dice": float((both <= tolerance_mm + ROUNDING_MM).mean()),
    }


def _diagonal(sides: np.ndarray) -> float:
    """The longest diagonal of a box, whose sides are columns in mm."""
    ways = np.array([(1, y, z) for y in (1, -1) for z in (1, -1)])
    return float(np.linalg.norm(sides @ ways.T, axis=0).max())


def surface_distances(
    first: np.ndarray, second: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from each surface voxel of one mask to the nearest of the other, in both directions.

    A surface voxel has a face neighbour outside its mask; voxels beyond the array count as outside.

    Args:
        first: mask (x, y, z), not empty.
        second: mask of the same shape, not empty.
        axes: (3, 3), the affine's columns: a step along each axis of the array, in mm.
    """
    one, other = (mask & ~binary_erosion(mask) for mask in (first, second))
    products = axes.T @ axes
    squared = np.diag(products)
    rectangular = np.allclose(products, np.diag(squared), atol=1e-6 * squared.max())
    if rectangular and one.size < FEW * (one.sum() + other.sum()):
        spacing = np.sqrt(squared)
        return _by_map(one, other, spacing), _by_map(other, one, spacing)
    points, others = (np.argwhere(surface) @ axes.T for surface in (one, other))
    to_second, _ = KDTree(others).query(points)
    to_first, _ = KDTree(points).query(others)
    return np.asarray(to_second), np.asarray(to_first)


def _by_map(points: np.ndarray, surface: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    image = sitk.GetImageFromArray(surface.astype(np.uint8))
    image.SetSpacing([float(side) for side in spacing[::-1]])
    signed = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    # Negative where a surface is thick.
    return np.maximum(sitk.GetArrayViewFromImage(signed)[points], 0)


def _lesions(found: np.ndarray, real: np.ndarray, ignored: np.ndarray) -> dict[str, float | int]:
    # cc3d fails on some arrays that are one voxel thin, such as the box of two specks in a row.
    found, real, ignored = np.pad(found, 1), np.pad(real, 1), np.pad(ignored, 1)
    true_parts, lesions = cc3d.connected_components(real, connectivity=26, return_N=True)
    parts = cc3d.connected_components(found, connectivity=26)
    both = found & real
    hit = len(np.unique(true_parts[both]))
    counting, touching = np.unique(parts[found & ~ignored]), np.unique(parts[both])
    return {
        "lesions": int(lesions),
        "lesions_found": hit,
        "lesion_recall": hit / lesions if lesions else NAN,
        "false_lesions": len(np.setdiff1d(counting, touching)),
    }
