"""The longest diameter of an object on a slice, as RECIST measures it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion

from foldwise.volumes.draw import line_voxels

# Of up to so many voxels, every pair is tried; of more, so many of the outline and the outermost ones.
EXACT = 300
# Directions in which the outermost voxels are looked for, a degree apart.
DIRECTIONS = 180
# Pairs that are tried at once, first at so many of their voxels.
BATCH, FIRST = 1024, 9


def longest_line(mask: np.ndarray, spacing: tuple[float, float] = (1, 1)) -> np.ndarray:
    """The ends (2, 2) of the longest straight line whose voxels all lie in a mask.

    RECIST 1.1 (Eisenhauer et al. 2009, doi:10.1016/j.ejca.2008.10.026) measures a lesion by it. The length is
    the distance of the ends' centres in mm, and the voxels are those of `line_voxels`. Exact for masks of up
    to `EXACT` voxels; for larger ones the ends are outermost voxels or an even selection of the outline.

    Args:
        mask: (rows, columns) bool, not empty.
        spacing: mm between rows and between columns.
    """
    ends = np.argwhere(mask) if np.count_nonzero(mask) <= EXACT else _outline(mask, np.array(spacing))
    # With itself, too: a voxel alone is a line.
    first, second = np.triu_indices(len(ends))
    lengths = np.linalg.norm((ends[first] - ends[second]) * spacing, axis=1)
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), BATCH):
        tried = order[begin : begin + BATCH]
        for voxels in (FIRST, max(mask.shape)):
            tried = tried[_may_lie_within(mask, ends[first[tried]], ends[second[tried]], voxels)]
        for start, stop in zip(ends[first[tried]], ends[second[tried]], strict=True):
            if mask[tuple(line_voxels(start, stop).T)].all():
                return np.stack([start, stop])
    raise ValueError("an empty mask has no diameter")


def _outline(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels (n, 2) that may be ends: the outermost in every direction, and an even part of the others."""
    edge = np.argwhere(mask & ~binary_erosion(mask))
    angles = np.deg2rad(np.arange(DIRECTIONS) * 180 / DIRECTIONS)
    along = edge * spacing @ np.stack([np.cos(angles), np.sin(angles)])
    outermost = np.concatenate([along.argmin(0), along.argmax(0)])
    spread = np.linspace(0, len(edge) - 1, EXACT).round().astype(int)
    return edge[np.union1d(outermost, spread)]


def _may_lie_within(mask: np.ndarray, starts: np.ndarray, stops: np.ndarray, voxels: int) -> np.ndarray:
    """Which lines (n,) may lie within a mask, judged by so many of their voxels.

    A voxel of a line halfway between two of the mask may be either.
    """
    way = stops - starts
    steps = np.abs(way).max(1, keepdims=True)
    share = np.rint(np.linspace(0, 1, voxels) * steps) / np.maximum(steps, 1)
    places = starts[:, None] + share[..., None] * way[:, None]
    either = np.zeros(places.shape[:2], bool)
    for shift in (-1e-6, 1e-6):
        rows, columns = np.moveaxis(np.rint(places + shift).astype(int), -1, 0)
        either |= mask[rows, columns]
    return np.asarray(either.all(1))
