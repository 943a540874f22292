"""Scans for a session: read from their files, and recognised again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError, file_hash, source_files
from foldwise.systems.interactive.engines import Scan
from foldwise.volumes.volume import Volume, read_channels, same_grid

# HU that only CT has.
AIR = -900


def read_scan(volumes: Sequence[Path]) -> Scan:
    """A scan from a file per channel, or one with several.

    Raises:
        CaseError: a file cannot be read, or lies on another grid than the first one.
    """
    channels: list[Volume] = []
    for path in volumes:
        for channel in read_channels(path):
            if channels and not same_grid(channel, channels[0]):
                raise CaseError(
                    f"{path}: its grid (shape {channel.data.shape}) differs from that of {volumes[0]} (shape "
                    f"{channels[0].data.shape}); all channels need one grid"
                )
            channels.append(channel)
    kind = _kept(channels)
    return Scan(np.stack([channel.data.astype(kind, copy=False) for channel in channels]), channels[0].affine)


def _kept(channels: Sequence[Volume]) -> np.dtype[Any]:
    """A type for all channels that browsers know, too: whole numbers of at most 32 bits, or floats."""
    kind = np.result_type(*(channel.data.dtype for channel in channels))
    if kind.kind == "b":
        return np.dtype(np.uint8)
    if kind.kind == "f":
        return np.dtype(np.float64 if kind.itemsize > 4 else np.float32)
    if kind.itemsize <= 4:
        return kind.newbyteorder("=")
    limits = np.iinfo(np.int32)
    fits = all(limits.min <= each.data.min() and each.data.max() <= limits.max for each in channels)
    return np.dtype(np.int32 if fits else np.float64)


def thickest(scan: Scan) -> int:
    """The axis with the largest spacing; among equals, the one along the patient."""
    along = np.abs(scan.affine[2, :3])
    spacing = np.round(scan.spacing, 2)
    return max(range(3), key=lambda axis: (spacing[axis], along[axis]))


def modality(scan: Scan) -> str:
    """CT if the values are HU, which reach that of air; else empty: unknown."""
    return "CT" if scan.image.dtype.kind in "if" and scan.image.min() <= AIR else ""


def digest(path: Path) -> str:
    """A scan's hash: of its file, or of all files of its folder."""
    files = source_files(path)
    return file_hash(path) if files == [path] else ",".join(file_hash(file)[:16] for file in files)
