"""Find the thoracic region, or the lungs, of chest CTs in HU; needs numpy, nibabel and SimpleITK.

    python lungs.py SCANS REGIONS

writes a mask of each scan for runner.py, as Foldwise finds it: the air of both lungs, its mirror image, and
what lies as deep within the muscles of the trunk. What is hardly a pair of lungs has no mask.
"""

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from numpy import ndarray as Array
from runner import box
from scans import find_cases, read


def distance(mask: Array, spacing: Any, limit: float) -> Array:
    """Distance in mm of a mask's voxels to the nearest one outside it; exact up to a limit."""
    squares = np.where(mask, np.inf, 0.0)
    for axis, step in enumerate(spacing):
        near, lines = np.moveaxis(squares.copy(), axis, 0), np.moveaxis(squares, axis, 0)
        for shift in range(1, min(int(limit / step) + 2, len(lines))):
            near[shift:] = np.minimum(near[shift:], lines[:-shift] + (shift * step) ** 2)
            near[:-shift] = np.minimum(near[:-shift], lines[shift:] + (shift * step) ** 2)
        squares = np.moveaxis(near, 0, axis)
    return np.sqrt(squares)


def dilated(mask: Array, spacing: Any, radius: float) -> Array:
    """Dilation by a ball in mm."""
    return distance(~mask, spacing, radius) <= radius


def eroded(mask: Array, spacing: Any, radius: float) -> Array:
    """Erosion by a ball in mm."""
    return distance(mask, spacing, radius) > radius


def spread(mask: Array) -> Array:
    """A mask and its voxels' neighbours by faces."""
    wide = mask.copy()
    for axis in range(3):
        lines, source = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
        lines[1:] |= source[:-1]
        lines[:-1] |= source[1:]
    return wide


def components(mask: Array) -> Array:
    """Numbers of components connected by faces, 0 outside the mask."""
    return sitk.GetArrayFromImage(
        sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), False)
    )


def largest(mask: Array) -> Array:
    """The largest component."""
    pieces = components(mask)
    return mask & (pieces == 1 + np.bincount(pieces.ravel(), minlength=2)[1:].argmax())


def filled(mask: Array) -> Array:
    """A mask with the holes of its axial slices filled."""
    slices = [sitk.GetImageFromArray(part.astype(np.uint8)) for part in np.moveaxis(mask, 2, 0)]
    return np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(one, False)) > 0 for one in slices], axis=2)


def enlarged(mask: Array, factors: Any, shape: Any) -> Array:
    """Blocks back to voxels."""
    for axis, factor in enumerate(factors):
        mask = np.repeat(mask, factor, axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]


def flat_hull(mask: Array) -> Array:
    """The convex hull of the pixels of a slice."""
    ends = [(row, np.flatnonzero(mask[row])) for row in np.flatnonzero(mask.any(1))]
    pixels = [(row, place) for row, columns in ends for place in (columns[0], columns[-1])]
    points = sorted(
        {(r + a, c + b) for r, c in pixels for a, b in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))}
    )
    rows, columns = np.indices(mask.shape)
    inside = np.full(mask.shape, bool(points))
    for ordered in (points, points[::-1]):
        chain: list[tuple[float, float]] = []
        for p in ordered:
            while len(chain) > 1 and (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1]) <= (
                chain[-1][1] - chain[-2][1]
            ) * (p[0] - chain[-2][0]):
                chain.pop()
            chain.append(p)
        for (a, b), (c, d) in itertools.pairwise(chain):
            inside &= (c - a) * (columns - b) - (d - b) * (rows - a) >= -1e-9
    return inside


def planes(faces: Any) -> tuple[Array, Array]:
    """The normals of triangles (n, 3, 3), and their products with every point of a triangle's plane."""
    first, second, third = np.moveaxis(np.array(faces), 1, 0)
    normals = np.cross(second - first, third - first)
    return normals, (normals * first).sum(1)


