"""The patient without the couch, and the thoracic cage around lungs that may be filled.

Everything is computed from shapes that remain visible when a lung is filled by fluid, consolidation or
tumour: the air that is left, its mirror image, and the muscles around the chest. Bones are needed only to
find the middle of a patient with one arm raised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

from foldwise.volumes.morphology import Spacing, dilated, distance, enlarged, eroded, filled, hull

COARSE_MM = 5.0
TISSUE_HU, MUSCLE_HU, BONE_HU = -300.0, -30.0, 200.0
# The couch is a shell that is thinner than twice this. mm.
COUCH_MM = 7.0
# The spine's width, and less bone than it has in a slice. mm, mm².
SPINE_MM, LEAST_SPINE_MM2 = 40.0, 200.0
# Chest wall, pleura and mediastinal fat included in the thoracic cage around the lungs' hull. mm.
WALL_MM = 20.0
# A lung below this share of the other's volume may be filled or collapsed; it may extend this much lower. mm.
FILLED, LOWER_MM = 0.7, 50.0
# Lungs taper towards their base: within 10 mm above the lowest tenth of their largest section, they have less
# than half of it. If fluid fills the lowest third of both, it reaches about 100 mm lower than the air. mm.
TENTH, BLUNT, BASE_MM, BLUNT_LOWER_MM = 0.1, 0.5, 10.0, 100.0
# Height of the lungs over their width: about 0.8 in expiration to 1.2 in deep inspiration.
HEIGHT = 0.9


@dataclass(frozen=True)
class Cage:
    """The thoracic cage.

    Attributes:
        region: its mask (x, y, z).
        sides: volumes of the left and the right lung, in voxels.
        mirrored: share of the larger lung's mirror image that lies within the scan.
        lowered: how much lower the region reaches than the lowest air and the wall below it, in mm.
        added: share of the region that the lungs' hull and its wall do not contain: within the muscles.
    """

    region: np.ndarray
    sides: tuple[int, int]
    mirrored: float
    lowered: float
    added: float

    @property
    def smaller(self) -> float:
        """The smaller lung's share of the larger one's volume."""
        return min(self.sides) / max(self.sides)


def coarse_steps(spacing: Spacing) -> tuple[int, ...]:
    """Voxels per step of the coarse grid."""
    return tuple(max(1, round(COARSE_MM / step)) for step in spacing)


def find_patient(hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The patient's outline: the convex hull of each axial slice, without couch and free air.

    Args:
        hu: (x, y, z) in RAS orientation.
        spacing: in mm.
    """
    steps = coarse_steps(spacing)
    coarse = hu[:: steps[0], :: steps[1], :: steps[2]]
    tissue = coarse > TISSUE_HU
    size = tuple(s * n for s, n in zip(spacing, steps, strict=True))
    core = cc3d.largest_k(eroded(tissue, size, COUCH_MM), k=1, connectivity=6) > 0
    core = ndimage.binary_dilation(core, iterations=3, mask=tissue)
    for z in np.flatnonzero(core.any(axis=(0, 1))):
        core[:, :, z] = convex_hull_image(core[:, :, z])
    return enlarged(core, steps, hu.shape)


