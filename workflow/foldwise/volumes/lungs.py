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

from foldwise.files import CaseError
from foldwise.volumes.airways import find_windpipe, grown_airways
from foldwise.volumes.geometry import bounding_box
from foldwise.volumes.lung_judgement import Seen, look_at
from foldwise.volumes.morphology import Spacing, dilated, enlarged, eroded, filled
from foldwise.volumes.thorax import (
    BLUNT_LOWER_MM,
    HEIGHT,
    TISSUE_HU,
    WALL_MM,
    find_cage,
    find_middle,
    find_patient,
    with_wall,
)
from foldwise.volumes.volume import Volume

WORKING_MM = 2.5
# Free air and gas are near -1000 HU; lung tissue, including emphysema, is well above this.
GAS_HU = -960.0
CORE_HU = -500.0
# Area on the scan's sides over volume^(2/3) of a piece: a cube touching one side has 1. A lung cut by a crop
# stays below; air, foam and clothes around a patient are well above.
MAX_CONTACT = 2.0
# Air within the couch: less than this share lies within the patient's outline, or more than this share lies
# in columns along the whole scan, if that is long. mm.
LEAST_WITHIN, MOST_ALONG, LONG_MM = 0.3, 0.9, 100.0
# Volume of both lungs of a child or an adult; a scan may show only a part of them.
LITRES = (0.15, 14.0)


@dataclass(frozen=True)
class Lungs:
    """The lungs found, on the CT's grid.

    Attributes:
        mask: both lungs (x, y, z) without airways, closed over vessels and small pleural tumours.
        region: the thoracic cage: all that may be lung, filled or not, with mediastinum, hila and inner chest
            wall.
        seen: what was seen of them.
        seconds: step → time taken, in s.
    """

    mask: np.ndarray
    region: np.ndarray
    seen: Seen
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
        # All steps see the same array, whatever the stored order of the axes.
        turned = ct.oriented("RAS")
        refuse_other_units(turned.data)
        hu, spacing, factors = _shrunk(turned)
    with timed("components"):
        patient = find_patient(hu, spacing)
        found = _lung_parts(hu, patient, spacing, air_hu)
        middle = find_middle(hu, patient, found, spacing)
        cut, aside = _cut(found), (bool(patient[0].any()), bool(patient[-1].any()))
        box = _reach(found, patient, middle, aside, spacing)
        hu, parts, patient = hu[box], _largest_parts(found[box], spacing), patient[box]
        middle -= box[0].start
        body = _body(hu, parts, spacing) & (patient | with_wall(parts, spacing))
    with timed("airways"):
        windpipe = find_windpipe(hu, parts, body, middle, spacing)
        airways = grown_airways(hu, windpipe, body, spacing)
        parts = _largest_parts(parts & ~airways, spacing)
    with timed("closing"):
        closed = _closed(parts, spacing, closing_mm) & ~airways
        closed &= body
    with timed("region"):
        apex = "above" not in cut
        cage = find_cage(closed, hu, body, middle, spacing, apex=apex, cut=aside)
        seen = look_at(hu, closed, body, windpipe, cage, cut, middle, spacing)
    with timed("full resolution"):
        fine = tuple(
            slice(part.start * factor, min(part.stop * factor, size))
            for part, factor, size in zip(box, factors, turned.data.shape, strict=True)
        )
        mask, whole = np.zeros(turned.data.shape, bool), np.zeros(turned.data.shape, bool)
        mask[fine] = _refined(turned.data[fine], parts, closed, airways, spacing, factors, air_hu)
        whole[fine] = enlarged(cage.region, factors, mask[fine].shape) | mask[fine]
        back = ornt_transform(axcodes2ornt("RAS"), io_orientation(ct.affine))
        mask, whole = (apply_orientation(found, back) for found in (mask, whole))
    return Lungs(mask, whole, seen, seconds)


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