def hull(mask: Array) -> Array:
    """Voxels whose centre is at most half a voxel outside the convex hull of a mask's voxels."""
    points = np.argwhere(mask)
    first = points[0]
    second = points[np.abs(points - first).sum(1).argmax()]
    third = points[np.abs(np.cross(points - first, second - first)).sum(1).argmax()]
    heights = (points - first) @ np.cross(second - first, third - first)
    if not heights.any():  # too few slices for a body
        return np.stack([flat_hull(part) for part in np.moveaxis(mask, 2, 0)], axis=2)
    # From a tetrahedron on, always the point that is farthest outside; whole numbers are exact.
    corners = [tuple(p.tolist()) for p in (first, second, third, points[np.abs(heights).argmax()])]
    faces = []
    for (a, b, c), d in zip(itertools.combinations(corners, 3), corners[::-1], strict=True):
        normals, offsets = planes([(a, b, c)])
        faces.append((a, b, c) if normals[0] @ d < offsets[0] else (a, c, b))
    while True:
        normals, offsets = planes(faces)
        above = points @ normals.T - offsets
        outside = (above > 0).any(1)
        if not outside.any():
            break
        points, above = points[outside], above[outside]
        place = above.max(1).argmax()
        point, seen = tuple(points[place].tolist()), above[place] >= 0
        edges = {
            e for (a, b, c), one in zip(faces, seen, strict=True) if one for e in ((a, b), (b, c), (c, a))
        }
        faces = [face for face, one in zip(faces, seen, strict=True) if not one]
        faces += [(a, b, point) for a, b in edges if (b, a) not in edges]
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    inside, places = np.ones(mask.shape, bool), np.indices(mask.shape)
    for *normal, offset in np.unique((np.c_[normals, offsets] / lengths).round(9), axis=0):
        inside &= np.tensordot(normal, places, 1) <= offset + 0.5
    return inside


def find_patient(hu: Array, spacing: Any, steps: Any) -> Array:
    """The patient's outline: the convex hull of each axial slice, without couch and free air."""
    coarse = hu[:: steps[0], :: steps[1], :: steps[2]]
    core = largest(eroded(coarse > -300, spacing * steps, 7.0))
    for _ in range(3):
        core = core | spread(core) & (coarse > -300)
    return enlarged(np.stack([flat_hull(part) for part in np.moveaxis(core, 2, 0)], axis=2), steps, hu.shape)


def find_parts(hu: Array, patient: Array, spacing: Any, air_hu: float) -> Array:
    """Air-filled pieces that are neither free air, foam, the inside of a couch, nor gas in the bowel."""
    pieces = components(hu < min(-500.0, air_hu))
    sizes = np.bincount(pieces.ravel())
    within = np.bincount(pieces[patient], minlength=len(sizes))
    volume, touching = sizes * float(np.prod(spacing)), np.zeros(len(sizes))
    for axis, side in itertools.product((0, 1), (0, -1)):
        face = pieces.take(side, axis).ravel()
        touching += np.prod(spacing) / spacing[axis] * np.bincount(face, minlength=len(sizes))
    keep = np.zeros(len(sizes), bool)
    for number in np.flatnonzero((volume > 2e4) & (within > 0.3 * sizes) & (np.arange(len(sizes)) > 0)):
        piece, length = pieces == number, hu.shape[2]
        columns = piece.sum(axis=2)
        along = columns[columns > 0.9 * length].sum() > 0.9 * columns.sum()
        keep[number] = (
            touching[number] < 2.0 * volume[number] ** (2 / 3)
            and np.median(hu[piece]) > -960
            and not (length * spacing[2] >= 100 and along)
        )
    if not keep.any():
        raise ValueError("no lungs found; is this a chest CT in HU?")
    near = dilated(keep[pieces], spacing, 1.01 * max(spacing)) & (hu < air_hu)
    return keep[pieces] | near & (pieces == 0)


