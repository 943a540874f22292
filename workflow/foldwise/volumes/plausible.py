"""Whether a header can be that of a scan: its axes, the size of its voxels, and its extent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.grids import spacing_of

# Edges of voxels in mm. Micro-CT of small animals has 0.01 and less, thick slices have 20. Beyond the outer
# limits a unit or a header is wrong: light resolves 0.0002 mm, and metres read as mm give 500 and more.
USUAL_EDGES, POSSIBLE_EDGES = (0.002, 25.0), (1e-4, 250.0)
# Longest sides of scans in mm: the whole body has 2,000.
USUAL_SIDE, POSSIBLE_SIDE = 2_500.0, 10_000.0


def refuse_impossible(affine: np.ndarray, shape: Sequence[int]) -> None:
    """Raise if no scan has such a grid.

    Raises:
        CaseError: axes that span no space, or a size far beyond that of any scan.
    """
    if not np.isfinite(affine).all():
        raise CaseError("its affine contains NaN or infinite values")
    edges = spacing_of(affine)
    if not np.prod(edges) or abs(np.linalg.det(affine[:3, :3] / edges)) < 1e-6:
        raise CaseError(f"its voxel size is {_by(edges)} mm, or its axes are not independent")
    if min(edges) < POSSIBLE_EDGES[0] or max(edges) > POSSIBLE_EDGES[1]:
        raise CaseError(
            f"its voxels are {_by(edges)} mm, which no scanner makes; correct their size or unit in the file"
        )
    if max(sides := np.multiply(shape[:3], edges)) > POSSIBLE_SIDE:
        raise CaseError(
            f"it is {_by(sides)} mm large, which no scan is; correct its voxel size or unit in the file"
        )


def unusual(affine: np.ndarray, shape: Sequence[int]) -> tuple[str, ...]:
    """Remarks on a grid that is possible, but more often a mistake."""
    edges = spacing_of(affine)
    if min(edges) < USUAL_EDGES[0] or max(edges) > USUAL_EDGES[1]:
        return (f"its voxels are {_by(edges)} mm, which is unusual; are they in mm?",)
    if max(sides := np.multiply(shape[:3], edges)) > USUAL_SIDE:
        return (f"it is {_by(sides)} mm large, which is unusual; is its voxel size in mm?",)
    return ()


def _by(lengths: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{length:.4g}" for length in lengths)
