"""Measurements of a segmentation, for a table: volume, grey values, lesions, longest diameter, centroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from skimage.measure import regionprops

from foldwise.volumes.grids import voxel_ml_of
from foldwise.volumes.label_maps import labelled_box
from foldwise.volumes.volume import Volume, read_channels

PERCENTILES = (5, 25, 50, 75, 95)


def measure(
    labels: Volume, values: Mapping[str, Sequence[int]], images: Sequence[Path]
) -> list[dict[str, Any]]:
    """A row for each class or region.

    Args:
        labels: label map on the images' grid.
        values: class or region → its values in the label map.
        images: files of the channels, in their order, as in the sheet.

    Returns:
        Rows with class; volume_ml; lesions, the number of parts whose voxels touch (26 neighbours);
        longest_axial_mm, the largest Feret diameter of a connected part (8 neighbours) of an axial slice,
        between the midpoints of voxel edges; centroid_x, _y and _z in mm, RAS+; and of the grey values mean,
        sd (of the population), minimum, p5 to p95 and maximum. Those of further channels end in _1, _2, ….
        What an empty class does not have is NaN.

    Raises:
        CaseError: an image cannot be read any more.
    """
    box = labelled_box(labels.data)
    cut = labels.data[box.slices]
    masks = {name: np.isin(cut, listed) for name, listed in values.items()}
    rows = [
        {"class": name, **_shape(mask, labels.affine, [one.start for one in box.slices])}
        for name, mask in masks.items()
    ]
    channels = (channel for path in images for channel in read_channels(path))
    for number, channel in enumerate(channels):
        grey = channel.data[box.slices]
        for row, mask in zip(rows, masks.values(), strict=True):
            suffix = f"_{number}" if number else ""
            row |= {f"{name}{suffix}": value for name, value in _grey(grey[mask]).items()}
    return rows


def _shape(mask: np.ndarray, affine: np.ndarray, start: Sequence[int]) -> dict[str, float]:
    """Volume, lesions, diameter and centroid of a mask that begins at the voxel `start`."""
    voxels = np.argwhere(mask)
    at = np.full(3, np.nan)
    if len(voxels):
        at = affine[:3, :3] @ (voxels.mean(0) + start) + affine[:3, 3]
    return {
        "volume_ml": len(voxels) * voxel_ml_of(affine),
        "lesions": int(cc3d.connected_components(mask, connectivity=26, return_N=True)[1]),
        "longest_axial_mm": _longest_axial(mask, affine),
        **{f"centroid_{axis}": float(value) for axis, value in zip("xyz", at, strict=True)},
    }


def _longest_axial(mask: np.ndarray, affine: np.ndarray) -> float:
    """The longest diameter of a part of a slice, in mm; NaN if there is none."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    # The axis that is closest to the body's.
    across = int(np.argmax(np.abs(affine[2, :3]) / edges))
    spacing = tuple(np.delete(edges, across))
    longest = 0.0
    for plane in np.moveaxis(mask, across, 0):
        if not plane.any():
            continue
        parts = cc3d.connected_components(plane.astype(np.uint8), connectivity=8)
        for part in regionprops(parts, spacing=spacing):
            low, high = np.array(part.bbox[:2]), np.array(part.bbox[2:])
            if np.linalg.norm((high - low) * spacing) > longest:  # else it cannot be the one
                longest = max(longest, float(part.feret_diameter_max))
    return longest or np.nan


def _grey(values: np.ndarray) -> dict[str, float]:
    names = ["mean", "sd", "minimum", *(f"p{share}" for share in PERCENTILES), "maximum"]
    if not values.size:
        return dict.fromkeys(names, np.nan)
    values = values.astype(np.float64)
    ends = np.percentile(values, [0, *PERCENTILES, 100])
    return dict(zip(names, [float(values.mean()), float(values.std()), *map(float, ends)], strict=True))
