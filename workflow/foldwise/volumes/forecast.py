"""How much memory and disk the preparation of volumes will need, from headers and settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from foldwise.forecast import BASE_MIB
from foldwise.volumes.settings import Cache

# Bytes per voxel of the source at a stage's peak, beside the base (counted from the code, and measured).
LUNG_BYTES = 14
CROP_BYTES = 14
CACHE_BYTES = 22


@dataclass(frozen=True)
class Size:
    """What a header tells of a case.

    Attributes:
        shape: voxels of one channel of the source.
        spacing: voxel edges in mm.
        channels: image channels.
        labelled: whether there is a label.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    labelled: bool

    @property
    def voxels(self) -> int:
        """Voxels of one channel."""
        return prod(self.shape)


def case_mib(stage: str, size: Size, cache: Cache) -> int:
    """Peak memory of a per-case stage, in MiB.

    Args:
        stage: lung_mask, crop or cache.
        size: of the case.
        cache: settings of the cache.
    """
    bytes_per_voxel = {
        "lung_mask": LUNG_BYTES,
        "crop": CROP_BYTES + 4 * (size.channels - 1),
        "cache": CACHE_BYTES + 8 * (size.channels - 1),
    }[stage]
    made = BASE_MIB + bytes_per_voxel * size.voxels / 2**20
    if stage == "cache":
        made += 12 * cached_voxels(size, cache) / 2**20
    return ceil(made)


def disk_mib(size: Size, cache: Cache, classes: int) -> dict[str, float]:
    """Disk of a case by kind, in MiB; a CT compresses to a little over one byte a voxel."""
    cached = cached_voxels(size, cache)
    return {
        "crop": 1.2 * size.voxels * size.channels / 2**20,
        "cache": 1.1 * cached * size.channels / 2**20,
        "predictions": 0.1 * cached * classes / 2**20,
    }


def cached_voxels(size: Size, cache: Cache) -> float:
    """Voxels of the cached grid, were nothing cropped away."""
    if cache.shape is not None:
        return prod(cache.shape)
    if cache.spacing is None:
        return size.voxels
    return size.voxels * prod(size.spacing) / prod(cache.spacing)
