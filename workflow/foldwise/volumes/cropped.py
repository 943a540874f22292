"""The images of a crop: its box of the source, read again, or of the files that were kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.geometry import Box
from foldwise.volumes.volume import read_channels, read_volume

# Where voxels were replaced, the mask of those that were not; and a channel, if crops are kept.
INSIDE = "inside.nii.gz"
CHANNEL = "image{}.nii.gz"


@dataclass(frozen=True)
class Channel:
    """How a channel of the source becomes that of the crop.

    Attributes:
        type: of its voxels.
        outside: value of the voxels outside the mask; None: they keep their own.
    """

    type: str
    outside: float | None = None

    def cut(self, source: np.ndarray, box: Box, inside: np.ndarray | None) -> np.ndarray:
        """The channel of the crop, a copy.

        Args:
            source: the whole channel.
            box: of the crop.
            inside: mask of the box; None: no voxel is replaced.
        """
        # As NumPy names the type of a file's values: the name is a part of the content's hash in the cache.
        data = source[box.slices].astype(np.dtype(self.type).newbyteorder("<"))
        if inside is not None and self.outside is not None:
            data[~inside] = self.outside
        return data


def keeps_images(folder: Path) -> bool:
    """Whether a crop holds its images, as all of earlier versions do."""
    return (folder / CHANNEL.format(0)).exists()


def read_cropped(folder: Path, facts: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """The channels of a crop one after the other, (x, y, z) as stored in the source.

    Args:
        folder: of the crop.
        facts: of its crop.json.

    Raises:
        CaseError: a source is not readable, or not the one that was cropped.
    """
    if keeps_images(folder):
        for number in range(facts["channels"]):
            yield read_volume(folder / CHANNEL.format(number)).data
        return
    if "voxels" not in facts:
        raise CaseError(f"{folder}: its images are missing; delete this folder and run again")
    box, mask = Box(**{name: tuple(three) for name, three in facts["box"].items()}), folder / INSIDE
    inside = read_volume(mask).data > 0 if mask.exists() else None
    left = [Channel(**values) for values in facts["voxels"]]
    for path in facts["images"]:
        found = read_channels(Path(path))
        if len(found) > len(left) or found[0].data.shape != tuple(facts["source_shape"]):
            raise CaseError(f"{path}: is not the image that was cropped; run again")
        for volume in found:
            yield left.pop(0).cut(volume.data, box, inside)