def _lung_parts(hu: np.ndarray, patient: np.ndarray, spacing: Spacing, air_hu: float) -> np.ndarray:
    """Air-filled pieces that are neither free air, foam, the inside of a couch, nor gas in the bowel."""
    # A partial-volume wall between lung and bowel remains a wall at this lower threshold.
    pieces = cc3d.connected_components(hu < min(CORE_HU, air_hu), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    within = np.bincount(pieces[patient], minlength=len(sizes))
    touching = np.zeros(len(sizes))
    for axis in (0, 1):
        face = np.prod(spacing) / spacing[axis]
        for side in (0, -1):
            touching += face * np.bincount(pieces.take(side, axis).ravel(), minlength=len(sizes))
    volumes = sizes * float(np.prod(spacing))
    keep = np.zeros(len(sizes), bool)
    for number in np.flatnonzero((volumes > 2e4) & (within > LEAST_WITHIN * sizes)):
        if number and touching[number] < MAX_CONTACT * volumes[number] ** (2 / 3):
            piece = pieces == number
            keep[number] = np.median(hu[piece]) > GAS_HU and not _runs_along(piece, spacing)
    if not keep.any():
        raise CaseError(
            "no lungs found: no large piece of air-filled tissue in the patient; is this a chest CT in HU?"
        )
    lung = keep[pieces]
    box = bounding_box(lung, 2 * max(spacing), spacing).slices
    near = dilated(lung[box], spacing, 1.01 * max(spacing)) & (hu[box] < air_hu)
    lung[box] |= near & (pieces[box] == 0)
    return lung


def _runs_along(piece: np.ndarray, spacing: Spacing) -> bool:
    """Whether a piece is the same along a long scan, as the inside of a couch is."""
    length = piece.shape[2]
    columns = piece.sum(axis=2)
    along = columns[columns > MOST_ALONG * length].sum()
    return bool(length * spacing[2] >= LONG_MM and along > MOST_ALONG * columns.sum())


def _cut(lungs: np.ndarray) -> tuple[str, ...]:
    """The scan's sides (RAS) on which the lungs have a tenth of their largest section or more."""
    cut = []
    names = (("left", "right"), ("behind", "front"), ("below", "above"))
    for axis, ends in enumerate(names):
        sections = lungs.sum(axis=tuple(other for other in range(3) if other != axis))
        cut += [
            end for end, place in zip(ends, (0, -1), strict=True) if sections[place] > 0.1 * sections.max()
        ]
    return tuple(cut)


def _reach(
    found: np.ndarray, patient: np.ndarray, middle: float, aside: tuple[bool, bool], spacing: Spacing
) -> tuple[slice, slice, slice]:
    """The box for all further steps: wherever lung may be, filled or not, and the wall around it."""
    x, y, z = bounding_box(found, 2 * WALL_MM, spacing).slices
    left = 0 if aside[0] else min(x.start, math.floor(2 * middle) - x.stop + 1)
    right = found.shape[0] if aside[1] else max(x.stop, math.ceil(2 * middle) - x.start + 1)
    across = slice(max(0, left), min(found.shape[0], right))
    depth = np.flatnonzero(patient[across, :, z].any(axis=(0, 2)))
    behind, front = (depth[0], depth[-1] + 1) if depth.size else (y.start, y.stop)
    width = (across.stop - across.start) * spacing[0]
    height = max((z.stop - z.start) * spacing[2] + BLUNT_LOWER_MM, HEIGHT * width)
    below = z.stop - math.ceil(height / spacing[2])
    return across, slice(min(y.start, int(behind)), max(y.stop, int(front))), slice(max(0, below), z.stop)


def _body(hu: np.ndarray, lungs: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The patient, filled, without table and clothes: the large piece of tissue around the lungs."""
    tissue = hu > TISSUE_HU
    core = cc3d.largest_k(eroded(tissue, spacing, 4), k=1, connectivity=6) > 0
    body = dilated(core, spacing, 6) & tissue | lungs
    return filled(body)


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


def _closed(parts: np.ndarray, spacing: Spacing, radius: float) -> np.ndarray:
    """Closing of each lung separately, so that the mediastinum stays out; then holes are filled."""
    closed = np.zeros_like(parts)
    pad = [int(np.ceil(radius / step)) + 1 for step in spacing]
    pieces = cc3d.connected_components(parts, connectivity=6)
    for number in np.setdiff1d(np.unique(pieces), 0):
        # Border values are repeated outwards: a lung cut by the scan's edge is not eroded there.
        lung = np.pad(pieces == number, [(p, p) for p in pad], mode="edge")
        lung = eroded(dilated(lung, spacing, radius), spacing, radius)
        closed |= lung[tuple(slice(p, -p) for p in pad)]
    closed |= parts
    return filled(closed)


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
    near = enlarged(dilated(parts, spacing, 1.01 * max(spacing)) & ~airways, factors, shape)
    core = enlarged(eroded(closed, spacing, 0.6 * min(spacing)) | (closed & ~parts), factors, shape)
    return (near & (data < air_hu)) | core
