"""The trained networks as an engine: marks become a mask of their slice, which is propagated to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from foldwise.systems.interactive.engines import CERTAIN, Answer, Request
from foldwise.systems.interactive.marks import Marks, Said, Settled, on_plane, settled
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.interactive.propagation import Propagator


class MemoryEngine:
    """A memory network, on slices along any axis and for any number of objects."""

    name = "memory"

    def __init__(
        self,
        network: InteractiveNetwork,
        image: torch.Tensor,
        spacing: tuple[float, float, float],
        *,
        size: int,
        capacity: int,
        placement: Placement | None = None,
    ) -> None:
        """Take a prepared scan.

        Args:
            network: in evaluation mode.
            image: (channels, x, y, z), normalised, on the prepared grid.
            spacing: of that grid. mm.
            size: edge of the network's input.
            capacity: slices in memory.
            placement: of the prepared grid in the scan's; None: they are the same.
        """
        self.network, self.image, self.spacing = network, image, spacing
        self.size, self.capacity, self.placement = size, capacity, placement
        self._along: dict[int, Propagator] = {}

    def segment(self, request: Request) -> Answer:
        """Do the slices with new marks one after the other; each is propagated up to others with marks.

        Raises:
            CaseError: the networks' output is not finite, or the scan is a single slice.
            StoppedError: the person stopped it.
        """
        if self.placement is not None:
            inner = self.placement.request(request)
            return self.placement.answer(self._segment(inner), request, inner.axis)
        return self._segment(request)

    def _segment(self, request: Request) -> Answer:
        numbers = sorted(request.new)
        masks = np.stack([(request.labels == number) * np.uint8(CERTAIN) for number in numbers])
        fixed = [settled(request.marks[number], request.labels.shape) for number in numbers]
        found = np.full((len(numbers), request.labels.shape[request.axis]), np.nan, np.float32)
        places = _places(marks for given in request.new.values() for marks in given)
        total = max(1, sum(request.labels.shape[axis] for axis, _ in places))
        done = 0

        def report(slices: int) -> None:
            nonlocal done
            done += slices
            request.progress(min(1, done / total))

        for axis, place in places:
            stacked = np.moveaxis(masks, 1 + axis, 1)
            quality = found if axis == request.axis else np.full((len(numbers), stacked.shape[1]), np.nan)
            for row, number in enumerate(numbers):
                if (axis, place) in _places(request.new[number]):
                    self._hint(stacked[row], axis, place, request.marks[number], fixed[row])
            self._spread(stacked, quality, axis, place, [request.marks[n] for n in numbers], fixed, report)
        return Answer(dict(zip(numbers, masks, strict=True)), dict(zip(numbers, found, strict=True)))

    def _hint(self, slices: np.ndarray, axis: int, place: int, said: Said, fixed: Settled) -> None:
        """Write an object's mask on a slice with marks."""
        hints = on_plane(said, axis, place)
        seen = slices[place] > CERTAIN // 2
        if hints.nothing:
            slices[place] = 0
        elif len(hints.marks) or seen.any():
            slices[place] = self._propagator(axis).from_hints(place, hints, seen)
        slices[place] = fixed.on_plane(axis, place).probable(slices[place])

    def _spread(
        self,
        stacked: np.ndarray,
        quality: np.ndarray,
        axis: int,
        place: int,
        said: list[Said],
        fixed: list[Settled],
        report: Callable[[int], None],
    ) -> None:
        """Propagate a slice's masks both ways, up to the next slices with marks or without the objects."""
        borders = {other for marks in said for on, other in _places(marks) if on == axis}
        closed = np.logical_and.reduce([each.barred_planes(axis, stacked.shape[1]) for each in fixed])
        for step in (1, -1):
            outward = range(place + step, stacked.shape[1] if step > 0 else -1, step)
            border = next((n for n in outward if n in borders), None)
            end = next((n for n in outward if n == border or closed[n]), outward.stop)
            origins = [place, *([] if border is None else [border])]
            self._propagator(axis).propagate(
                stacked, quality, origins, range(place + step, end, step), report
            )

    def _propagator(self, axis: int) -> Propagator:
        if axis not in self._along:
            rows, columns = (number for number in range(3) if number != axis)
            self._along[axis] = Propagator(
                self.network,
                self.image.movedim(1 + axis, 0),
                (self.spacing[rows], self.spacing[columns]),
                size=self.size,
                capacity=self.capacity,
            )
        return self._along[axis]


def _places(said: Iterable[Marks]) -> list[tuple[int, int]]:
    """Axis and plane of all planes with marks."""
    return sorted({(marks.axis, place) for marks in said for place in marks.planes()})
