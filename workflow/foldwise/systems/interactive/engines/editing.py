"""Corrections of a mask that does not come from marks: only near the new ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldwise.systems.interactive.engines import CERTAIN
from foldwise.systems.interactive.engines.candidates import probability
from foldwise.systems.interactive.engines.corrections import adjusted
from foldwise.systems.interactive.engines.shapes import signed_mm, window
from foldwise.systems.interactive.engines.stack import Stack


def edited(
    stack: Stack, before: np.ndarray, places: list[int], progress: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray]:
    """A mask (planes, rows, columns) uint8 that is changed near marks; its quality is unknown.

    The change of the signed distance on a marked plane is passed on to its neighbours, less with the
    distance, as far as it is deep.

    Args:
        stack: of the object, at full resolution.
        before: (planes, rows, columns) bool.
        places: planes with new marks.
        progress: called with the share done.
    """
    after = np.array(before)
    gap, pixels = float(stack.spacing[0]), stack.spacing[1:]
    targets = {}
    for place in places:
        plane = stack.plane(place)
        there = (plane.seen & ~plane.outside).any()
        found = adjusted(plane) if there else probability(plane)[0] > 0.5
        targets[place] = found
        after[place] = found
    for turn, (place, found) in enumerate(targets.items()):
        progress(turn / len(targets))
        changed = found ^ before[place]
        if not changed.any():
            continue
        where = window(changed | before[place], (5, 5))
        new, old = signed_mm(found[where], pixels), signed_mm(before[place][where], pixels)
        # Of a mask that appears or vanishes, the change is as deep as the mask.
        change = np.clip(new, -_depth(old), _depth(old)) - np.clip(old, -_depth(new), _depth(new))
        reach = float(np.abs(change[changed[where]]).max())
        for other in range(len(stack)):
            share = 1 - abs(other - place) * gap / reach if reach else 0
            if other in targets or share <= 0:
                continue
            distance = signed_mm(after[other][where], pixels)
            near = np.abs(change) > 0
            moved = distance + share * change > 0
            after[other][where] = np.where(near, moved, after[other][where])
    return np.where(after, CERTAIN, 0).astype(np.uint8), np.full(len(stack), np.nan, np.float32)


def _depth(distance: np.ndarray) -> float:
    """Largest finite distance within a mask, or outside if it is empty. mm."""
    inner = distance[np.abs(distance) < 1e3]
    return float(np.abs(inner).max()) if len(inner) else 1e3
