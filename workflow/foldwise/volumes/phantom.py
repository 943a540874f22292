"""Phantom chest CTs for the demo and the tests: determined by their name alone, the same on every machine."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.ndimage import distance_transform_edt, gaussian_filter

from foldwise.volumes.volume import Volume

# Stored axis orders and spacings (mm) of clinical files; every scan draws one of each.
ORIENTATIONS = ("LPS", "RAS", "LAS", "PIR", "RPI", "SRA", "LPI", "ASL")
SPACINGS = ((2.4, 2.4, 3.0), (2.2, 2.2, 4.0), (2.8, 2.8, 2.8), (2.6, 2.6, 5.0), (3.0, 3.0, 2.5))
HU = {"air": -1000, "fat": -95, "muscle": 45, "bone": 380, "heart": 150, "vessel": 150, "lung": -850}


@dataclass(frozen=True)
class Phantom:
    """A generated scan.

    Attributes:
        image: CT, int16 HU.
        label: uint8, 1 in tumours.
        lungs: uint8, 1 in the lungs (vessels and tumours in them too) without trachea and bronchi.
    """

    image: Volume
    label: Volume
    lungs: Volume


def make_phantom(name: str, spacing: tuple[float, float, float] | None = None) -> Phantom:
    """Generate a scan.

    Args:
        name: digits name the patient (p03a and p03b are one), the rest the scan. Patients whose number is a
            multiple of five are stored obliquely, rotated by 10° about the patient's long axis.
        spacing: voxel edges in mm (R, A, S axes); default: one of `SPACINGS`.
    """
    patient = np.random.default_rng(zlib.crc32("".join(c for c in name if c.isdigit()).encode()))
    scan = np.random.default_rng(zlib.crc32(name.encode()))
    step = np.array(spacing or SPACINGS[scan.integers(len(SPACINGS))])
    scale = patient.uniform(0.9, 1.08)
    extent = np.array([360, 270, 300]) * scale + scan.uniform(0, 25, 3)
    shape = np.rint(extent / step).astype(int)
    # Coordinates in mm from the middle of the chest, x to the patient's right as in RAS's first axis.
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, step, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    x, y, z = x / scale, y / scale, z / scale

    hu = np.full(shape, float(HU["air"]))
    body = _body(hu, x, y, z)
    lungs = _lungs(x, y, z, patient) & body
    _mediastinum(hu, x, y, z, body)
    _bones(hu, x, y, z, lungs, body, step)
    hu[lungs] = (HU["lung"] + 25 * _noise(scan, shape, 6 / step))[lungs]
    airways = _airways(hu, x, y, z)
    vessels = _vessels(x, y, z, patient, lungs)
    hu[vessels] = HU["vessel"]
    inner = distance_transform_edt(lungs, sampling=step / scale)
    label = _tumours(x, y, z, patient, scan, lungs, inner)
    hu[label] = (35 + 12 * _noise(scan, shape, 4 / step))[label]

    hu = gaussian_filter(hu, 1.0 / step) + 12 * _noise(scan, shape, 1.2 / step)
    arrays = (np.clip(np.rint(hu), -1024, 3071).astype(np.int16), label, lungs & ~airways)
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = scan.uniform(-200, 0, 3)
    if int("".join(c for c in name if c.isdigit()) or 0) % 5 == 0:
        cos, sin = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
        affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ affine[:3, :3]
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(ORIENTATIONS[scan.integers(len(ORIENTATIONS))]))
    stored = affine @ inv_ornt_aff(turn, tuple(shape))
    image, tumours, air = (Volume(np.ascontiguousarray(apply_orientation(a, turn)), stored) for a in arrays)
    return Phantom(
        image,
        Volume(tumours.data.astype(np.uint8), stored),
        Volume(air.data.astype(np.uint8), stored),
    )


def fill_lungs(
    image: Volume, lungs: Volume, shares: tuple[float, float], start: Literal["behind", "below"]
) -> tuple[Volume, np.ndarray]:
    """Fill lungs with fluid (0 to 60 HU and noise) from behind or from below; also of real scans.

    Args:
        image: CT.
        lungs: both lungs on the same grid.
        shares: of the left and the right lung's volume to be filled.
        start: where the fluid begins.

    Returns:
        The CT, and the filled voxels, both in RAS orientation.
    """
    image, lung = image.oriented(), lungs.oriented().data > 0
    columns = np.flatnonzero(lung.any(axis=(1, 2)))
    middle = (columns[0] + columns[-1]) // 2 + 1
    chosen = np.zeros(lung.shape, bool)
    for side, share in zip((slice(None, middle), slice(middle, None)), shares, strict=True):
        # Slices from back to front, or from below.
        one = np.moveaxis(lung[side], {"behind": 1, "below": 2}[start], 0)
        reached = np.cumsum(one.sum(axis=(1, 2))) <= share * one.sum()
        np.moveaxis(chosen[side], {"behind": 1, "below": 2}[start], 0)[...] = one & reached[:, None, None]
    random = np.random.default_rng(0)
    fluid = random.uniform(0, 60, int(chosen.sum())) + random.normal(0, 15, int(chosen.sum()))
    data = image.data.copy()
    data[chosen] = np.maximum(data[chosen], np.rint(fluid).astype(data.dtype))
    return Volume(data, image.affine), chosen


def with_couch(image: Volume) -> Volume:
    """The scan in RAS orientation with a couch behind the patient: a hollow shell, with foam in it."""
    image = image.oriented()
    step = image.spacing
    shell, depth = (max(1, round(8 / step[1])), round(70 / step[1]))
    couch = np.full((image.data.shape[0], depth, image.data.shape[2]), HU["muscle"], image.data.dtype)
    inner = np.asarray(np.random.default_rng(0).normal(-930, 10, couch.shape))
    aside = round(20 / step[0])
    hollow = (slice(aside + shell, -aside - shell), slice(shell, -shell))
    couch[hollow] = np.rint(inner[hollow])
    couch[:aside], couch[-aside:] = HU["air"], HU["air"]
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array([0, depth, 0])
    return Volume(np.concatenate([couch, image.data], axis=1), affine)


def make_abdomen(spacing: tuple[float, float, float], height: float = 300) -> Volume:
    """A CT of an abdomen (RAS): muscles, fat, spine, liver, and bowel loops with stool and much gas.

    Args:
        spacing: voxel edges in mm.
        height: along z, in mm.
    """
    random = np.random.default_rng(0)
    step = np.array(spacing)
    shape = np.rint(np.array([380, 280, height]) / step).astype(int)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, step, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    hu = np.full(shape, float(HU["air"]))
    body = _body(hu, x, y, z)
    hu[((x / 130) ** 2 + (y / 85) ** 2 < 1) & body] = HU["fat"]
    hu[((x - 60) / 80) ** 2 + (y / 75) ** 2 + ((z - height / 2) / 130) ** 2 < 1] = 60
    hu[((x / 20) ** 2 + ((y + 82) / 18) ** 2 < 1) & (np.sin(z / 4.4) > -0.85)] = HU["bone"]
    for side in (-1, 1):
        loop = np.sqrt((x - side * 95) ** 2 + (y - 20 + 15 * np.sin(z / 25)) ** 2 + 0 * z)
        hu[loop < 26] = HU["muscle"]
        hu[loop < 23] = -900
        hu[(loop < 20) & (np.sin(z / 9 + side) > -0.6)] = -980
    hu = gaussian_filter(hu, 1.0 / step) + 12 * _noise(random, shape, 1.2 / step)
    return Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), np.diag([*step, 1.0]))


def _noise(random: np.random.Generator, shape: np.ndarray, blur: np.ndarray) -> np.ndarray:
    """Correlated noise of standard deviation 1; `blur` in voxels."""
    noise = gaussian_filter(random.standard_normal(shape), blur)
    return np.asarray(noise / noise.std())


def _body(hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Skin, fat, muscle and the table; returns the body without the table."""
    width = 165 + 12 * np.tanh((z - 90) / 30)
    ring = np.sqrt((x / width) ** 2 + (y / 112) ** 2)
    body = ring < 1
    hu[body] = HU["fat"]
    hu[ring < 0.92] = HU["muscle"]
    table = (np.abs(y + 122 - (x / 60) ** 2 * 0.6) < 3) & (np.abs(x) < 175) & (z > -1e9)
    hu[table & ~body] = 100
    return np.asarray(body)


