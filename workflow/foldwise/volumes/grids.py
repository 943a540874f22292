"""Grids of voxels in space: sizes, corners, orientation and shear from affines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# ITK and DICOM store points in LPS, nibabel and this package in RAS: x and y change sign between them.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Axes whose angle differs from a right one by less (in radians) count as right-angled: cosines are rounded
# when they are written, and a distortion of half a per cent is less than that of a scanner.
RIGHT_ANGLE = 5e-3
# Cosines are compared as whole multiples of this, so that rounding does not decide where directions tie.
TIE = 1e-5

# For each stored axis the axis of RAS that it becomes, and 1, or −1 if it runs the other way, as in nibabel.
Turn = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edges in mm: the lengths of the affine's first three columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def voxel_ml_of(affine: np.ndarray) -> float:
    """A voxel's volume in mL, also of sheared grids."""
    return abs(float(np.linalg.det(np.asarray(affine, float)[:3, :3]))) / 1000


def corners(affine: np.ndarray, shape: Sequence[int], reach: float = 0.0) -> np.ndarray:
    """Corners of a grid in mm (8, 3): centres of the outermost voxels, or `reach` voxels beyond them."""
    indices = np.stack(np.meshgrid(*((-reach, n - 1 + reach) for n in shape[:3])), axis=-1).reshape(-1, 3)
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3])


def apart_mm(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance of corresponding corners of two grids of one shape, in mm."""
    return float(np.linalg.norm(corners(first, shape) - corners(second, shape), axis=1).max())


def plane_distances(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance in mm between the planes across each axis; the spacing, unless the grid is sheared."""
    x, y, z = 1 / np.linalg.norm(np.linalg.inv(affine[:3, :3]), axis=1)
    return float(x), float(y), float(z)


def turn_of(affine: np.ndarray) -> Turn:
    """How stored axes are best turned to RAS: the one that is closest to its direction first, as in nibabel.

    Directions that tie up to rounding are treated alike, whatever computed them.
    """
    # The closest axes at right angles, by a polar decomposition.
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing_of(affine))
    cosines = np.rint(left @ right / TIE)
    turn, free = [(0, 0)] * 3, np.ones(3, bool)
    for stored in np.argsort(-np.abs(cosines).max(0), kind="stable").tolist():
        ras = int(np.where(free, np.abs(cosines[:, stored]), -1).argmax())
        turn[stored], free[ras] = (ras, -1 if cosines[ras, stored] < 0 else 1), False
    return turn[0], turn[1], turn[2]


@dataclass(frozen=True)
class Grid:
    """Voxels in space.

    Attributes:
        shape: voxels (x, y, z).
        affine: 4×4 as 16 numbers row by row, voxel index to millimetres in RAS+.
    """

    shape: tuple[int, int, int]
    affine: tuple[float, ...]

    @property
    def matrix(self) -> np.ndarray:
        """The affine, 4×4."""
        return np.array(self.affine).reshape(4, 4)


def is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes are not at right angles, beyond rounding."""
    return bool(_cosines(affine).max() > RIGHT_ANGLE)


def straight_grid(affine: np.ndarray, shape: Sequence[int]) -> Grid:
    """The right-angled grid that encloses a sheared one, with voxels of the same volume.

    Two axes at right angles, those with the finest voxels, span planes that stay; the third becomes
    perpendicular to them, with the distance between the planes as its step. So the slices of a CT with a
    tilted gantry are only shifted along themselves.
    """
    cosines, edges = _cosines(affine), spacing_of(affine)

    def cost(pair: tuple[int, int]) -> tuple[float, float]:
        cosine = float(cosines[pair])
        return (cosine if cosine > RIGHT_ANGLE else 0), round(edges[pair[0]] * edges[pair[1]], 4)

    first, second = min(((0, 1), (0, 2), (1, 2)), key=cost)
    order = [first, second, 3 - first - second]
    directions, steps = np.linalg.qr(affine[:3, order])
    straight = np.eye(4)
    straight[:3, order] = directions * np.diag(steps)
    # Its axes point the way of the sheared ones: both factors of a QR have the same signs.
    straight[:3, 3] = affine[:3, 3]
    reached = (corners(affine, shape, 0.5) - affine[:3, 3]) @ np.linalg.inv(straight[:3, :3]).T
    rounding = 1e-3
    start = np.floor(reached.min(0) + 0.5 + rounding).astype(int)
    stop = np.ceil(reached.max(0) + 0.5 - rounding).astype(int)
    straight[:3, 3] += straight[:3, :3] @ start
    x, y, z = (stop - start).tolist()
    return Grid((x, y, z), tuple(straight.ravel().tolist()))


def _cosines(affine: np.ndarray) -> np.ndarray:
    """Absolute cosines between the axes (3, 3), 0 on the diagonal."""
    directions = affine[:3, :3] / spacing_of(affine)
    return np.abs(directions.T @ directions) * (1 - np.eye(3))
