"""A session's objects as files describe them, and files' objects as those of a session."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldwise.files import CaseError, write_text
from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.masks import quality_rows
from foldwise.systems.interactive.objects import MOST, Object, named, rgb
from foldwise.systems.interactive.state import State
from foldwise.volumes.objects import Object as Described
from foldwise.volumes.objects import Objects, number_type
from foldwise.volumes.objects_out import SUFFIXES, Form

# Names of the files that are saved into the session's folder.
FILES: dict[Form, str] = {
    "nifti": "mask.nii.gz",
    "slicer": "mask.seg.nrrd",
    "dicom-seg": "seg.dcm",
    "rtstruct": "rtstruct.dcm",
}


def form_of(path: Path, form: str | None = None) -> Form:
    """The format of a file to save: the given one, else by its name.

    Raises:
        CaseError: an unknown format, or a name that belongs to none or several.
    """
    if form is not None:
        for each in SUFFIXES:
            if form == each:
                return each
        raise CaseError(f"format {form!r}: use one of {', '.join(SUFFIXES)}")
    fits = [each for each, suffixes in SUFFIXES.items() if path.name.lower().endswith(suffixes)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise CaseError(f"--mask {path}: give --format {' or '.join(fits)}, too")
    known = ", ".join(dict.fromkeys(suffix for suffixes in SUFFIXES.values() for suffix in suffixes))
    raise CaseError(f"--mask {path}: the name of a mask must end in one of {known}")


def described(labels: np.ndarray, objects: Sequence[Object], scan: Scan) -> Objects:
    """A session's objects for a file."""
    there = {number: each for number, each in enumerate(objects, start=1) if not each.removed}
    listed = tuple(
        Described(each.name, each.value, rgb(each.colour), each.origin, each.codes) for each in there.values()
    )
    kind = number_type(len(listed))
    if len(there) == len(objects):
        return Objects(labels.astype(kind, copy=False), listed, scan.affine)
    # Files number the objects without a gap; their values stay.
    table: np.ndarray = np.zeros(len(objects) + 1, kind)
    table[list(there)] = np.arange(1, len(there) + 1)
    return Objects(table[labels], listed, scan.affine)


def joined(found: Objects, present: Sequence[Object]) -> tuple[np.ndarray, list[Object], str]:
    """A file's objects as those of a session: known names are known objects, all others are new.

    Args:
        found: of the file, on the scan's grid.
        present: the session's objects.

    Returns:
        Object numbers (x, y, z), all objects of the session from now on, and what a person must know.
    """
    objects, numbers, moved = list(present), [0], []
    theirs = {each.value for each in found.listed}
    for each in found.listed:
        same = (
            number
            for number, one in enumerate(objects, start=1)
            if one.name.lower() == each.name.lower() and not one.removed
        )
        known = next(same, None)
        if known is None:
            used, value = {one.value for one in objects}, each.value
            if value < 1 or value in used:
                # Above all others, as values below have a meaning in many lists of labels.
                top = max(used | theirs) + 1
                value = next(n for n in itertools.count(top if top <= MOST else 1) if n not in used | theirs)
                moved.append(f"{each.name} ({each.value}, here {value})")
            colour = None if each.colour is None else "#" + bytes(each.colour).hex()
            new = named(each.name, objects, value, colour)
            objects.append(Object(new.name, new.value, new.colour, origin=each.origin, codes=each.codes))
            known = len(objects)
        numbers.append(known)
    table = np.array(numbers, number_type(len(objects)))
    taken = [f"Other objects of the session have or had the values of {', '.join(moved)}."] if moved else []
    return table[found.labels], objects, " ".join([*found.remarks, *taken])


def write_quality(state: State, names: Sequence[str], path: Path) -> None:
    """Write the quality of every slice and object as CSV."""
    rows = quality_rows(state, names)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0] if rows else ()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
