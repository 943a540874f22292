"""Tiny generated volumes, caches and indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foldwise.index import Entry, Fold, Index
from foldwise.volumes.cache import Contents, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """A boolean ball, in voxels."""
    grid = np.indices(shape)
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
    return np.asarray(distance <= radius**2)


def scan(seed: int, shape: tuple[int, int, int] = (20, 18, 16)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy int16 volume near -800 with one ball near 40, and the ball as uint8 label."""
    random = np.random.default_rng(seed)
    centre = tuple(random.uniform(5, n - 5) for n in shape)
    label = ball(shape, centre, random.uniform(2.5, 4)).astype(np.uint8)
    image = random.normal(-800, 60, shape)
    image[label > 0] = random.normal(40, 40, int(label.sum()))
    return image.astype(np.int16), label


def task(targets: Targets, channels: int = 1) -> dict[str, Any]:
    """The task in a segmentation index."""
    return {"targets": targets.as_dict(), "channels": channels}


def write_cached_set(folder: Path, cases: int = 5) -> Path:
    """Caches and an index of one fold: three training cases, one validation case, the rest for testing."""
    entries = []
    for number in range(cases):
        image, label = scan(number)
        name = f"c{number}"
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        path = folder / "caches" / f"{name}.h5"
        lineage = Lineage.of(image.shape, affine, Box((0, 0, 0), image.shape))
        contents = Contents(image[None], label, None, lineage, ("tumour",))
        write_case(path, name, contents, (16, 16, 16), 1000)
        source = folder / f"{name}_label.nii.gz"
        write_volume(Volume(label, affine), source)
        ml = float(label.sum()) * 12 / 1000
        files: dict[str, tuple[str, ...]] = {"images": (f"{name}.nii.gz",), "label": (str(source),)}
        entries.append(Entry(name, name, files, str(path), {"foreground_ml": {"tumour": ml}}, ml))
    names = [entry.case for entry in entries]
    fold = Fold(tuple(names[:3]), tuple(names[3:4]), tuple(names[4:]))
    index = folder / "index.pkl"
    Index(task(Targets({"tumour": 1})), tuple(entries), (fold,)).write(index, folder / "splits.json")
    return index
