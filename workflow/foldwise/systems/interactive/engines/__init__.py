"""Engines: what turns a person's marks into masks. A round asks one, and then makes its answer obey.

An engine is opened once per scan and asked once per round. It may ignore marks that it cannot use; the round
enforces them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from foldwise.systems.interactive.marks import Marks, Said
from foldwise.volumes.grids import spacing_of

# A certain voxel of an answer.
CERTAIN = 255


@dataclass(frozen=True)
class Scan:
    """A scan on its own grid.

    Attributes:
        image: (channels, x, y, z), in the file's type and units (CT: HU).
        affine: 4×4, voxel index to mm in RAS+.
    """

    image: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.image.shape[1:]
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge along each axis. mm."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Request:
    """A round.

    Attributes:
        labels: (x, y, z) object numbers before the round, 0 for background; not to be changed.
        marks: object number → all its marks, the oldest first, including those of this round.
        new: object number → its marks of this round; only these objects are to be segmented.
        axis: the axis (0 to 2) across the slices, along which masks are propagated and judged.
        progress: called now and then with the share done (0 to 1); raises `StoppedError` if the person
            stopped the round.
    """

    labels: np.ndarray
    marks: Mapping[int, Said]
    new: Mapping[int, tuple[Marks, ...]]
    axis: int
    progress: Callable[[float], None] = lambda share: None


@dataclass(frozen=True)
class Answer:
    """What an engine found.

    Attributes:
        masks: object number → (x, y, z) uint8, 0 to 255: the probability; above 127: the object.
        quality: object number → (slices along the request's axis) float32: estimated IoU of the mask on each
            slice, NaN where nothing is known. Left out: unknown everywhere.
    """

    masks: Mapping[int, np.ndarray]
    quality: Mapping[int, np.ndarray] = field(default_factory=dict)


class StoppedError(Exception):
    """The person stopped the round; nothing is changed."""


@runtime_checkable
class Engine(Protocol):
    """Turns marks into masks on one scan."""

    name: str

    def segment(self, request: Request) -> Answer:
        """Segment the objects with new marks.

        Raises:
            CaseError: the engine cannot use these marks, with what to do instead.
            StoppedError: the person stopped it.
        """
        ...


Opener = Callable[[Scan], Engine]


@runtime_checkable
class Proposing(Engine, Protocol):
    """An engine that finds objects without marks."""

    def propose(self, request: Request, known: Mapping[int, str]) -> tuple[np.ndarray, dict[int, str]]:
        """Object numbers (x, y, z), and the names of all objects found.

        Args:
            request: only its progress is used.
            known: number → name of the session's objects, which keep their numbers.
        """
        ...


@runtime_checkable
class Closing(Engine, Protocol):
    """An engine that holds something until it is closed, such as a server's session."""

    def close(self) -> None:
        """Let go of it."""
        ...
