"""Hints from files: points as CSV, scribbles as a NIfTI, a box; all in voxels of the scan's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.places import Places
from foldwise.texts import read_rows, refuse_header
from foldwise.volumes.volume import Header, read_volume, same_grid

KINDS = ("inside", "outside", "extreme", "box")
# The scribble's value outside every object; if an object has it, the next smaller free one.
OUTSIDE = 255
# Slice of the stack → object (its index among the names) → hints.
Marked = dict[int, dict[int, Hints]]


def read_points(path: Path, objects: Sequence[str], places: Places) -> Marked:
    """Read points: columns x, y, z (voxel indices, from 0), kind, and object if there are several.

    Kinds are inside, outside, extreme, and box (two rows: opposite corners).

    Raises:
        CaseError: the file is not such a CSV, or has no points.
    """
    marked: Marked = {}
    for line, row in _rows(path):
        kind = row.get("kind") or "inside"
        if kind not in KINDS:
            raise CaseError(f"{path}: line {line}: kind {kind!r}; use one of {', '.join(KINDS)}")
        number = _object(row.get("object") or "", objects, f"{path}: line {line}")
        try:
            voxel = np.array([float(row[axis]) for axis in "xyz"])
            refuse_not_finite(voxel)
        except ValueError:
            raise CaseError(f"{path}: line {line}: x, y and z must be numbers") from None
        place, *point = places.to_stack(voxel)[0]
        _add(marked, int(np.rint(place)), number, kind, np.array([point]))
    if not marked:
        raise CaseError(f"{path}: contains no points")
    for place, objects_there in marked.items():
        if any(len(hints.box) not in (0, 2) for hints in objects_there.values()):
            raise CaseError(
                f"{path}: a box on slice {places.slice_in_source(place)} needs two rows of kind box, its "
                f"opposite corners on that slice"
            )
    return marked


def read_scribble(path: Path, header: Header, values: Mapping[str, int], places: Places) -> Marked:
    """Read a scribble: a label map on the scan's grid with the objects' values, and 255 outside them.

    If 255 is an object's value, the largest smaller value without an object marks the outside.

    Args:
        path: the scribble.
        header: of the scan.
        values: object → its value.
        places: of the scan.

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
    marked: Marked = {}
    for number, value in enumerate(values.values()):
        _scatter(marked, places.to_stack(np.argwhere(volume.data == value)), [number], "inside")
    outside = places.to_stack(np.argwhere(volume.data == rest))
    for place in np.unique(np.rint(outside[:, 0]).astype(int)).tolist():
        here = outside[np.rint(outside[:, 0]) == place]
        _scatter(marked, here, list(marked.get(place, {})) or list(range(len(values))), "outside")
    return marked


def read_box(numbers: Sequence[float], object_: str, objects: Sequence[str], places: Places) -> Marked:
    """A box on one slice, from x0 y0 z0 x1 y1 z1: opposite corners as voxel indices.

    Raises:
        CaseError: it spans several slices, or the object is unknown.
    """
    try:
        refuse_not_finite(np.array(numbers))
    except ValueError as error:
        raise CaseError(f"the box: {error}") from None
    corners = places.to_stack(np.reshape(numbers, (2, 3)))
    first, last = np.rint(corners[:, 0]).astype(int)
    if first != last:
        raise CaseError(
            f"the box spans several slices; give both corners the same index along axis "
            f"{'xyz'[places.source_axis]} of the file"
        )
    marked: Marked = {}
    _add(marked, int(first), _object(object_, objects, "the box"), "box", corners[:, 1:])
    return marked


def refuse_not_finite(voxel: np.ndarray) -> None:
    """Raise a ValueError for coordinates that no array can have."""
    if not (np.abs(voxel) < 2**31).all():
        raise ValueError("its coordinates must be numbers, in voxels")


def joined(several: Sequence[Marked]) -> Marked:
    """Hints of several files, merged for each object and slice."""
    merged: Marked = {}
    for marked in several:
        for place, of_object in marked.items():
            for number, hints in of_object.items():
                for kind in KINDS:
                    points = getattr(hints, kind)
                    if len(points):
                        _add(merged, place, number, kind, points)
    return merged


def _scatter(marked: Marked, points: np.ndarray, numbers: Sequence[int], kind: str) -> None:
    """Add points (n, 3) of a stack to the slices that contain them."""
    where = np.rint(points[:, 0]).astype(int)
    for place in np.unique(where).tolist():
        for number in numbers:
            _add(marked, place, number, kind, points[where == place, 1:])


def _add(marked: Marked, place: int, number: int, kind: str, points: np.ndarray) -> None:
    before = marked.setdefault(place, {}).get(number, Hints())
    marked[place][number] = before.with_points(kind, points)


def _object(name: str, objects: Sequence[str], where: str) -> int:
    if not name and len(objects) == 1:
        return 0
    if name not in objects:
        raise CaseError(f"{where}: object {name!r}; use one of {', '.join(objects)}")
    return list(objects).index(name)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    (_, header), *rows = read_rows(path, "x")
    refuse_header(path, header, "xyz")
    for line, row in rows:
        if len(row) != len(header):
            raise CaseError(f"{path}: line {line}: {len(row)} cells, the header has {len(header)}")
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows]
