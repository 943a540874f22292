"""RTSTRUCT and SEG objects of an import: the series that they belong to, and its label map."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.importers.dicom_scan import Series
from foldwise.importers.sheets import clean
from foldwise.volumes.dicom_structures import Grid, Masks, Structures


def referenced(structures: Structures, series: Iterable[Series]) -> Series | None:
    """The image series that an object belongs to, or None if it is missing.

    Raises:
        CaseError: several series match, or its patient or frame of reference differs from its series'.
    """
    series, frames = list(series), structures.frames
    fitting = [one for one in series if one.uid in structures.series]
    fitting = fitting or [one for one in series if one.instances.keys() & structures.instances]
    if not fitting and not structures.series:
        # The object gives only its frame of reference; that is enough if exactly one series has it.
        fitting = [one for one in series if one.frame and one.frame in frames]
    # Careless de-identification gives several patients equal UIDs.
    own = [one for one in fitting if structures.patient in ("", one.patient) or not one.patient]
    if fitting and not own:
        raise CaseError(f"{structures.path}: its PatientID differs from that of {fitting[0].folder}")
    if len(own) > 1:
        raise CaseError(f"{structures.path}: refers to {len(own)} image series; the right one is unclear")
    if own and frames and own[0].frame and own[0].frame not in frames:
        raise CaseError(
            f"{structures.path}: its frame of reference differs from that of the series it refers to"
        )
    return own[0] if own else None


def parse_structures(text: str) -> list[tuple[str, str]]:
    """(pattern, class) pairs from "GTV*=tumour,Lung_L=lung".

    Raises:
        CaseError: an entry does not have that form.
    """
    pairs = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, name = entry.rpartition("=")
        if not equals or not pattern.strip() or clean(name) != name.strip():
            raise CaseError(f"--structures: {entry!r} does not have the form 'pattern=class'")
        pairs.append((pattern.strip().lower(), name.strip()))
    return pairs


def label_map(
    objects: Sequence[Structures], wanted: Sequence[tuple[str, str]], grid: Grid
) -> tuple[np.ndarray, set[str]]:
    """The label map of a series, and the classes in its objects.

    Args:
        objects: objects that refer to the series.
        wanted: (pattern, class) pairs; classes are numbered from 1 in the order of their first mention.
        grid: of the series.

    Raises:
        CaseError: a structure does not fit the series, or two objects contain the same class.
    """
    opened: dict[Path, Masks] = {}
    classes = list(dict.fromkeys(name for _, name in wanted))
    labels = np.zeros(grid.header.shape, np.uint8 if len(classes) < 256 else np.uint16)
    seen = set()
    for value, name in enumerate(classes, start=1):
        patterns = [pattern for pattern, of in wanted if of == name]
        matching = [
            (held, number)
            for held in objects
            for number, called in held.names.items()
            if any(fnmatchcase(called.lower(), pattern) for pattern in patterns)
        ]
        if len({held.path for held, _ in matching}) > 1:
            paths = ", ".join(sorted({str(held.path) for held, _ in matching}))
            raise CaseError(f"class {name} is in several objects; keep one of {paths}")
        for held, number in matching:
            seen.add(name)
            if held.path not in opened:
                opened[held.path] = held.masks(grid)
            mask = opened[held.path](number)
            for other, count in enumerate(np.bincount(labels[mask], minlength=value)[:value]):
                if other and count:
                    logging.warning(
                        "%s: %d voxels lie in structures of %s and of %s; they count as %s",
                        *(held.path, count, classes[other - 1], name, name),
                    )
            labels[mask] = value
    return labels, seen
