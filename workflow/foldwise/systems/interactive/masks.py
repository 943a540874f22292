"""Results of a session: masks in the source's grid, and the quality of every slice."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldwise.systems.interactive.places import Places
from foldwise.systems.interactive.session import State
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.slices import AXES
from foldwise.volumes.targets import Targets, label_type
from foldwise.volumes.volume import Volume


def mask_in_source(state: State, lineage: Lineage, axis: str, targets: Targets) -> Volume:
    """The objects as a label map in the source's grid, with their values in the label files.

    Args:
        state: of the session.
        lineage: of the prepared scan.
        axis: the axis across the slices.
        targets: their names are the objects.
    """
    maps = np.moveaxis(state.probabilities, 1, 1 + AXES.index(axis))
    box = np.stack([lineage.to_box(part.astype(np.float32)) for part in maps])
    best, rest = box.max(0), 255 - box.sum(0)
    values = np.array([targets.value(name) for name in targets.names])
    kind = label_type(values.max())
    labels = np.where(best > rest, values.astype(kind)[box.argmax(0)], 0).astype(kind)
    return lineage.to_source(labels)


def quality_rows(state: State, names: tuple[str, ...], places: Places) -> list[dict[str, Any]]:
    """A row per slice and object: slice (index along the source's own axis), object, quality, hinted, voxels.

    The quality is that of `State`; None where it is unknown.
    """
    areas, suggestion = state.areas(), state.suggestion()
    return [
        {
            "slice": places.slice_in_source(place),
            "object": name,
            "quality": rounded(state.quality[number, place]),
            "hinted": place in state.hinted,
            "suggested": place == suggestion,
            "voxels": int(areas[number, place]),
        }
        for place in range(state.quality.shape[1])
        for number, name in enumerate(names)
    ]


def rounded(quality: float) -> float | None:
    """A quality for people: four digits; None if it is unknown."""
    return None if np.isnan(quality) else round(float(quality), 4)
