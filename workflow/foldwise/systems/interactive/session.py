"""Rounds of a session: a mask from hints on one slice, propagated to the others, and its quality on each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foldwise.files import CaseError
from foldwise.networks.memory import STRIDE, Query, aggregate
from foldwise.systems.interactive.hints import Hints, followed, hint_input, window_of
from foldwise.systems.interactive.losses import soft_iou
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.volumes.slices import Window

# Slices whose query is encoded at once: faster than one by one, and few enough for memory.
AHEAD = 8
# Every n-th passed slice stays in memory.
EVERY = 5
# An object is certainly present, or may be present, where this share of the input has this probability: 100
# pixels of 512 × 512.
SURE, MAYBE, AREA = 0.95, 0.05, 100 / 512**2
# A hinted slice has failed if its mask follows a smaller share of the hints; a mask that ends at a slice with
# a larger share of its largest area has been lost there.
HALF = 0.5
NOT_FINITE = "the networks return NaN or infinite values; check the scan's values, or train the model again"


@dataclass(frozen=True)
class State:
    """The state of a session after a round.

    Attributes:
        probabilities: (objects, slices, rows, columns) uint8, 255: certain.
        quality: (objects, slices) float32. Predicted IoU, at most as high as the probabilities allow; 1 where
            the object is certainly absent; 0 where its mask is lost. Where hints were given: the share of
            them that the mask follows. NaN: unknown, since no mask of the object was found or requested.
        hinted: slices with hints, in the order in which they were given.
    """

    probabilities: np.ndarray
    quality: np.ndarray
    hinted: tuple[int, ...] = ()

    @classmethod
    def empty(cls, objects: int, shape: tuple[int, ...]) -> State:
        """Nothing found yet in a stack of slices (slices, rows, columns)."""
        return cls(np.zeros((objects, *shape), np.uint8), np.full((objects, shape[0]), np.nan, np.float32))

    def objects(self, place: int | None = None) -> np.ndarray:
        """Object numbers (slices, rows, columns) uint8, 0 for background; of one slice if given."""
        found = self.probabilities if place is None else self.probabilities[:, place]
        rest = 255 - found.sum(0, dtype=np.int32)
        return np.where(found.max(0) > rest, found.argmax(0) + 1, 0).astype(np.uint8)

    def lowest(self) -> np.ndarray:
        """The quality of each slice's worst object; NaN where no quality is known."""
        least: np.ndarray = np.fmin.reduce(self.quality, axis=0)
        return least

    def not_found(self) -> list[int]:
        """Objects (indices among the names) without a voxel on any slice."""
        areas = self.areas()
        return [number for number in range(len(areas)) if not areas[number].any()]

    def areas(self) -> np.ndarray:
        """Voxels (objects, slices) of each object's mask."""
        objects, slices = self.quality.shape
        counts = [np.bincount(self.objects(n).ravel(), minlength=objects + 1)[1:] for n in range(slices)]
        return np.stack(counts, 1)

    def suggestion(self) -> int | None:
        """The slice to look at next: the lowest quality below 1; among equals, the nearest to the last hints.

        Slices with hints come last, and only if the mask does not follow them.
        """
        lowest = self.lowest()
        open_ = [n for n in range(len(lowest)) if lowest[n] < (HALF if n in self.hinted else 1)]

        def rank(place: int) -> tuple[bool, float, int]:
            away = abs(place - self.hinted[-1]) if self.hinted else 0
            return place in self.hinted, float(lowest[place]), away

        return min(open_, key=rank, default=None)


