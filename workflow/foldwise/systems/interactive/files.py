"""Hints from files: points as CSV, scribbles as a NIfTI, a box; all in the voxels of the scan's own file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.places import Places
from foldwise.volumes.volume import Header, read_volume, same_grid

KINDS = ("inside", "outside", "extreme", "box")
# The value of a scribble outside every object, or the next smaller one where this is an object's own.
OUTSIDE = 255
# Slice of the stack → object (its place among the names) → hints.
Marked = dict[int, dict[int, Hints]]


def read_points(path: Path, objects: Sequence[str], places: Places) -> Marked:
    """Read points: columns x, y, z (voxel indices, from 0), kind, and object where there are several.

    Kinds are inside, outside, extreme, and box (two rows: opposite corners).

    Raises:
        CaseError: the file is no such CSV, or has no points.
    """
    rows = _rows(path)
    made: Marked = {}
    for line, row in enumerate(rows, start=2):
        kind = row.get("kind") or "inside"
        if kind not in KINDS:
            raise CaseError(f"{path}: line {line}: kind {kind!r}; it is one of {', '.join(KINDS)}")
        number = _object(row.get("object") or "", objects, f"{path}: line {line}")
        try:
            voxel = np.array([float(row[axis]) for axis in "xyz"])
        except (TypeError, ValueError):
            raise CaseError(f"{path}: line {line}: x, y and z must be numbers") from None
        place, *point = places.to_stack(voxel)[0]
        _add(made, int(np.rint(place)), number, kind, np.array([point]))
    if not made:
        raise CaseError(f"{path}: no points in it")
    return made


def read_scribble(path: Path, header: Header, values: Mapping[str, int], places: Places) -> Marked:
    """Read a scribble: a label map on the scan's grid in which an object's value marks it, and 255 the rest.

    Where 255 is an object's value, the largest value below it that is none marks the rest.

    Args:
        path: of the scribble.
        header: of the scan.
        values: object → its value.
        places: of the scan.

    Raises:
        CaseError: another grid, unknown values, or nothing drawn.
    """
    volume = read_volume(path)
    if not same_grid(volume, header):
        raise CaseError(
            f"{path}: its grid (shape {volume.data.shape}) is not the scan's (shape {header.shape}); draw "
            f"the scribble on the scan itself"
        )
    rest = next(v for v in (*range(OUTSIDE, 0, -1), OUTSIDE + 1) if v not in values.values())
    found = set(np.unique(volume.data).tolist()) - {0}
    if not found:
        raise CaseError(f"{path}: the scribble is empty; every voxel is 0")
    if unknown := found - {*values.values(), rest}:
        known = ", ".join(f"{value} {name}" for name, value in values.items())
        raise CaseError(f"{path}: value {min(unknown):g} means nothing here; {known}, {rest} outside")
    made: Marked = {}
    for number, value in enumerate(values.values()):
        _scatter(made, places.to_stack(np.argwhere(volume.data == value)), [number], "inside")
    outside = places.to_stack(np.argwhere(volume.data == rest))
    for place in np.unique(np.rint(outside[:, 0]).astype(int)).tolist():
        here = outside[np.rint(outside[:, 0]) == place]
        _scatter(made, here, list(made.get(place, {})) or list(range(len(values))), "outside")
    return made


def read_box(numbers: Sequence[float], object_: str, objects: Sequence[str], places: Places) -> Marked:
    """A box on one slice, from x0 y0 z0 x1 y1 z1: opposite corners as voxel indices.

    Raises:
        CaseError: it spans several slices, or the object is not known.
    """
    corners = places.to_stack(np.reshape(numbers, (2, 3)))
    first, last = np.rint(corners[:, 0]).astype(int)
    if first != last:
        raise CaseError(
            f"the box reaches over several slices; give both corners the same index along axis "
            f"{'xyz'[places.source_axis]} of the file"
        )
    made: Marked = {}
    _add(made, int(first), _object(object_, objects, "the box"), "box", corners[:, 1:])
    return made


def joined(several: Sequence[Marked]) -> Marked:
    """Hints of several files: those of one object on one slice together."""
    made: Marked = {}
    for marked in several:
        for place, of_object in marked.items():
            for number, hints in of_object.items():
                for kind in KINDS:
                    points = getattr(hints, kind)
                    if len(points):
                        _add(made, place, number, kind, points)
    return made


def _scatter(made: Marked, points: np.ndarray, numbers: Sequence[int], kind: str) -> None:
    """Add points (n, 3) of a stack to the slices on which they lie."""
    where = np.rint(points[:, 0]).astype(int)
    for place in np.unique(where).tolist():
        for number in numbers:
            _add(made, place, number, kind, points[where == place, 1:])


def _add(made: Marked, place: int, number: int, kind: str, points: np.ndarray) -> None:
    before = made.setdefault(place, {}).get(number, Hints())
    made[place][number] = before.with_points(kind, points)


def _object(name: str, objects: Sequence[str], where: str) -> int:
    if not name and len(objects) == 1:
        return 0
    if name not in objects:
        raise CaseError(f"{where}: object {name!r}; it is one of {', '.join(objects)}")
    return list(objects).index(name)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path}: not readable as CSV ({error})") from error
    if missing := {"x", "y", "z"} - columns:
        raise CaseError(
            f"{path}: line 1: no column {', '.join(sorted(missing))}; x, y, z and kind are needed"
        )
    return rows
