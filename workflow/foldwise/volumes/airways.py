"""Windpipe and main bronchi of a CT."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy import ndimage
from skimage.measure import regionprops

from foldwise.volumes.morphology import Spacing, dilated

# The windpipe's distance from the patient's middle, when a lung pushes or pulls it. mm.
ASIDE_MM = 60.0
# Shorter stacks are no windpipe. mm.
SHORTEST_MM = 25.0


def find_windpipe(
    hu: np.ndarray, lungs: np.ndarray, body: np.ndarray, middle: float, spacing: Spacing
) -> np.ndarray | None:
    """The longest stack of small round gas-filled cross-sections of axial slices, near the middle.

    One in the lungs' upper half is preferred to one in the lower half, which may be gullet or bowel.

    Args:
        hu: (x, y, z) in RAS orientation.
        lungs: both lungs, with or without their airways.
        body: the patient.
        middle: of the patient along x, in voxels.
        spacing: in mm.
    """
    slices = np.flatnonzero(lungs.any(axis=(0, 1)))
    half = (slices[0] + slices[-1]) / 2
    gas = (hu < -800) & body
    area = spacing[0] * spacing[1]
    stack = np.zeros_like(gas)
    for z in range(gas.shape[2]):
        pieces, _ = ndimage.label(gas[:, :, z])
        for piece in regionprops(pieces):
            height, width = (b - a for a, b in zip(piece.bbox[:2], piece.bbox[2:], strict=True))
            longer = max(height * spacing[0], width * spacing[1])
            shorter = min(height * spacing[0], width * spacing[1])
            if 60 <= piece.area * area <= 900 and longer <= 2.5 * shorter:
                stack[:, :, z][pieces == piece.label] = True
    pieces = cc3d.connected_components(stack, connectivity=6)
    best, first = None, (False, SHORTEST_MM)
    for piece in regionprops(pieces):
        length = (piece.bbox[5] - piece.bbox[2]) * spacing[2]
        if length <= SHORTEST_MM or abs(piece.centroid[0] - middle) * spacing[0] > ASIDE_MM:
            continue
        rank = (bool(piece.centroid[2] > half), length)
        if rank > first and np.median(hu[tuple(piece.coords.T)]) < -880:
            best, first = piece.label, rank
    return None if best is None else pieces == best


def grown_airways(hu: np.ndarray, seed: np.ndarray | None, body: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Trachea and main bronchi: gas grown from the trachea, without leaking into the lungs."""
    if seed is None:
        return np.zeros_like(body)
    voxel_ml = float(np.prod(spacing)) / 1000
    airway = seed
    for limit in (-950, -925, -900, -875, -850, -800):
        grown = cc3d.connected_components((hu < limit) & body | seed, connectivity=6)
        grown = np.isin(grown, np.setdiff1d(np.unique(grown[seed]), 0))
        # Trachea and main bronchi have well under 150 ml; a leak has litres.
        if grown.sum() * voxel_ml > max(150, 2 * seed.sum() * voxel_ml):
            break
        airway = grown
    return dilated(airway, spacing, 1.5 * min(spacing)) & (hu < -500) & body
