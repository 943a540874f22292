"""Results of a session: label maps in the source's grid, and the quality of every slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foldwise.systems.interactive.state import State
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.targets import Targets, label_type
from foldwise.volumes.volume import Volume


def mask_in_source(labels: np.ndarray, lineage: Lineage, targets: Targets) -> Volume:
    """Object numbers (x, y, z) of a prepared grid as a label map of the source, with the files' values."""
    values = np.array([0, *(targets.value(name) for name in targets.names)])
    box = lineage.labels_to_box(labels)
    return lineage.to_source(values.astype(label_type(values.max()))[box])


def quality_rows(
    state: State, names: Sequence[str], slice_in_source: Callable[[int], int] = lambda place: place
) -> list[dict[str, Any]]:
    """A row per slice and object: slice, object, quality, hinted, suggested, voxels.

    Args:
        state: of the session.
        names: of the objects; the first one has number 1, one without a name was removed.
        slice_in_source: the source's slice of a slice of the state.
    """
    there = {number: name for number, name in enumerate(names, start=1) if name}
    suggestion = state.suggestion(there)
    rows = []
    for number, name in there.items():
        quality, area, hinted = state.quality_of(number), state.area(number), state.hinted(number)
        for place in range(state.slices):
            rows.append(
                {
                    "slice": slice_in_source(place),
                    "object": name,
                    "quality": rounded(quality[place]),
                    "hinted": place in hinted,
                    "suggested": suggestion is not None and place == suggestion.place,
                    "voxels": int(area[place]),
                }
            )
    return sorted(rows, key=lambda row: row["slice"])


def rounded(quality: float) -> float | None:
    """A quality for people: four digits; None if it is unknown."""
    return None if np.isnan(quality) else round(float(quality), 4)
