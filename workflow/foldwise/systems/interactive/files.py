"""Marks from files: points as CSV, scribbles as a label map, a box; all in voxels of the scan's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.marks import ALL_SIDES, Marks
from foldwise.texts import read_rows, refuse_header
from foldwise.volumes.volume import Header, read_volume, same_grid

# Kind in a file → attribute of `Marks`. The last two need two rows each.
POINTS = {"inside": "inside", "outside": "outside", "extreme": "extreme", "box": "boxes", "line": "lines"}
PAIRS = ("boxes", "lines")
# The scribble's value outside every object; if an object has it, the next smaller free one.
OUTSIDE = 255
# Object number → its marks.
Marked = dict[int, tuple[Marks, ...]]


def read_points(path: Path, objects: Sequence[str], axis: int) -> Marked:
    """Read points: columns x, y, z (voxel indices, from 0), kind, and object if there are several.

    Kinds are inside, outside, extreme, and box and line (two rows each: opposite corners, or both ends).

    Args:
        path: the file.
        objects: their names.
        axis: the axis across the slices (0 to 2), on which boxes, lines and extreme points lie.

    Raises:
        CaseError: the file is not such a CSV, or has no points.
    """
    found: dict[int, dict[str, list[np.ndarray]]] = {}
    for line, row in _rows(path):
        kind = row.get("kind") or "inside"
        if kind not in POINTS:
            raise CaseError(f"{path}: line {line}: kind {kind!r}; use one of {', '.join(POINTS)}")
        number = _object(row.get("object") or "", objects, f"{path}: line {line}")
        try:
            voxel = _voxel([float(row[name]) for name in "xyz"])
        except ValueError:
            raise CaseError(f"{path}: line {line}: x, y and z must be numbers, in voxels") from None
        found.setdefault(number, {}).setdefault(POINTS[kind], []).append(voxel)
    if not found:
        raise CaseError(f"{path}: contains no points")
    marked: Marked = {}
    for number, kinds in found.items():
        arrays = {kind: np.array(points) for kind, points in kinds.items()}
        for kind in PAIRS:
            if kind in arrays:
                arrays[kind] = _pairs(arrays[kind], kind, axis, path)
        _refuse_few_extremes(arrays.get("extreme"), axis, path)
        marked[number] = (replace(Marks(axis), **arrays),)  # type: ignore[arg-type]
    return marked


def read_scribble(path: Path, header: Header, values: Mapping[str, int], axis: int) -> Marked:
    """Read a scribble: a label map on the scan's grid with the objects' values, and 255 outside them.

    If 255 is an object's value, the largest smaller value without an object marks the outside. Outside marks
    are of all objects.

    Args:
        path: the scribble.
        header: of the scan.
        values: object → its value.
        axis: the axis across the slices on which it was drawn.

    Raises:
        CaseError: a different grid, unknown values, or nothing drawn.
    """
    volume = read_volume(path)
    if not same_grid(volume, header):
        raise CaseError(
            f"{path}: its grid (shape {volume.data.shape}) differs from the scan's (shape {header.shape}); "
            f"draw the scribble on the scan itself"
        )
    rest = next(v for v in (*range(OUTSIDE, 0, -1), OUTSIDE + 1) if v not in values.values())
    found = set(np.unique(volume.data).tolist()) - {0}
    if not found:
        raise CaseError(f"{path}: the scribble is empty; every voxel is 0")
    if unknown := found - {*values.values(), rest}:
        known = ", ".join(f"{value} {name}" for name, value in values.items())
        raise CaseError(f"{path}: value {min(unknown):g} is not known; use {known}, {rest} outside")
    outside = np.argwhere(volume.data == rest)
    marked: Marked = {}
    for number, value in enumerate(values.values(), start=1):
        inside = np.argwhere(volume.data == value)
        if len(inside) or len(outside):
            marked[number] = (Marks(axis, inside=inside, outside=outside),)
    return marked


def read_box(numbers: Sequence[float], object_: str, objects: Sequence[str], axis: int) -> Marked:
    """A box on one slice, from x0 y0 z0 x1 y1 z1: opposite corners as voxel indices.

    Raises:
        CaseError: it spans several slices, or the object is unknown.
    """
    try:
        corners = np.stack([_voxel(numbers[:3]), _voxel(numbers[3:])])
    except ValueError as error:
        raise CaseError(f"the box: {error}") from None
    flat = [number for number in range(3) if corners[0, number] == corners[1, number]]
    if not flat:
        raise CaseError(
            f"the box spans several slices; give both corners the same index along one axis, such as "
            f"{'xyz'[axis]}"
        )
    across = axis if axis in flat else flat[0]
    return {_object(object_, objects, "the box"): (Marks(across, boxes=corners[None]),)}


def joined(several: Sequence[Marked]) -> Marked:
    """Marks of several files, for each object."""
    merged: Marked = {}
    for marked in several:
        for number, given in marked.items():
            merged[number] = (*merged.get(number, ()), *given)
    return merged


def _voxel(numbers: Sequence[float]) -> np.ndarray:
    """A voxel's indices; a ValueError for coordinates that no array can have."""
    voxel = np.asarray(numbers, float)
    if not (np.abs(voxel) < 2**31).all():
        raise ValueError("its coordinates must be numbers, in voxels")
    return np.rint(voxel).astype(np.int64)


def _pairs(points: np.ndarray, kind: str, axis: int, path: Path) -> np.ndarray:
    what = "a box needs two rows: opposite corners" if kind == "boxes" else "a line needs two rows: its ends"
    if len(points) % 2 or (points[::2, axis] != points[1::2, axis]).any():
        raise CaseError(f"{path}: {what}, one after the other and on one slice along {'xyz'[axis]}")
    return points.reshape(-1, 2, 3)


def _refuse_few_extremes(points: np.ndarray | None, axis: int, path: Path) -> None:
    if points is None:
        return
    places, counts = np.unique(points[:, axis], return_counts=True)
    if (counts < ALL_SIDES).any():
        place = places[counts < ALL_SIDES][0]
        raise CaseError(
            f"{path}: {counts[places == place][0]} extreme point(s) on slice {place} along {'xyz'[axis]}; "
            f"expected four: the outermost voxels on all sides"
        )


def _object(name: str, objects: Sequence[str], where: str) -> int:
    if not name and len(objects) == 1:
        return 1
    if name not in objects:
        raise CaseError(f"{where}: object {name!r}; use one of {', '.join(objects)}")
    return list(objects).index(name) + 1


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    (_, header), *rows = read_rows(path, "x")
    refuse_header(path, header, "xyz")
    for line, row in rows:
        if len(row) != len(header):
            raise CaseError(f"{path}: line {line}: {len(row)} cells, the header has {len(header)}")
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows]
