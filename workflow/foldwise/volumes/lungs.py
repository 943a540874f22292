"""Lungs and thoracic region of a CT in HU, by thresholds, components and distances; no network.

The morphology runs on a grid of about 2.5 mm, fine enough for all radii used; the lung's border is then
refined at full resolution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cc3d
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from skimage.measure import regionprops
from skimage.morphology import convex_hull_image

from foldwise.files import CaseError
from foldwise.volumes.geometry import bounding_box
from foldwise.volumes.volume import Volume

Spacing = tuple[float, ...]

WORKING_MM = 2.5
HULL_MM = 5.0
# Free air and gas are near -1000 HU; lung tissue, including emphysema, is well above this.
GAS_HU = -960.0
CORE_HU = -500.0
# Area on the scan's sides over volume^(2/3) of a piece: a cube touching one side has 1. A lung cut by a crop
# stays below; air, foam and clothes around a patient are well above.
MAX_CONTACT = 2.0
# Chest wall, pleura and mediastinal fat included in the thoracic cage around the lungs' hull. mm.
WALL_MM = 20.0
# A lung below this share of the other's volume may be filled or collapsed; it may extend this much lower. mm.
FILLED, LOWER_MM = 0.7, 50.0
# Volume of both lungs of a child or an adult; a scan may show only a part of them.
LITRES = (0.15, 14.0)


@dataclass(frozen=True)
class Lungs:
    """The lungs found, on the CT's grid.

    Attributes:
        mask: both lungs (x, y, z) without airways, closed over vessels and small pleural tumours.
        region: the thoracic cage: hull of the lungs, with mediastinum, hila and inner chest wall.
        smaller: the smaller lung's share of the larger one's volume, separated at the patient's middle.
        seconds: step → time taken, in s.
    """

    mask: np.ndarray
    region: np.ndarray
    smaller: float
    seconds: dict[str, float]


def find_lungs(ct: Volume, *, air_hu: float = -320, closing_mm: float = 10) -> Lungs:
    """Find both lungs and the thoracic region.

    Args:
        ct: CT in HU, any orientation and spacing; the lungs may be cut by the scan's border.
        air_hu: voxels below this are air or lung.
        closing_mm: radius of the closing.

    Raises:
        CaseError: the values are not HU, or the scan contains no lung.
    """
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        seconds[step] = time.perf_counter() - begun

    with timed("shrink"):
        refuse_other_units(ct.data)
        # The sides are mirrored and the trachea is searched in axial slices, so the axes must be known.
        turned = ct.oriented("RAS")
        hu, spacing, factors = _shrunk(turned)
    with timed("components"):
        found = _lung_parts(hu, spacing, air_hu)
        middle = _middle(hu, spacing)
        box = _reach(found, middle, spacing)
        hu, parts = hu[box], _largest_parts(found[box], spacing)
        body = _body(hu, parts, spacing)
    with timed("airways"):
        airways = _airways(hu, parts, body, spacing)
        parts = _largest_parts(parts & ~airways, spacing)
    with timed("closing"):
        closed = _closed(parts, spacing, closing_mm) & ~airways
        closed &= body
    with timed("region"):
        region, smaller = _region(closed, body, middle - box[0].start, spacing)
    with timed("full resolution"):
        fine = tuple(
            slice(part.start * factor, min(part.stop * factor, size))
            for part, factor, size in zip(box, factors, turned.data.shape, strict=True)
        )
        mask, whole = np.zeros(turned.data.shape, bool), np.zeros(turned.data.shape, bool)
        mask[fine] = _refined(turned.data[fine], parts, closed, airways, spacing, factors, air_hu)
        whole[fine] = _enlarged(region, factors, mask[fine].shape) | mask[fine]
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(ct.affine))
        mask, whole = (apply_orientation(found, back) for found in (mask, whole))
    return Lungs(mask, whole, smaller, seconds)


def missed_share(label: np.ndarray, inside: np.ndarray) -> float | None:
    """Share of labelled (non-zero) voxels that lie outside a mask; None without any labelled voxel."""
    labelled = label > 0
    count = int(labelled.sum())
    return float((labelled & ~inside.astype(bool)).sum() / count) if count else None


def refuse_other_units(data: np.ndarray) -> None:
    """Raise if the values cannot be HU.

    Raises:
        CaseError: no air, or no soft tissue, at their HU values.
    """
    sample = data[::4, ::4, ::2]
    low, high = float(sample.min()), float(sample.max())
    remedy = "apply the file's rescale slope and intercept (unsigned CTs often lack an offset of -1024)"
    if low > -300:
        raise CaseError(f"not in HU: the lowest value is {low:g}, but air would be near -1000; {remedy}")
    tissue = float(((sample > -200) & (sample < 300)).mean())
    if high < 0 or tissue < 0.02:
        raise CaseError(
            f"not in HU: only {tissue:.1%} of the voxels are soft tissue (-200 to 300), the highest value is "
            f"{high:g}; {remedy}"
        )


def _shrunk(ct: Volume) -> tuple[np.ndarray, tuple[float, ...], tuple[int, ...]]:
    """Mean of whole blocks of voxels of about the working size: HU, their spacing, and voxels per block."""
    factors = tuple(max(1, int(WORKING_MM / step + 0.25)) for step in ct.spacing)
    # Padding outside the field of view is below air and must not lower the means.
    image = sitk.GetImageFromArray(ct.data.transpose())
    image = sitk.Clamp(image, sitk.sitkFloat32, -1024, 1500)
    pad = [-n % f for n, f in zip(ct.data.shape, factors, strict=True)]
    image = sitk.ZeroFluxNeumannPad(image, [0, 0, 0], pad)
    shrunk = sitk.GetArrayFromImage(sitk.BinShrink(image, factors)).transpose()
    return shrunk, tuple(s * f for s, f in zip(ct.spacing, factors, strict=True)), factors


def _lung_parts(hu: np.ndarray, spacing: Spacing, air_hu: float) -> np.ndarray:
    """Air-filled pieces that are neither free air, foam around the patient, nor gas in bowel or stomach."""
    # A partial-volume wall between lung and bowel remains a wall at this lower threshold.
    pieces = cc3d.connected_components(hu < min(CORE_HU, air_hu), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    touching = np.zeros(len(sizes))
    for axis in (0, 1):
        face = np.prod(spacing) / spacing[axis]
        for side in (0, -1):
            touching += face * np.bincount(pieces.take(side, axis).ravel(), minlength=len(sizes))
    volumes = sizes * float(np.prod(spacing))
    keep = np.zeros(len(sizes), bool)
    for number in np.flatnonzero(volumes > 2e4):
        if number and touching[number] < MAX_CONTACT * volumes[number] ** (2 / 3):
            keep[number] = np.median(hu[pieces == number]) > GAS_HU
    if not keep.any():
        raise CaseError("no lungs found: no large piece of air-filled tissue in the scan")
    lung = keep[pieces]
    box = bounding_box(lung, 2 * max(spacing), spacing).slices
    near = _dilated(lung[box], spacing, 1.01 * max(spacing)) & (hu[box] < air_hu)
    lung[box] |= near & (pieces[box] == 0)
    return lung


def _body(hu: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The patient, filled, without table and clothes: the large piece of tissue around the lungs."""
    tissue = hu > -300
    core = cc3d.largest_k(_eroded(tissue, spacing, 4), k=1, connectivity=6) > 0
    body = _dilated(core, spacing, 6) & tissue | lungs
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    return body


