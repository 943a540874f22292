"""Facts from a volume's header for the forecast of memory and disk."""

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
        voxel_bytes: of a voxel's value as it is stored: 1, 2 or 4.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    labelled: bool
    voxel_bytes: int = 2

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape)
