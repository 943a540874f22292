"""A mask from hints on one slice, propagated to others by a memory network, and its quality on each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from foldwise.files import CaseError
from foldwise.networks.memory import STRIDE, Query, aggregate
from foldwise.systems.interactive.engines import CERTAIN
from foldwise.systems.interactive.hints import Hints, hint_input, window_of
from foldwise.systems.interactive.losses import soft_iou
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.volumes.slices import Window

# Slices whose query is encoded at once: faster than one by one, and few enough for memory.
AHEAD = 8
# Every n-th passed slice stays in memory.
EVERY = 5
# An object is certainly present where this share of the input has this probability: 100 pixels of 512 × 512.
SURE, AREA = 0.95, 100 / 512**2
NOT_FINITE = "the networks return NaN or infinite values; check the scan's values, or train the model again"


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
    """Both networks on the slices of a volume along one axis."""

    def __init__(
        self,
        network: InteractiveNetwork,
        image: torch.Tensor,
        spacing: tuple[float, float],
        *,
        size: int,
        capacity: int,
    ) -> None:
        """Store a volume.

        Args:
            network: in evaluation mode.
            image: (slices, channels, rows, columns), normalised.
            spacing: mm between rows and between columns.
            size: edge of the network's input.
            capacity: slices in memory, at least 4.

        Raises:
            CaseError: the volume is a single slice.
        """
        if len(image) < 2:
            raise CaseError("the volume has one slice along the slicing axis; propagation needs at least two")
        self.network, self.image, self.spacing = network, image, spacing
        self.size, self.capacity = size, capacity
        self.fill = float(image.amin())
        self.window = Window.round((0, 0), (image.shape[2], image.shape[3]), spacing, size)
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    def from_hints(self, place: int, hints: Hints, seen: np.ndarray) -> np.ndarray:
        """Probabilities (rows, columns) of an object on a slice.

        Args:
            place: the slice.
            hints: on it.
            seen: the object's mask so far (rows, columns) bool.

        Raises:
            CaseError: an output that is not finite.
        """
        window = window_of(hints, seen, self.spacing, self.size)
        inputs = hint_input(self.image[place : place + 1], hints, seen, window, self.fill)
        logits = self.network.hint(inputs.to(self.device))[:, -1:].float()
        rows, columns = seen.shape
        return _stored(window.to_slice(logits.sigmoid().cpu(), rows, columns)[0, 0])

    @torch.inference_mode()
    def propagate(
        self,
        masks: np.ndarray,
        quality: np.ndarray,
        origins: Sequence[int],
        places: range,
        progress: Callable[[int], None],
    ) -> None:
        """Segment slices outward from a segmented one, into the arrays.

        Args:
            masks: (objects, slices, rows, columns) uint8 probabilities; changed.
            quality: (objects, slices) float32, predicted IoU; changed. NaN where no mask is found.
            origins: segmented slices that stay in memory.
            places: slices to segment, in this order.
            progress: called with the number of slices done.

        Raises:
            CaseError: an output that is not finite.
        """
        memory = Memory(self.capacity)
        for origin in origins:
            memory.pin(self._entry(masks[:, origin], origin))
        network = self.network.memory
        for part, images, query in self._queries(places):
            seen = []
            for number, place in enumerate(part):
                here = slice(number, number + 1)
                found = aggregate(network.segment(query[here], *memory.read())).softmax(1)
                seen.append(found)
                if place != places[-1]:
                    memory.add(network.memorise(images[here], found[:, 1:]))
            self._keep(masks, quality, part, query, torch.cat(seen))
            progress(len(part))

    def _entry(self, masks: np.ndarray, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A slice's key and value with masks (objects, rows, columns)."""
        shares = torch.from_numpy(masks / np.float32(CERTAIN))[None]
        # Where two objects claim a voxel, they share it.
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1)
        image = self.window.to_input(self.image[place : place + 1], self.fill)
        return self.network.memory.memorise(
            image.to(self.device), self.window.to_input(shares).to(self.device)
        )

    def _keep(
        self, masks: np.ndarray, quality: np.ndarray, part: Sequence[int], query: Query, found: torch.Tensor
    ) -> None:
        """Write slices' masks and quality; quality is predicted for several slices at once."""
        if not found.isfinite().all():
            raise CaseError(NOT_FINITE)
        said = self.network.memory.quality(query, found).sigmoid().nan_to_num(0)
        apart = found[:, 1:]
        on_slice = self.window.to_slice(apart.cpu(), self.image.shape[2], self.image.shape[3])
        sure = (apart > SURE).sum((2, 3)) > AREA * self.size**2
        # Without a certain pixel, a mask is worth no more than its probabilities imply.
        said = torch.where(sure, said, torch.minimum(said, soft_iou(apart, (apart > 0.5).float())))
        for number, place in enumerate(part):
            masks[:, place] = _stored(on_slice[number])
            quality[:, place] = said[number].cpu().numpy()

    def _queries(self, places: range) -> Iterator[tuple[list[int], torch.Tensor, Query]]:
        """A few slices at a time: their places, images and queries."""
        for first in range(0, len(places), AHEAD):
            part = list(places[first : first + AHEAD])
            images = self.window.to_input(self.image[part], self.fill).to(self.device)
            yield part, images, self.network.memory.encode(images)


def _stored(probabilities: torch.Tensor) -> np.ndarray:
    if not torch.isfinite(probabilities).all():
        raise CaseError(NOT_FINITE)
    stored: np.ndarray = probabilities.mul(CERTAIN).round().to(torch.uint8).numpy()
    return stored
