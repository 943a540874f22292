"""Facts from a volume's header for the forecast of memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Size:
    """Facts about a case from its header.

    Attributes:
        shape: voxels of one channel of the source, or of the straight grid around a sheared one.
        spacing: voxel edges in mm.
        channels: image channels.
        labelled: whether it has a label.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    labelled: bool

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape)