def _largest_parts(parts: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The two lungs, or the one piece that they form; a much smaller second piece is not a lung."""
    pieces = cc3d.connected_components(parts, connectivity=6)
    sizes = np.bincount(pieces.ravel(), minlength=2)
    sizes[0] = 0
    order = np.argsort(sizes)[::-1][:2]
    chosen = [int(n) for n in order if sizes[n] > 0.05 * sizes[order[0]]]
    litres = sizes[chosen].sum() * float(np.prod(spacing)) / 1e6
    if not LITRES[0] <= litres <= LITRES[1]:
        raise CaseError(
            f"no lungs found: the largest air-filled pieces have {litres:.2f} l, expected {LITRES[0]} to "
            f"{LITRES[1]} l; is this a chest CT in HU, with the right spacing?"
        )
    return np.isin(pieces, chosen)


def _airways(hu: np.ndarray, parts: np.ndarray, body: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Trachea and main bronchi: gas grown from the trachea, without leaking into the lungs."""
    seed = _trachea(hu, body, spacing)
    if seed is None:
        return np.zeros_like(parts)
    voxel_ml = float(np.prod(spacing)) / 1000
    airway = seed
    for limit in (-950, -925, -900, -875, -850, -800):
        grown = cc3d.connected_components((hu < limit) & body | seed, connectivity=6)
        grown = np.isin(grown, np.setdiff1d(np.unique(grown[seed]), 0))
        # Trachea and main bronchi have well under 150 ml; a leak has litres.
        if grown.sum() * voxel_ml > max(150, 2 * seed.sum() * voxel_ml):
            break
        airway = grown
    return _dilated(airway, spacing, 1.5 * min(spacing)) & (hu < -500) & body


def _trachea(hu: np.ndarray, body: np.ndarray, spacing: Spacing) -> np.ndarray | None:
    """The longest stack of small round gas-filled cross-sections in axial slices."""
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
    best, longest = None, 25.0
    for piece in regionprops(pieces):
        length = (piece.bbox[5] - piece.bbox[2]) * spacing[2]
        if length > longest and np.median(hu[tuple(piece.coords.T)]) < -880:
            best, longest = piece.label, length
    return None if best is None else pieces == best


def _closed(parts: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Closing of each lung separately, so that the mediastinum stays out; then holes are filled."""
    closed = np.zeros_like(parts)
    pad = [int(np.ceil(radius / step)) + 1 for step in spacing]
    x, y, z = (slice(p, p + n) for p, n in zip(pad, parts.shape, strict=True))
    pieces = cc3d.connected_components(parts, connectivity=6)
    for number in np.setdiff1d(np.unique(pieces), 0):
        # Border values are repeated outwards: a lung cut by the scan's edge is not eroded there.
        lung = np.pad(pieces == number, [(p, p) for p in pad], mode="edge")
        lung = _eroded(_dilated(lung, spacing, radius), spacing, radius)
        closed |= lung[x, y, z]
    closed |= parts
    for k in range(closed.shape[2]):
        closed[:, :, k] = ndimage.binary_fill_holes(closed[:, :, k])
    return closed


def _middle(hu: np.ndarray, spacing: Spacing) -> float:
    """The patient's middle along x, in voxels; a table is too thin to matter."""
    steps = tuple(max(1, round(HULL_MM / step)) for step in spacing)
    tissue = hu[:: steps[0], :: steps[1], :: steps[2]] > -300
    core = cc3d.largest_k(ndimage.binary_erosion(tissue, iterations=2), k=1, connectivity=6)
    filled = np.flatnonzero(core.any(axis=(1, 2)))
    return float((filled[0] + filled[-1]) / 2 * steps[0]) if filled.size else (hu.shape[0] - 1) / 2


def _reach(found: np.ndarray, middle: float, spacing: Spacing) -> tuple[slice, slice, slice]:
    """The box for all further steps: the surroundings of the lungs, and possible places of a filled one."""
    near = WALL_MM + 2 * HULL_MM
    x, y, z = bounding_box(found, near, spacing).slices
    left = min(x.start, math.floor(2 * middle) - x.stop + 1)
    right = max(x.stop, math.ceil(2 * middle) - x.start + 1)
    below = math.ceil(LOWER_MM / spacing[2])
    return slice(max(0, left), min(found.shape[0], right)), y, slice(max(0, z.start - below), z.stop)


def _region(
    closed: np.ndarray, body: np.ndarray, middle: float, spacing: Spacing
) -> tuple[np.ndarray, float]:
    """Hull of the lungs and of their mirror image, with the chest wall's inner part, inside the body.

    The mirror image replaces a lung, or a part of one, that is collapsed, or filled by tumour or
    fluid. If much of a lung is missing, it may extend lower than the other: fluid pushes the diaphragm down.

    Returns:
        The region, and the smaller lung's share of the larger one's volume.
    """
    steps = tuple(max(1, round(HULL_MM / step)) for step in spacing)
    coarse = closed[:: steps[0], :: steps[1], :: steps[2]].copy()
    x, y, z = np.nonzero(coarse)
    mirrored = np.rint(2 * middle / steps[0] - x).astype(int)
    left = int((x < middle / steps[0]).sum())
    smaller = min(left, len(x) - left) / max(left, len(x) - left)
    below = round(LOWER_MM / (spacing[2] * steps[2])) if smaller < FILLED else 0
    for down in {0, below}:
        inside = (mirrored >= 0) & (mirrored < coarse.shape[0]) & (z >= down)
        coarse[mirrored[inside], y[inside], z[inside] - down] = True
    hull = convex_hull_image(coarse)
    wide = _dilated(hull, tuple(s * n for s, n in zip(spacing, steps, strict=True)), WALL_MM)
    return _enlarged(wide, steps, closed.shape) & body, smaller


def _refined(
    data: np.ndarray,
    parts: np.ndarray,
    closed: np.ndarray,
    airways: np.ndarray,
    spacing: Spacing,
    factors: tuple[int, ...],
    air_hu: float,
) -> np.ndarray:
    """The lung's border at full resolution: air next to the lungs found, and voxels filled by the closing."""
    shape = data.shape
    near = _enlarged(_dilated(parts, spacing, 1.01 * max(spacing)) & ~airways, factors, shape)
    core = _enlarged(_eroded(closed, spacing, 0.6 * min(spacing)) | (closed & ~parts), factors, shape)
    return (near & (data < air_hu)) | core


def _enlarged(mask: np.ndarray, factors: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Blocks back to voxels."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.repeat(mask, factor, axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]


def _dilated(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Dilation by a ball, in mm."""
    if not mask.any():
        return mask
    return np.asarray(_distance(~mask, spacing) <= radius)


def _eroded(mask: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Erosion by a ball, in mm; the array's border does not erode."""
    if mask.all():
        return mask
    return np.asarray(_distance(mask, spacing) > radius)


def _distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Distance of every voxel of a mask to the nearest voxel outside it, in mm."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))