class Memory:
    """Keys and values of at most `capacity` slices: hinted ones, the previous one, and every fifth passed.

    When it is full, the oldest slice passed is forgotten.
    """

    def __init__(self, capacity: int) -> None:
        self.pinned: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.capacity = capacity
        self.passed: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self.previous: tuple[torch.Tensor, torch.Tensor] | None = None
        self.count = 0

    def pin(self, entry: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Keep a slice for the whole propagation."""
        self.pinned.append(entry)

    def add(self, entry: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Add the slice just segmented."""
        if self.previous is not None and self.count % EVERY == 0:
            self.passed.append(self.previous)
        self.previous = entry
        self.count += 1
        while len(self) > self.capacity and self.passed:
            self.passed.popleft()

    def __len__(self) -> int:
        return len(self.pinned) + len(self.passed) + (self.previous is not None)

    def read(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and all values, joined along the axis of slices."""
        entries = [*self.pinned, *self.passed, *([self.previous] if self.previous else [])]
        return torch.cat([key for key, _ in entries], 3), torch.cat([value for _, value in entries], 3)


def memory_bytes(capacity: int, objects: int, size: int, keys: int, values: int) -> int:
    """Maximum size of a memory in bytes: float32 keys and values at stride 16, for any volume's size."""
    return capacity * objects * (size // STRIDE) ** 2 * (keys + values) * 4


class Propagator:
    """Performs rounds on one volume."""

    def __init__(
        self,
        network: InteractiveNetwork,
        image: torch.Tensor,
        spacing: tuple[float, float],
        *,
        objects: Sequence[str],
        size: int,
        capacity: int,
    ) -> None:
        """Store a volume.

        Args:
            network: in evaluation mode.
            image: (slices, channels, rows, columns), normalised.
            spacing: mm between rows and between columns.
            objects: their names.
            size: edge of the network's input.
            capacity: slices in memory, at least 4.

        Raises:
            CaseError: the volume is a single slice.
        """
        if len(image) < 2:
            raise CaseError("the volume has one slice along the slicing axis; propagation needs at least two")
        self.network, self.image, self.spacing = network, image, spacing
        self.names, self.size, self.capacity = tuple(objects), size, capacity
        self.shape: tuple[int, ...] = (len(image), *image.shape[2:])
        self.fill = float(image.amin())
        self.window = Window.round((0, 0), (image.shape[2], image.shape[3]), spacing, size)
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    def round(self, state: State, place: int, hints: Mapping[int, Hints]) -> State:
        """Apply hints on a slice, and update all slices up to the next hinted ones.

        Args:
            state: state before; it is not changed.
            place: the slice with the hints.
            hints: object (its index among the names) → its hints; other objects keep their mask there.

        Raises:
            CaseError: no hints, hints outside the volume, or an output that is not finite.
        """
        self.refuse(place, hints)
        found = self._from_hints(state, place, hints)
        probabilities, quality = state.probabilities.copy(), state.quality.copy()
        probabilities[:, place] = _stored(found)
        after = State(probabilities, quality, (*[n for n in state.hinted if n != place], place))
        seen = after.objects(place)
        for number, given in hints.items():
            if given:
                quality[number, place] = followed(given, seen == number + 1)
        for step in (1, -1):
            places = range(place + step, len(self.image) if step > 0 else -1, step)
            border = next((n for n in places if n in state.hinted), None)
            self._propagate(
                after, place, range(place + step, places.stop if border is None else border, step)
            )
        _doubt(after)
        return after

    def refuse(self, place: int, hints: Mapping[int, Hints]) -> None:
        """Raise a CaseError if hints on a slice cannot be used."""
        slices, rows, columns = self.shape
        if not 0 <= place < slices:
            raise CaseError(f"slice {place} is outside the volume, which has slices 0 to {slices - 1}")
        if not any(hints.values()):
            raise CaseError(f"no hint on slice {place}: the scribble or the list of points is empty")
        for number, given in hints.items():
            points = np.concatenate([given.marks, given.outside])
            # Half a voxel beyond a centre is still in the slice; corners and jitter may reach there.
            beyond = (points < -0.5) | (points > np.array([rows, columns]) - 0.5)
            if beyond.any():
                row, column = points[beyond.any(1)][0]
                raise CaseError(
                    f"object {self.names[number]}: a hint at row {row:g}, column {column:g} is outside slice "
                    f"{place}, which has {rows} × {columns} voxels"
                )
            if not given.nothing and not len(given.marks):
                raise CaseError(
                    f"object {self.names[number]}: slice {place} has only marks outside the object; mark it "
                    f"inside too, or state that it is not on this slice"
                )

    def _from_hints(self, state: State, place: int, hints: Mapping[int, Hints]) -> torch.Tensor:
        """Probabilities (objects, rows, columns) of the hinted slice."""
        rows, columns = self.shape[1:]
        apart = torch.from_numpy(state.probabilities[:, place] / np.float32(255))
        seen = state.objects(place)
        for number, given in hints.items():
            if given.nothing:
                apart[number] = 0
            elif given:
                shown = seen == number + 1
                window = window_of(given, shown, self.spacing, self.size)
                inputs = hint_input(self.image[place : place + 1], given, shown, window, self.fill)
                logits = self.network.hint(inputs.to(self.device))[:, -1:].float()
                apart[number] = window.to_slice(logits.sigmoid().cpu(), rows, columns)[0, 0]
        if not apart.isfinite().all():
            raise CaseError(NOT_FINITE)
        # Where two objects claim a voxel, they share it.
        return apart / apart.sum(0).clamp_min(1)

    def _entry(self, state: State, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A slice's key and value with its current masks."""
        masks = torch.from_numpy(state.probabilities[:, place] / np.float32(255))[None]
        image = self.window.to_input(self.image[place : place + 1], self.fill)
        return self.network.memory.memorise(
            image.to(self.device), self.window.to_input(masks).to(self.device)
        )

    def _propagate(self, state: State, origin: int, places: range) -> None:
        """Segment slices outward from a hinted one, into the state's arrays."""
        memory = Memory(self.capacity)
        memory.pin(self._entry(state, origin))
        if places and places.stop in state.hinted:
            memory.pin(self._entry(state, places.stop))
        network = self.network.memory
        for part, images, query in self._queries(places):
            seen = []
            for number, place in enumerate(part):
                here = slice(number, number + 1)
                found = aggregate(network.segment(query[here], *memory.read())).softmax(1)
                seen.append(found)
                if place != places[-1]:
                    memory.add(network.memorise(images[here], found[:, 1:]))
            self._keep(state, part, query, torch.cat(seen))

    def _keep(self, state: State, part: Sequence[int], query: Query, found: torch.Tensor) -> None:
        """Write slices' masks and quality into the state; quality is predicted for several slices at once."""
        if not found.isfinite().all():
            raise CaseError(NOT_FINITE)
        quality = self.network.memory.quality(query, found).sigmoid().nan_to_num(0)
        apart = found[:, 1:]
        on_slice = self.window.to_slice(apart.cpu(), self.shape[1], self.shape[2])
        least = AREA * self.size**2
        sure, maybe = ((apart > limit).sum((2, 3)) > least for limit in (SURE, MAYBE))
        # Without a certain pixel, a mask is worth no more than its probabilities imply.
        quality = torch.where(sure, quality, torch.minimum(quality, soft_iou(apart, (apart > 0.5).float())))
        said = torch.where(maybe, quality, 1).cpu().numpy()
        for number, place in enumerate(part):
            state.probabilities[:, place] = _stored(on_slice[number])
            state.quality[:, place] = said[number]

    def _queries(self, places: range) -> Iterator[tuple[list[int], torch.Tensor, Query]]:
        """A few slices at a time: their places, images and queries."""
        for first in range(0, len(places), AHEAD):
            part = list(places[first : first + AHEAD])
            images = self.window.to_input(self.image[part], self.fill).to(self.device)
            yield part, images, self.network.memory.encode(images)


def _doubt(state: State) -> None:
    """Set the quality of an object to 0 where its mask is lost, and to NaN where it was never requested."""
    hinted = np.isin(np.arange(state.quality.shape[1]), state.hinted)
    for number, (quality, areas) in enumerate(zip(state.quality, state.areas(), strict=True), start=1):
        # A person marked the object as absent on these.
        absent = hinted & (quality == 1) & (areas == 0)
        if areas.any():
            large = areas > HALF * areas.max()
            for one, other in [(n, n + step) for n in np.flatnonzero(large).tolist() for step in (-1, 1)]:
                if 0 <= other < len(areas) and not areas[other] and not absent[other]:
                    before = state.objects(one) == number
                    # Another object may begin where this one ends.
                    taken = (state.objects(other) > 0)[before].mean()
                    if taken < HALF:
                        quality[other] = 0
        elif (quality[hinted] < HALF).any():
            quality[~absent] = 0
        else:
            quality[~absent & (quality == 1)] = np.nan


def _stored(probabilities: torch.Tensor) -> np.ndarray:
    if not torch.isfinite(probabilities).all():
        raise CaseError(NOT_FINITE)
    stored: np.ndarray = probabilities.mul(255).round().to(torch.uint8).numpy()
    return stored
