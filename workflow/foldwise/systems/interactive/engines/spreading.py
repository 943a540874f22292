"""Making a mask obey marks: one click removes or adds a sensible region rather than a voxel."""

from __future__ import annotations

import cc3d
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from skimage.graph import MCP_Geometric

from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.shapes import noise_of, window
from foldwise.systems.interactive.marks import Settled

# A change reaches at most this far. mm.
MOST = 30.0
# Marks thicker than so many voxels are painted areas, not clicks and strokes.
THICK = 2
# So many clicks and strokes spread; of more at once, which nobody makes by hand, the rest change themselves.
FEW = 50


def spread(scan: Scan, mask: np.ndarray, settled: Settled) -> np.ndarray:
    """A mask that obeys all marks; where it contradicted them, its neighbourhood changes with them.

    The change reaches from the contradicting voxels as far as they are deep in the mask (or outside it),
    less the thickness of what is marked: a click in the middle of an excess removes all of it, and a
    painted area only itself. Distances are geodesic: a way through grey values unlike those marked is longer.
    A voxel changes only if no mark that agrees with the mask is nearer.

    Args:
        scan: the scan.
        mask: (x, y, z) bool.
        settled: what the marks settle.
    """
    changed = mask.copy() if settled.barred is None else mask & ~settled.barred
    for wanted, marked, others in (
        (True, settled.inside, settled.outside),
        (False, settled.outside, settled.inside),
    ):
        wrong = np.zeros(mask.shape, bool)
        wrong.flat[marked[changed.flat[marked] != wanted]] = True
        if not wrong.any():
            continue
        agreeing = np.zeros(mask.shape, bool)
        agreeing.flat[others] = True
        box = window(wrong, np.ceil(MOST / np.array(scan.spacing)).astype(int))
        opposite = changed[box] != wanted
        depths = np.zeros(opposite.shape, np.float32)
        if not opposite.all():
            depths = distance_transform_edt(opposite, sampling=scan.spacing).astype(np.float32)
        parts = cc3d.connected_components(wrong[box].astype(np.uint8))
        for number, where in enumerate(find_objects(parts)[:FEW], start=1):
            part = parts[where] == number
            thickness = distance_transform_edt(np.pad(part, 1), sampling=scan.spacing).max()
            reach = min(MOST, float(depths[where][part].max()))
            if thickness > THICK * min(scan.spacing):
                reach -= float(thickness)
            seeds = np.argwhere(part) + [axis.start for axis in where] + [axis.start for axis in box]
            if reach > min(scan.spacing):
                _change(scan, changed, seeds, reach, agreeing, wanted)
    return settled.apply(changed)


def _change(
    scan: Scan, mask: np.ndarray, seeds: np.ndarray, reach: float, agreeing: np.ndarray, wanted: bool
) -> None:
    """Change a mask in place around connected contradicting voxels (n, 3), at most `reach` mm away."""
    spacing = np.array(scan.spacing)
    margin = np.ceil(reach / spacing).astype(int)
    low = np.maximum(seeds.min(0) - margin, 0)
    high = np.minimum(seeds.max(0) + margin + 1, mask.shape)
    where = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    opposite, own = mask[where] != wanted, tuple((seeds - low).T)
    image = np.nan_to_num(scan.image[(slice(None), *where)].astype(np.float32))
    typical = np.median(image[(slice(None), *own)], 1)[:, None, None, None]
    noise = noise_of(image.reshape(len(image), image.shape[1], -1))[..., None]
    costs = 1 + (np.abs(image - typical) / noise).sum(0).astype(float)
    opposite[own] = True
    costs[~opposite] = -1

    def ways(starts: np.ndarray) -> np.ndarray:
        found: np.ndarray = MCP_Geometric(costs, sampling=tuple(spacing)).find_costs(starts)[0]
        return found

    away = ways(seeds - low)
    near = away <= reach
    rivals = np.argwhere(agreeing[where] & opposite)
    if len(rivals):
        near &= away < ways(rivals)
    mask[where][near] = wanted