def find_middle(hu: Array, patient: Array, lungs: Array, spacing: Any) -> float:
    """The patient's middle along x, in voxels: the spine's, or without visible bones the outline's."""
    slices = np.flatnonzero(lungs.any(axis=(0, 1)))
    part = slice(slices[0], slices[-1] + 1)
    inside = np.flatnonzero(patient[:, :, part].any(axis=(0, 2)))
    outline = np.flatnonzero(patient[:, :, part].any(axis=(1, 2)))
    if not inside.size:
        return (hu.shape[0] - 1) / 2
    behind = slice(inside[0], (inside[0] + inside[-1]) // 2 + 1)
    bone = ((hu[:, behind, part] > 200) & patient[:, behind, part]).sum(axis=(1, 2))
    width = 2 * round(20 / spacing[0]) + 1
    spine = np.convolve(bone, np.ones(width), "same")
    if spine.max() * spacing[0] * spacing[1] < 200 * (part.stop - part.start):
        return float(outline[0] + outline[-1]) / 2
    peaks = np.flatnonzero(spine == spine.max())
    return float(peaks[0] + peaks[-1]) / 2


def two_largest(parts: Array, spacing: Any) -> Array:
    """The two lungs, or the one piece that they form; a much smaller second piece is not a lung."""
    pieces = components(parts)
    sizes = np.bincount(pieces.ravel(), minlength=2)
    sizes[0] = 0
    order = np.argsort(sizes)[::-1][:2]
    chosen = [number for number in order if sizes[number] > 0.05 * sizes[order[0]]]
    litres = sizes[chosen].sum() * float(np.prod(spacing)) / 1e6
    if not 0.15 <= litres <= 14:
        raise ValueError(f"no lungs found: the largest air-filled pieces have {litres:.2f} l")
    return np.isin(pieces, chosen)


def find_airways(
    hu: Array, lungs: Array, body: Array, middle: float, spacing: Any
) -> tuple[Array, Array | None]:
    """Trachea and main bronchi: gas grown from the windpipe; and that, a stack of small round sections."""
    stack, gas, slices = np.zeros_like(body), (hu < -800) & body, np.flatnonzero(lungs.any(axis=(0, 1)))
    for z in range(hu.shape[2]):
        pieces = sitk.ConnectedComponent(sitk.GetImageFromArray(gas[:, :, z].astype(np.uint8)), False)
        shapes, numbers = sitk.LabelShapeStatisticsImageFilter(), sitk.GetArrayFromImage(pieces)
        shapes.Execute(pieces)
        for number in shapes.GetLabels():
            edges = np.array(shapes.GetBoundingBox(number)[:1:-1]) * spacing[:2]
            area = shapes.GetNumberOfPixels(number) * spacing[0] * spacing[1]
            if 60 <= area <= 900 and max(edges) <= 2.5 * min(edges):
                stack[:, :, z] |= numbers == number
    pieces, seed, first = components(stack), None, (False, 25.0)
    for number in range(1, pieces.max() + 1):
        piece = np.nonzero(pieces == number)
        length = (piece[2].max() + 1 - piece[2].min()) * spacing[2]
        if length <= 25 or abs(piece[0].mean() - middle) * spacing[0] > 60:
            continue
        rank = (bool(piece[2].mean() > (slices[0] + slices[-1]) / 2), length)
        if rank > first and np.median(hu[piece]) < -880:
            seed, first = pieces == number, rank
    if seed is None:
        return np.zeros_like(body), None
    airways = seed
    for limit in (-950, -925, -900, -875, -850, -800):
        pieces = components((hu < limit) & body | seed)
        grown = np.isin(pieces, np.setdiff1d(np.unique(pieces[seed]), 0))
        if grown.sum() * np.prod(spacing) / 1000 > max(150, 2 * seed.sum() * np.prod(spacing) / 1000):
            break  # a leak into the lungs
        airways = grown
    return dilated(airways, spacing, 1.5 * min(spacing)) & (hu < -500) & body, seed


def find_cage(
    lungs: Array, hu: Array, body: Array, middle: float, spacing: Any, steps: Any, ends: Any
) -> Array:
    """The thoracic cage: all that may be lung, filled or not, with mediastinum and inner chest wall."""
    size, air = spacing * steps, lungs[:: steps[0], :: steps[1], :: steps[2]]
    both, coarse = air.copy(), hu[:: steps[0], :: steps[1], :: steps[2]]
    x, y, z = np.nonzero(air)
    mirrored = np.rint(2 * middle / steps[0] - x).astype(int)
    within, left = (mirrored >= 0) & (mirrored < air.shape[0]), int((x < middle / steps[0]).sum())
    lower = round(50 / size[2]) if min(left, len(x) - left) < 0.7 * max(left, len(x) - left) else 0
    for down in {0, lower}:
        inside = within & (z >= down)
        both[mirrored[inside], y[inside], z[inside] - down] = True
    wide = dilated(hull(both), size, 20.0)
    columns = np.flatnonzero(both.any(axis=(1, 2)))
    sections = air.sum(axis=(0, 1))
    low = int(np.flatnonzero(sections > 0.1 * sections.max())[0])
    lowest, high = (int(np.flatnonzero(sections)[place]) for place in (0, -1))
    if sections[low : low + math.ceil(10 / size[2])].max() > 0.5 * sections.max():
        lowest -= round(100 / size[2])  # blunt, so fluid may fill what is below
    if ends[2]:
        width = (columns[-1] - columns[0] + 1) * size[0]
        lowest = min(lowest, high + 1 - round(0.9 * width / size[2]))
    # As deep within the muscles of the trunk as the lungs' outermost air.
    tissue = (coarse > -30) | air
    core = largest(~spread(~tissue))
    depth = distance(filled(core | spread(core) & tissue), size, 25.0)
    outer = np.where(air, depth, np.inf).min(axis=(0, 1))
    slices = np.flatnonzero(air.any(axis=(0, 1)))
    inner = slices[len(slices) // 4 : -(len(slices) // 4) or None]
    trunk = depth >= max(min(float(np.median(outer[inner])), 20.0), min(size))
    first = 0 if ends[0] else columns[0]
    last = len(air) - 1 if ends[1] else columns[-1]
    trunk[:first], trunk[last + 1 :] = False, False
    trunk[:, :, : max(0, lowest)], trunk[:, :, z.max() + 1 :] = False, False
    return enlarged(wide | trunk, steps, lungs.shape) & body


def doubts(
    hu: Array, lungs: Array, body: Array, windpipe: Array | None, middle: float, spacing: Any, ends: Any
) -> list[str]:
    """Why these are hardly lungs, from windpipe, bones, symmetry and share of the body."""
    places, slices = np.nonzero(lungs), np.flatnonzero(lungs.any(axis=(0, 1)))
    across = slice(slices[0], slices[-1] + 1)
    tissue, found = int(body[:, :, across].sum()), []
    section = tissue * spacing[0] * spacing[1] / (across.stop - across.start) / 100
    if windpipe is None and ends[2] and not ends[4] and section > 250:
        found.append("no windpipe is seen, although their upper ends are in the scan (gas in the bowel?)")
    if windpipe is not None and ends[2] and np.nonzero(windpipe)[2].mean() < (slices[0] + slices[-1]) / 2:
        found.append("the windpipe lies at their lower half (is the scan upside down?)")
    near = round(40 / spacing[0])
    centre = slice(max(0, round(middle) - near), max(0, round(middle) + near + 1))
    bones = np.nonzero((hu[centre, :, across] > 200) & body[centre, :, across])[1]
    if bones.size and places[1].mean() < np.median(bones):
        found.append("the bones lie in front of them (is the scan stored back to front?)")
    if len(places[0]) / tissue < 0.04 and (ends[2] or ends[3]):
        found.append(f"they are only {len(places[0]) / tissue:.1%} of the body in their slices")
    return found


def find_masks(ct: Array, spacing: Array, air_hu: float, closing_mm: float) -> tuple[Array, Array, list[str]]:
    """The lungs and the thoracic region of a CT (x, y, z), whose axes run to the right, front and above.

    Also why these are hardly lungs.
    """
    sample = ct[::4, ::4, ::2]
    if sample.min() > -300 or sample.max() < 0 or ((sample > -200) & (sample < 300)).mean() < 0.02:
        raise ValueError("its values are not in HU")
    factors = [max(1, int(2.5 / step + 0.25)) for step in spacing]
    image = sitk.Clamp(sitk.GetImageFromArray(ct.transpose()), sitk.sitkFloat32, -1024, 1500)
    image = sitk.ZeroFluxNeumannPad(
        image, [0, 0, 0], [-n % f for n, f in zip(ct.shape, factors, strict=True)]
    )
    hu = sitk.GetArrayFromImage(sitk.BinShrink(image, factors)).transpose()
    spacing = spacing * factors
    steps = [max(1, round(5.0 / step)) for step in spacing]
    patient = find_patient(hu, spacing, steps)
    found = find_parts(hu, patient, spacing, air_hu)
    middle = find_middle(hu, patient, found, spacing)
    sections = found.sum(axis=(0, 1))
    # Whether the scan cuts the patient left and right, has the lungs' upper ends, and cuts their bases.
    low_cut, high_cut = (bool(sections[place] > 0.1 * sections.max()) for place in (0, -1))
    ends = [bool(patient[0].any()), bool(patient[-1].any()), not high_cut, low_cut]
    # The box of all that may be lung, filled or not, and the wall around it.
    filled_places = np.nonzero(found)
    margin = np.ceil(40 / spacing - 1e-3).astype(int)
    low = np.maximum(0, np.min(filled_places, axis=1) - margin)
    high = np.minimum(found.shape, np.max(filled_places, axis=1) + 1 + margin)
    left = 0 if ends[0] else max(0, min(low[0], math.floor(2 * middle) - high[0] + 1))
    right = len(found) if ends[1] else min(len(found), max(high[0], math.ceil(2 * middle) - low[0] + 1))
    depth = np.flatnonzero(patient[left:right, :, low[2] : high[2]].any(axis=(0, 2)))
    behind, front = (depth[0], depth[-1] + 1) if depth.size else (low[1], high[1])
    height = max((high[2] - low[2]) * spacing[2] + 100, 0.9 * (right - left) * spacing[0])
    low = np.array([left, min(low[1], behind), max(0, high[2] - math.ceil(height / spacing[2]))])
    near = box(low, np.array([right, max(high[1], front), high[2]]) - low)
    hu, parts, patient, middle = hu[near], two_largest(found[near], spacing), patient[near], middle - left
    wall = dilated(parts[:: steps[0], :: steps[1], :: steps[2]], spacing * steps, 20.0)
    core = largest(eroded(hu > -300, spacing, 4))
    body = filled(dilated(core, spacing, 6) & (hu > -300) | parts)
    body &= patient | enlarged(wall, steps, hu.shape)
    airways, windpipe = find_airways(hu, parts, body, middle, spacing)
    parts = two_largest(parts & ~airways, spacing)
    closed, pieces = parts.copy(), components(parts)
    pad = [(int(np.ceil(closing_mm / step)) + 1,) * 2 for step in spacing]
    for number in range(1, pieces.max() + 1):
        lung = np.pad(pieces == number, pad, mode="edge")
        lung = eroded(dilated(lung, spacing, closing_mm), spacing, closing_mm)
        closed |= lung[box([p for p, _ in pad], hu.shape)]
    closed = filled(closed) & ~airways & body
    cage = find_cage(closed, hu, body, middle, spacing, steps, ends)
    x = np.nonzero(closed[:: steps[0], :: steps[1], :: steps[2]])[0]
    larger = (x < middle / steps[0]) == ((x < middle / steps[0]).mean() > 0.5)
    mirrored = np.rint(2 * middle / steps[0] - x[larger])
    # Whether it shows one side only: the mirror image of the larger lung lies outside.
    ends.append(bool(((mirrored < 0) | (mirrored >= math.ceil(len(hu) / steps[0]))).mean() > 0.5))
    why = doubts(hu, closed, body, windpipe, middle, spacing, ends)
    place = tuple(
        slice(part.start * factor, min(part.stop * factor, size))
        for part, factor, size in zip(near, factors, ct.shape, strict=True)
    )
    lungs, region = np.zeros(ct.shape, bool), np.zeros(ct.shape, bool)
    shape = ct[place].shape
    edge = enlarged(dilated(parts, spacing, 1.01 * max(spacing)) & ~airways, factors, shape) & (
        ct[place] < air_hu
    )
    inner = eroded(closed, spacing, 0.6 * min(spacing)) | closed & ~parts
    lungs[place] = edge | enlarged(inner, factors, shape)
    region[place] = enlarged(cage, factors, shape) | lungs[place]
    return lungs, region, why


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    scans, output = map(Path, sys.argv[1:])
    plan = json.loads(Path(__file__).with_name("plan.json").read_text())["lungs"]
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for case, paths in find_cases(scans, output).items():
        try:
            (ct, *_), affine = read(paths[0])
            turn = nib.io_orientation(affine)
            spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
            *found, why = find_masks(apply_orientation(ct, turn), spacing, plan["air_hu"], plan["closing_mm"])
            if why and plan["implausible"] == "error":
                raise ValueError(f"hardly lungs: {'; '.join(why)}")
        except Exception as error:  # the other scans go on
            failed.append(f"{case}: {error}")
            continue
        mask = found[plan["mask"] == "region"].astype(np.uint8)
        mask = apply_orientation(mask, ornt_transform(axcodes2ornt("RAS"), turn))
        nib.save(nib.Nifti1Image(mask, affine), output / f"{case}.nii.gz")
    sys.exit("\n".join(failed) or 0)
