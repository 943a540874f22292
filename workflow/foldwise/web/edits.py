"""Changes of objects that the page asks for; each is one step."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.objects import held
from foldwise.volumes.between import between_slices
from foldwise.volumes.parts import apart_from, smaller_than
from foldwise.web.requests import Between, Islands, ObjectChange


def change_object(annotation: Annotation, asked: ObjectChange) -> None:
    """Change an object, or add one.

    Raises:
        CaseError: there is no such object, or its name cannot be used.
    """
    values = asked.model_dump(exclude={"version", "number"}, exclude_none=True)
    if asked.number is None:
        annotation.add_object(**values)
    else:
        annotation.change_object(asked.number, **values)


def fill_between(annotation: Annotation, asked: Between) -> None:
    """Fill an object between slices by shape; objects that are held keep their voxels.

    Raises:
        CaseError: there is no gap.
    """
    labels = annotation.labels
    mask = labels == asked.number
    new = between_slices(mask, asked.axis) & ~mask & ~np.isin(labels, list(held(annotation.objects)))
    if not new.any():
        raise CaseError("there is no gap to fill: paint the object on two slices with others between")
    indices = np.flatnonzero(new)
    values = np.full(len(indices), asked.number, np.uint16)
    annotation.edit(indices, values, "filling between slices")


def remove_islands(annotation: Annotation, asked: Islands) -> dict[str, Any]:
    """Remove parts of an object: all but the one at a voxel, or all below a volume.

    Returns:
        `islands`: numbers of parts removed and left, and the volume removed in mL.

    Raises:
        CaseError: the voxel is not of the object, or no part would be left.
    """
    mask, affine = annotation.labels == asked.number, annotation.scan.affine
    if asked.keep is not None:
        if any(not 0 <= at < size for at, size in zip(asked.keep, mask.shape, strict=True)):
            raise CaseError("the part that stays is outside the scan")
        found = apart_from(mask, affine, asked.keep)
    else:
        found = smaller_than(mask, affine, asked.below_ml)
    if found.parts:
        annotation.edit(found.indices, np.zeros(len(found.indices), np.uint16), "removing islands")
    return {"islands": {"removed": found.parts, "left": found.left, "ml": found.ml}}
