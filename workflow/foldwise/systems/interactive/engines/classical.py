"""The classical engine: random walks from all hints, for any object on any scan, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from foldwise.systems.interactive.engines import CERTAIN, Answer, Request, Scan
from foldwise.systems.interactive.engines.appearance import Appearance
from foldwise.systems.interactive.engines.candidates import probability
from foldwise.systems.interactive.engines.editing import edited
from foldwise.systems.interactive.engines.planes import ACROSS, around
from foldwise.systems.interactive.engines.shapes import enlarged, iou, noise_of, pooled, radius_mm, window
from foldwise.systems.interactive.engines.stack import Stack
from foldwise.systems.interactive.engines.tracking import Taper, track
from foldwise.systems.interactive.marks import Said

# An object is as long as this many times its largest radius, unless more is known.
LENGTH = 1.5
# And at least this many of the last hinted plane's radii beyond it.
SHORT = 0.7
# Between its last hinted plane and an empty one, it ends in the middle.
MIDDLE = 0.5
# The quality falls to exp(-1) this many radii away from hinted planes.
FADE = 1.0
# A mask is explained by marks if what they alone give agrees with it so well (IoU).
EXPLAINED = 0.7


class Classical:
    """Random walks, and shapes followed from plane to plane; needs no model and no GPU.

    On each hinted plane a mask is found from the marks there. From these the object is followed to the planes
    between and beyond. A mask that does not come from marks (loaded, or another engine's) is kept, except
    near the new ones.
    """

    name = "classical"

    def __init__(self, scan: Scan):
        self.scan = scan

    def segment(self, request: Request) -> Answer:
        """See `Engine`."""
        masks, quality = {}, {}
        for turn, number in enumerate(request.new):

            def progress(share: float, turn: int = turn) -> None:
                request.progress((turn + share) / len(request.new))

            found = self._object(request, number, progress)
            masks[number], quality[number] = found
        request.progress(1)
        return Answer(masks, quality)

    def _object(
        self, request: Request, number: int, progress: Callable[[float], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        marks, new = request.marks[number], request.new[number]
        stack = Stack(self.scan, request.axis, marks, request.labels, number)
        before = np.moveaxis(request.labels == number, request.axis, 0)
        older = marks[: len(marks) - len(new)]
        if before.any():
            earlier = Stack(self.scan, request.axis, older, request.labels, number)
            old, _ = solved(earlier, older, (), lambda share: progress(share / 2)) if older else (None, None)
            explained = old is not None and iou(old > CERTAIN // 2, before) >= EXPLAINED
            if not explained:
                found, quality = edited(stack, before, stack.hinted(new), progress)
                return np.moveaxis(found, 0, request.axis), quality
        found, quality = solved(stack, older, new, lambda share: progress((1 + share) / 2))
        return np.moveaxis(found, 0, request.axis), quality


def solved(
    stack: Stack, older: Said, new: Said, progress: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (planes, rows, columns) uint8, and quality (planes,), from all marks.

    Planes with older marks keep their masks; on the others these are found anew.
    """
    again = set(stack.hinted(new))
    masks, sure = {}, {}
    for place in stack.hinted((*older, *new)):
        plane = stack.plane(place)
        kept = place not in again and plane.seen.any()
        found, agreed = (plane.seen.astype(np.float32), np.nan) if kept else probability(plane)
        if (found > 0.5).any():
            masks[place], sure[place] = found, agreed
        progress(0)
    whole = np.zeros(stack.shape, np.uint8)
    quality = np.full(len(stack), np.nan, np.float32)
    if not masks:
        return whole, quality
    span = max(np.ptp(np.argwhere(found > 0.5), 0).max() + 1 for found in masks.values())
    coarse = stack.coarser(max(1, int(span // ACROSS)))
    values = followed_masks(coarse, masks, progress)
    for place, value in values.items():
        fine = masks[place] if place in masks else enlarged(value, coarse.factor, stack.shape[1:])
        whole[place] = np.rint(fine * CERTAIN)
    quality = estimated(coarse, values, sorted(masks))
    quality[list(sure)] *= list(sure.values())
    return whole, quality


def followed_masks(
    stack: Stack, hinted: dict[int, np.ndarray], progress: Callable[[float], None]
) -> dict[int, np.ndarray]:
    """Plane → probability on the stack's grid, from those of hinted planes at full resolution."""
    values = {}
    for place, found in hinted.items():
        coarse = pooled(found, stack.factor)
        values[place] = coarse if (coarse > 0.5).any() else pooled(found, stack.factor, np.max)
    masks = {place: value > 0.5 for place, value in values.items()}
    looks, noise = _looks(stack, masks)
    places = sorted(masks)
    done = 0

    def count(part: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal done
        for place, value in part:
            done += 1
            progress(min(1, done / (2 * len(stack))))
            yield place, value

    for first, last in pairwise(places):
        for start, stop in ((first, last), (last, first)):
            part = track(stack, looks, noise, start, masks[start], stop, masks[stop])
            for place, value in count(part):
                share = abs(stop - place) / (last - first)
                values[place] = values.get(place, 0) + np.float32(share) * value
    for end, stop in ((places[0], -1), (places[-1], len(stack))):
        taper, limit = _taper(stack, masks, end, stop)
        values.update(count(track(stack, looks, noise, end, masks[end], limit, taper)))
    return values


def estimated(stack: Stack, values: dict[int, np.ndarray], hinted: list[int]) -> np.ndarray:
    """Expected IoU (planes,) if probabilities are right, less with the distance from hinted planes."""
    quality = np.full(len(stack), np.nan, np.float32)
    largest = max(radius_mm(values[place] > 0.5, stack.spacing[1:]) for place in hinted)
    for place, value in values.items():
        mask = value > 0.5
        if mask.any():
            away = min(abs(place - other) for other in hinted) * stack.spacing[0]
            expected = value[mask].sum() / (mask.sum() + value[~mask].sum())
            quality[place] = expected * np.exp(-away / (FADE * largest))
    return quality


def _looks(stack: Stack, masks: dict[int, np.ndarray]) -> tuple[Appearance, np.ndarray]:
    inside, outside, noise = [], [], []
    for place, mask in masks.items():
        image = stack.image(place)
        # Another object may look the same, and is kept out by its voxels.
        ring = around(mask, stack.spacing[1:]) & ~stack.others(place)
        inside.append(image[:, mask])
        outside.append(image[:, ring])
        noise.append(noise_of(image[(slice(None), *window(mask | ring, (1, 1)))]))
    typical = np.median(noise, 0)
    return Appearance.of(np.concatenate(inside, 1), np.concatenate(outside, 1), typical), typical


def _taper(stack: Stack, masks: dict[int, np.ndarray], end: int, stop: int) -> tuple[Taper, int]:
    """How the object ends beyond its last hinted plane, and the plane before which it does."""
    step = 1 if stop > end else -1
    limit = next((place for place in range(end + step, stop, step) if stack.absent[place]), None)
    radii = {place: radius_mm(mask, stack.spacing[1:]) for place, mask in masks.items()}
    widest = max(radii, key=lambda place: radii[place])
    largest, last, gap = radii[widest], radii[end], float(stack.spacing[0])
    begun = abs(end - widest) * gap
    half = LENGTH * largest
    if begun > 0.3 * largest:
        # The ellipsoid through both planes.
        half = begun / np.sqrt(max(1 - (last / largest) ** 2, 0.02))
        half = float(np.clip(half, begun + SHORT * last, begun + LENGTH * last))
    if limit is not None:
        half = min(half, begun + MIDDLE * abs(limit - end) * gap)
    return Taper(largest, half, begun), stop if limit is None else limit