def with_wall(lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The lungs with the chest wall, to some mm: a child's wall is too thin for the patient's outline."""
    steps = coarse_steps(spacing)
    size = tuple(s * n for s, n in zip(spacing, steps, strict=True))
    return enlarged(dilated(lungs[:: steps[0], :: steps[1], :: steps[2]], size, WALL_MM), steps, lungs.shape)


def find_middle(hu: np.ndarray, patient: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> float:
    """The patient's middle along x, in voxels: the spine's, or without visible bones the outline's.

    The spine is in the middle even if an arm is raised or the scan shows one side only.
    """
    slices = np.flatnonzero(lungs.any(axis=(0, 1)))
    part = slice(slices[0], slices[-1] + 1)
    inside = np.flatnonzero(patient[:, :, part].any(axis=(0, 2)))
    outline = np.flatnonzero(patient[:, :, part].any(axis=(1, 2)))
    if not inside.size:
        return (hu.shape[0] - 1) / 2
    behind = slice(inside[0], (inside[0] + inside[-1]) // 2 + 1)
    bone = ((hu[:, behind, part] > BONE_HU) & patient[:, behind, part]).sum(axis=(1, 2))
    width = 2 * round(SPINE_MM / 2 / spacing[0]) + 1
    spine = ndimage.uniform_filter1d(bone.astype(float), width, mode="constant")
    if spine.max() * width * spacing[0] * spacing[1] < LEAST_SPINE_MM2 * (part.stop - part.start):
        return float(outline[0] + outline[-1]) / 2
    peaks = np.flatnonzero(spine == spine.max())
    return float(peaks[0] + peaks[-1]) / 2


def find_cage(
    lungs: np.ndarray,
    hu: np.ndarray,
    body: np.ndarray,
    middle: float,
    spacing: Spacing,
    *,
    apex: bool,
    cut: tuple[bool, bool],
) -> Cage:
    """The thoracic cage: all that may be lung, filled or not, with mediastinum and inner chest wall.

    It joins the hull of the lungs and of their mirror image, widened by the chest wall, and what lies as
    deep within the muscles of the trunk as the lungs' outermost air, so that fluid behind, below or around
    the air of both lungs belongs to it.

    Args:
        lungs: air-filled lungs, closed (x, y, z).
        hu: on the same grid.
        body: the patient.
        middle: of the patient along x, in voxels.
        spacing: in mm.
        apex: whether the scan shows the lungs' upper ends.
        cut: whether the scan cuts the patient on the left, and on the right.
    """
    steps = coarse_steps(spacing)
    size = tuple(s * n for s, n in zip(spacing, steps, strict=True))
    coarse = lungs[:: steps[0], :: steps[1], :: steps[2]].copy()
    air = coarse.copy()
    x, y, z = np.nonzero(air)
    mirrored = np.rint(2 * middle / steps[0] - x).astype(int)
    within = (mirrored >= 0) & (mirrored < air.shape[0])
    left = int((x < middle / steps[0]).sum())
    sides = (left, len(x) - left)
    larger = (x < middle / steps[0]) == (sides[0] > sides[1])
    below = round(LOWER_MM / size[2]) if min(sides) < FILLED * max(sides) else 0
    for down in {0, below}:
        inside = within & (z >= down)
        coarse[mirrored[inside], y[inside], z[inside] - down] = True
    wide = dilated(hull(coarse), size, WALL_MM)
    columns = np.flatnonzero(coarse.any(axis=(1, 2)))
    first, last = (int(columns[place]) for place in (0, -1))
    lowest = _lowest(air, (last - first + 1) * size[0], size, apex=apex)
    # Arms lie beyond the lungs and their mirror image, but where a scan cuts the patient, so may a lung.
    first, last = 0 if cut[0] else first, air.shape[0] - 1 if cut[1] else last
    trunk = _within_muscles(air, hu[:: steps[0], :: steps[1], :: steps[2]], size)
    trunk[:first], trunk[last + 1 :] = False, False
    trunk[:, :, :lowest], trunk[:, :, z.max() + 1 :] = False, False
    region = enlarged(wide | trunk, steps, lungs.shape) & body
    added = 1 - float((enlarged(wide, steps, lungs.shape) & body).sum() / region.sum())
    share = float(within[larger].mean()) if larger.any() else 0.0
    return Cage(region, sides, share, max(0.0, (z.min() - lowest) * size[2]), added)


def _lowest(air: np.ndarray, width: float, size: Spacing, *, apex: bool) -> int:
    """The lowest slice that may hold lung: below the air if its base is blunt, or if the lungs are short."""
    sections = air.sum(axis=(0, 1))
    high = int(np.flatnonzero(sections)[-1])
    low = int(np.flatnonzero(sections > TENTH * sections.max())[0])
    base = sections[low : low + math.ceil(BASE_MM / size[2])]
    lowest = int(np.flatnonzero(sections)[0])
    if base.max() > BLUNT * sections.max():
        lowest -= round(BLUNT_LOWER_MM / size[2])
    if apex:
        lowest = min(lowest, high + 1 - round(HEIGHT * width / size[2]))
    return max(0, lowest)


def _within_muscles(air: np.ndarray, hu: np.ndarray, size: Spacing) -> np.ndarray:
    """What lies at least as deep within the muscles of the trunk as the outermost air of the lungs.

    The thinnest wall of each side and slice is the same in front, at the sides and behind, to some mm.
    """
    trunk = (hu > MUSCLE_HU) | air
    core = cc3d.largest_k(ndimage.binary_erosion(trunk, border_value=1), k=1, connectivity=6) > 0
    depth = distance(filled(ndimage.binary_dilation(core, mask=trunk)), size)
    outer = np.where(air, depth, np.inf).min(axis=(0, 1))
    slices = np.flatnonzero(np.isfinite(outer))
    inner = slices[len(slices) // 4 : -(len(slices) // 4) or None]
    return np.asarray(depth >= max(min(float(np.median(outer[inner])), WALL_MM), min(size)))