def _lungs(x: np.ndarray, y: np.ndarray, z: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Two lungs: tapered ellipsoids with a dome below and the mediastinum between them."""
    both = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), bool)
    apex, base = random.uniform(115, 125), random.uniform(-95, -80)
    for side in (-1, 1):
        taper = np.clip((apex - z) / 120, 0, 1) ** 0.45
        across = 62 * taper * (1.06 if side > 0 else 0.98)
        lung = ((x - side * 74) / np.maximum(across, 1)) ** 2 + (y / np.maximum(88 * taper, 1)) ** 2 < 1
        dome = base + 42 * np.exp(-(((x - side * 74) / 55) ** 2) - ((y - 10) / 60) ** 2)
        both |= lung & (z < apex) & (z > dome + (8 if side > 0 else 0))
    return both & ~_heart(x, y, z) & (np.abs(x) > 14)


def _heart(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.asarray(((x + 22) / 62) ** 2 + ((y - 28) / 55) ** 2 + ((z + 35) / 58) ** 2 < 1)


def _mediastinum(hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, body: np.ndarray) -> None:
    """Fat between the lungs, with the heart in it."""
    hu[((x / 60) ** 2 + (y / 85) ** 2 < 1) & (z > -95) & body] = HU["fat"]
    hu[_heart(x, y, z) & body] = HU["heart"]


def _bones(
    hu: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    lungs: np.ndarray,
    body: np.ndarray,
    step: np.ndarray,
) -> None:
    """Spine, sternum and slanted ribs a few mm outside the lungs."""
    spine = ((x / 20) ** 2 + ((y + 82) / 18) ** 2 < 1) & (np.sin(z / 4.4) > -0.85)
    sternum = (np.abs(x) < 14) & (np.abs(y - 98) < 5) & (z > -20) & (z < 100)
    outside = distance_transform_edt(~lungs, sampling=step)
    ribs = (outside > 4) & (outside < 11) & (np.sin((z + 0.5 * y) / 4.2) > 0.3) & (np.abs(x) > 40)
    ribs &= (z > -110) & (z < 120)
    hu[(spine | sternum | ribs) & body] = HU["bone"]


def _airways(hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Trachea and main bronchi with a thin wall."""
    distance = np.sqrt(x**2 + (y + 12) ** 2) + np.where(z > 30, 0, 1e3)
    for side in (-1, 1):
        along = np.clip((30 - z) / 40, 0, 1)
        bronchus = np.sqrt((x - side * 48 * along) ** 2 + (y + 12) ** 2)
        distance = np.minimum(distance, bronchus + np.where((z <= 32) & (z > -10), 0, 1e3))
    hu[distance < 10] = HU["muscle"]
    hu[distance < 8] = HU["air"]
    return np.asarray(distance < 10)


def _vessels(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, random: np.random.Generator, lungs: np.ndarray
) -> np.ndarray:
    """Trees of tubes that branch from both hila and thin out."""
    vessels = np.zeros(lungs.shape, bool)
    grid = [np.ravel(a) for a in (x, y, z)]
    tips = [
        (np.array([s * 30.0, -8.0, 5.0]), d / np.linalg.norm(d), 6.0, 38.0)
        for s in (-1, 1)
        for d in (random.normal((s, 0, 0), 0.6, (4, 3)))
    ]
    for _ in range(5):
        grown = []
        for start, direction, radius, length in tips:
            end = start + direction * length
            _tube(vessels, grid, start, end, radius)
            for _ in range(2):
                turned = direction + random.normal(0, 0.45, 3)
                grown.append((end, turned / np.linalg.norm(turned), radius * 0.72, length * 0.78))
        tips = grown
    return vessels & lungs


def _tube(
    mask: np.ndarray, grid: list[np.ndarray], start: np.ndarray, end: np.ndarray, radius: float
) -> None:
    """Set a capsule between two points, touching only the voxels of its box."""
    box, axes = [], []
    for axis, (a, b) in enumerate(zip(start, end, strict=True)):
        low, high = np.searchsorted(grid[axis], [min(a, b) - radius, max(a, b) + radius])
        box.append(slice(low, high))
        axes.append(grid[axis][low:high])
    if any(len(axis) == 0 for axis in axes):
        return
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    line = end - start
    along = np.clip((points - start) @ line / (line @ line), 0, 1)
    distance = np.linalg.norm(points - start - along[..., None] * line, axis=-1)
    mask[tuple(box)] |= distance < radius


def _tumours(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    patient: np.random.Generator,
    scan: np.random.Generator,
    lungs: np.ndarray,
    inner: np.ndarray,
) -> np.ndarray:
    """One to three irregular tumours, about a third of them at the pleura; `inner` is the depth in mm."""
    tumours = np.zeros(lungs.shape, bool)
    growth = scan.uniform(1.0, 1.1)
    for _ in range(patient.integers(1, 4)):
        radius = patient.uniform(9, 19)
        pleural = patient.random() < 0.35
        depth = (0.35 * radius, 0.75 * radius) if pleural else (1.15 * radius, 60.0)
        # Drawn as a rank among positions at that depth, so that two scans of a patient agree on any grid.
        height = patient.uniform(0.15, 0.85)
        rank = patient.random()
        bumps = patient.normal(0, 1, (6, 3)), patient.uniform(0, 2 * np.pi, 6)
        places = np.argwhere((inner > depth[0]) & (inner < depth[1]))
        if not len(places):
            continue
        heights = z.ravel()[places[:, 2]]
        level = places[np.abs(heights - np.quantile(heights, height)) <= np.abs(np.diff(z.ravel())[0])]
        chosen = level[int(rank * len(level))]
        centre = [a.ravel()[i] for a, i in zip((x, y, z), chosen, strict=True)]
        dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
        distance = np.sqrt(dx**2 + dy**2 + dz**2)
        surface = sum(
            np.sin((a * dx + b * dy + c * dz) / radius * 1.6 + phase)
            for (a, b, c), phase in zip(*bumps, strict=True)
        )
        tumours |= distance < growth * radius * (1 + 0.07 * surface)
    # Tumours may grow a few mm into the chest wall, but not through it.
    return tumours & (lungs | (distance_transform_edt(~lungs) < 2))
