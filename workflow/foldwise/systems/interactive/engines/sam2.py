"""SAM 2 (Ravi et al. 2024, arXiv 2408.00714): a box or points on slices, followed through the others.

The weights are those of a folder saved by transformers, also if they were trained further on scans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.networks.sam_video import CORNERS, Points, VideoSAM, load_video_sam
from foldwise.systems.interactive.engines import CERTAIN, Answer, Request, Scan
from foldwise.systems.interactive.engines.choice import Options, channel_of
from foldwise.systems.interactive.hints import Hints
from foldwise.systems.interactive.marks import ALL_SIDES, Said, Settled, on_plane, settled

# Slices whose marks are prompts: the network compares each slice with all of them. Points of each kind on a
# slice: it was trained with at most eight.
MOST_SLICES, MOST_POINTS = 8, 8
# Slices without the object after which it has ended.
PATIENCE = 3
# Air is below this in CT and in nothing else. HU.
AIR = -800
# Share of values that the window cuts off at each end; margin around marks whose values count. %, mm.
CUT, MARGIN = 0.5, 25.0
# Voxels from which the window of a whole scan is found.
ENOUGH = 1_000_000


def opened(scan: Scan, options: Options) -> Sam2:
    """The engine on a scan, with the weights of the options."""
    if options.weights is None:
        raise CaseError("engine sam2: give --weights")
    return Sam2(scan, channel_of(scan, options, "sam2"), options.weights)


class Sam2:
    """A network that follows one object at a time, which needs no memory beyond a few slices."""

    name = "sam2"

    def __init__(self, scan: Scan, image: np.ndarray, weights: Path) -> None:
        """Load the network.

        Args:
            scan: gives the spacing.
            image: (x, y, z) grey values.
            weights: folder with SAM 2 as saved by transformers.

        Raises:
            CaseError: no such folder, or weights that are not complete.
        """
        self._scan, self._image = scan, image
        self._network = VideoSAM(load_video_sam(weights, "sam2_video", "engine sam2"), "sam2_video")

    def segment(self, request: Request) -> Answer:
        """Follow each object with new marks from all slices on which it was marked.

        Slices that were marked in earlier rounds are given as they are now. The quality is the IoU that the
        network predicts; it is unknown where its mask is empty or given.

        Raises:
            CaseError: an object has no mark inside it across the request's axis.
            StoppedError: the person stopped.
        """
        masks: dict[int, np.ndarray] = {}
        quality: dict[int, np.ndarray] = {}
        for number in request.new:
            said, done = request.marks[number], len(masks)
            prompts = prompts_of(number, request)
            if not prompts:
                raise CaseError(
                    f"object {number}: SAM 2 has nothing to follow; mark the object by a box or a point on a "
                    f"slice across axis {'xyz'[request.axis]}"
                )
            first, last = _span(settled(said, self._scan.shape), request.axis, prompts)

            def progress(share: float, done: int = done) -> None:
                request.progress((done + share) / len(request.new))

            frames = _Slices(
                np.moveaxis(self._image, request.axis, 0)[first : last + 1],
                window(self._scan, self._image, said),
                len(prompts),
                progress,
            )
            found = self._network(frames, {at - first: each for at, each in prompts.items()}, PATIENCE)
            mask = np.zeros(self._scan.shape, np.uint8)
            np.moveaxis(mask, request.axis, 0)[first : last + 1] = found.masks * np.uint8(CERTAIN)
            scores = np.full(self._scan.shape[request.axis], np.nan, np.float32)
            scores[first : last + 1] = np.where(found.masks.any((1, 2)), found.scores.clip(0, 1), np.nan)
            masks[number], quality[number] = mask, scores
        return Answer(masks, quality)


def prompts_of(number: int, request: Request) -> dict[int, np.ndarray | Points]:
    """Slice across the request's axis → the prompt for an object there.

    It is the object's mask on slices that were marked in earlier rounds only, since the person has seen it;
    else points, with a box if one was given or the slice has a mask. Of too many slices, those that were
    marked now have priority.
    """
    axis, said = request.axis, request.marks[number]
    labels, valid = np.moveaxis(request.labels, axis, 0), settled(said, request.labels.shape)
    new = _places(request.new[number], axis)
    prompts: dict[int, np.ndarray | Points] = {}
    for place in _places(said, axis):
        mask = labels[place] == number
        if place not in new and mask.any():
            prompts[place] = mask
        elif points := points_of(on_plane(said, axis, place), valid, axis, place, mask):
            prompts[place] = points
    kept = _spread([place for place in prompts if place in new], MOST_SLICES)
    kept += _spread([place for place in prompts if place not in new], MOST_SLICES - len(kept))
    return {place: prompts[place] for place in sorted(kept)}


def points_of(hints: Hints, valid: Settled, axis: int, place: int, mask: np.ndarray) -> Points | None:
    """Marks on a slice as points; None if nothing is inside.

    Args:
        hints: on the slice.
        valid: what still holds of the object's marks.
        axis: across the slices.
        place: of the slice.
        mask: so far (rows, columns).
    """
    limits = [limit for limit in valid.limits if limit.axis == axis and limit.first <= place <= limit.last]
    if any(not len(limit.boxes) for limit in limits):
        return None
    # Four extreme points are a box; fewer are of the object, though at its border.
    sides = hints.extreme if len(hints.extreme) < ALL_SIDES else hints.extreme[:0]
    fixed = valid.on_plane(axis, place)
    clicks = _within(np.concatenate([hints.inside, sides]), fixed.inside, mask.shape)
    outside = _within(hints.outside, fixed.outside, mask.shape)
    corners = [limit.boxes.reshape(-1, 3)[:, [n for n in range(3) if n != axis]] for limit in limits]
    if not corners and mask.any():
        # What is right of the mask stays, and what was marked joins it.
        corners = [np.argwhere(mask), clicks]
    box = np.concatenate([np.zeros((0, 2)), *corners])
    if not len(clicks) + len(box):
        return None
    places, labels = [box.min(0), box.max(0) + 1] if len(box) else [], [*CORNERS] if len(box) else []
    for points, label in ((clicks, 1), (outside, 0)):
        chosen = _spread(sorted(points.tolist()), MOST_POINTS)
        places += [np.array(point) + 0.5 for point in chosen]
        labels += [label] * len(chosen)
    # Rows and columns to x and y.
    return Points(np.array(places)[:, ::-1].copy(), np.array(labels))


def window(scan: Scan, image: np.ndarray, said: Said) -> tuple[float, float]:
    """Grey values that become black and white.

    In CT, soft tissues differ by little beside air and bone, so values around the marks count; else, those of
    the whole scan that are not 0.

    Args:
        scan: gives the spacing.
        image: (x, y, z).
        said: marks of the object.
    """
    step = max(1, round((image.size / ENOUGH) ** (1 / 3)))
    values = image[::step, ::step, ::step]
    if values.min() < AIR:
        points = np.concatenate(
            [each.reshape(-1, 3) for marks in said for each in (marks.drawn, marks.boxes)]
        )
        margin = np.ceil(MARGIN / np.array(scan.spacing)).astype(int)
        if len(points):
            low, high = np.maximum(points.min(0) - margin, 0), points.max(0) + margin + 1
            values = image[tuple(map(slice, low, high))]
    else:
        values = values[values != 0]
    # Values that are all alike have no window of their own.
    for some in (values, image):
        finite = some[np.isfinite(some)]
        low, high = np.percentile(finite, [CUT, 100 - CUT]).tolist() if len(finite) else (0.0, 0.0)
        if high > low:
            return low, high
    low, high = np.nanmin(image), np.nanmax(image)
    return float(low), float(max(high, low + 1))


class _Slices(Sequence[np.ndarray]):
    """Slices as pictures (rows, columns, 3) uint8, each made when the network comes to it."""

    def __init__(
        self, stack: np.ndarray, limits: tuple[float, float], prompts: int, progress: Callable[[float], None]
    ) -> None:
        self._stack, self._limits, self._progress = stack, limits, progress
        # Besides one for each slice, the network reads the first, the prompts, and where it turns round.
        self._reads, self._expected = 0, len(stack) + prompts + 2

    def __len__(self) -> int:
        return len(self._stack)

    def __getitem__(self, place: Any) -> Any:
        self._progress(min(1.0, self._reads / self._expected))
        self._reads += 1
        low, high = self._limits
        shown = (self._stack[place].astype(np.float32) - low) / (high - low) * 255
        grey = np.nan_to_num(shown).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)


def _places(said: Said, axis: int) -> list[int]:
    """Slices across an axis on which something was marked."""
    parts = [np.zeros((0, 3), np.int64)]
    for marks in said:
        if marks.painted and not marks.planes():
            # A ball that was painted, not a slice that was looked at.
            continue
        parts += [marks.drawn, marks.outside]
        if marks.axis == axis:
            parts.append(marks.boxes.reshape(-1, 3))
    return np.unique(np.concatenate(parts)[:, axis]).tolist()


def _span(valid: Settled, axis: int, prompts: Mapping[int, Any]) -> tuple[int, int]:
    """First and last slice to look at: all around the prompts, up to slices without the object."""
    count = valid.shape[axis]
    barred = np.flatnonzero(valid.barred_planes(axis, count)).tolist()
    first = max((place + 1 for place in barred if place < min(prompts)), default=0)
    return first, min((place - 1 for place in barred if place > max(prompts)), default=count - 1)


def _within(points: np.ndarray, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Those of some points (n, 2) that are among flat indices."""
    flat = np.ravel_multi_index(tuple(points.astype(np.int64).T), shape)
    return points[np.isin(flat, indices)]


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(at)] for at in np.linspace(0, len(items) - 1, most)]
