"""Objects of a label map: numbers in memory; names, values and colours in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# How an object was found, in DICOM's words.
Origin = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
# Value, scheme and meaning, e.g. ("10200004", "SCT", "Liver").
Code = tuple[str, str, str]


@dataclass(frozen=True)
class Object:
    """An object, as files describe it.

    Attributes:
        name: for people.
        value: of its voxels in a label map; its number in a DICOM file.
        colour: red, green and blue, 0 to 255 (sRGB); None: the file has none.
        origin: how it was found.
        codes: DICOM's category and type of what it is; None: the file has none.
    """

    name: str
    value: int
    colour: tuple[int, int, int] | None = None
    origin: Origin = "SEMIAUTOMATIC"
    codes: tuple[Code, Code] | None = None


@dataclass(frozen=True)
class Objects:
    """Objects on the grid of a scan.

    Attributes:
        labels: (x, y, z) uint8 or uint16: the number of each voxel's object; 0: background.
        listed: the objects 1, 2, …, also those without voxels.
        affine: 4×4, voxel index to mm in RAS+.
        remarks: what a person must know about how they were read: overlaps, what was left out.
    """

    labels: np.ndarray
    listed: tuple[Object, ...]
    affine: np.ndarray
    remarks: tuple[str, ...] = ()


def number_type(count: int) -> type[np.uint8 | np.uint16]:
    """The smallest type for the numbers of some objects.

    Raises:
        ValueError: there are more than 65535.
    """
    if count > np.iinfo(np.uint16).max:
        raise ValueError(f"{count} objects; at most {np.iinfo(np.uint16).max} are possible")
    return np.uint8 if count <= np.iinfo(np.uint8).max else np.uint16


class Merge:
    """Masks that may overlap, as one label map: a voxel in several objects is of the smallest.

    So a tumour is kept within its organ, and the organs within the contour of the body, in any order of the
    file. Of objects of equal size, the later one has the voxel.

    Attributes:
        labels: (x, y, z) numbers of the objects so far.
        listed: the objects so far.
    """

    def __init__(self, shape: tuple[int, ...], most: int) -> None:
        """Start without any object; at most `most` will be added.

        Raises:
            ValueError: more than 65535.
        """
        self.labels = np.zeros(shape, number_type(most))
        self.listed: list[Object] = []
        self._sizes = [0]
        # Loser → winner → voxels.
        self._lost: dict[int, dict[int, int]] = {}

    def add(self, one: Object, mask: np.ndarray) -> None:
        """Add an object and its mask (x, y, z) bool."""
        number, size = len(self._sizes), int(np.count_nonzero(mask))
        self.listed.append(one)
        self._sizes.append(size)
        if not size:
            return
        # Most objects are small; only their box is looked at.
        reached = [np.flatnonzero(mask.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        box = tuple(slice(int(found[0]), int(found[-1]) + 1) for found in reached)
        labels, inside = self.labels[box], mask[box]
        counts = np.bincount(labels[inside], minlength=number)
        free = np.ones(number, bool)
        for owner in np.flatnonzero(counts[1:]) + 1:
            free[owner] = self._sizes[owner] >= size
            loser, winner = (int(owner), number) if free[owner] else (number, int(owner))
            self._lost.setdefault(loser, {})[winner] = int(counts[owner])
        labels[inside & free[labels]] = number

    def remarks(self) -> list[str]:
        """A line for each object that lost voxels to others."""
        if not self._lost:
            return []
        lines = []
        left = np.bincount(self.labels.ravel(), minlength=len(self._sizes))
        for loser, winners in sorted(self._lost.items()):
            listed = ", ".join(
                f"{self.listed[winner - 1].name} ({n})" for winner, n in sorted(winners.items())
            )
            lines.append(
                f"{self.listed[loser - 1].name} overlaps smaller objects, which keep the voxels they share: "
                f"{listed}; {left[loser]} of its {self._sizes[loser]} voxels are left"
            )
        return lines
