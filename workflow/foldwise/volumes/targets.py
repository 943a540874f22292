"""Targets of learning, prediction and scoring: classes that exclude each other, or regions that overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from foldwise.files import CaseError

# The names of more would not fit an attribute of HDF5.
MOST_CLASSES = 2000
LARGEST_LABEL = np.iinfo(np.int32).max
# The name in data.labels of voxels that count nowhere.
IGNORE = "ignore"


def label_type(largest: int) -> type[np.uint8 | np.int16 | np.int32]:
    """The smallest of uint8, int16 and int32 that holds labels up to `largest`.

    Every reader of NIfTI knows these three, and torch supports them.
    """
    if largest <= np.iinfo(np.uint8).max:
        return np.uint8
    return np.int16 if largest <= np.iinfo(np.int16).max else np.int32


@dataclass(frozen=True)
class Targets:
    """Outputs of a network, and the conversion between them and label files.

    Label files hold the values of `classes`; caches hold class numbers, 1… in the order of `classes`. Without
    regions a network has an output per class, and one for background. With regions it has one per region,
    which is 1 where any of the region's classes is (BraTS: whole tumour, tumour core, enhancing tumour).
    Voxels with the value of `ignore` are neither a class nor background: they count nowhere.

    Attributes:
        classes: class → its voxel value in the label files.
        regions: region → its classes; any two regions are nested or disjoint.
        ignore: value of the voxels that count nowhere, or None.

    Raises:
        CaseError: regions that name unknown classes, or from which labels could not be reconstructed.
    """

    classes: dict[str, int]
    regions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignore: int | None = None

    def __post_init__(self) -> None:
        for name, members in self.regions.items():
            if IGNORE in (name, *members):
                raise CaseError(f"region {name}: voxels of `{IGNORE}` belong to no region, and are none")
            if unknown := set(members) - set(self.classes):
                raise CaseError(f"region {name} names {', '.join(sorted(unknown))}, which are not in labels")
            if not self._own(name):
                raise CaseError(
                    f"region {name} is the union of smaller regions, so no label could stand for it"
                )
        for first in self.regions.values():
            for second in self.regions.values():
                both = set(first) & set(second)
                if both and both not in (set(first), set(second)):
                    raise CaseError(f"regions {first} and {second} overlap, but neither contains the other")

    @classmethod
    def of(cls, labels: Mapping[str, int], regions: Mapping[str, Sequence[str]] | None = None) -> Self:
        """The targets of `data.labels`, in which the name `ignore` is not a class, and `data.regions`."""
        classes = {name: value for name, value in labels.items() if name != IGNORE}
        members = {name: tuple(listed) for name, listed in (regions or {}).items()}
        return cls(classes, members, labels.get(IGNORE))

    @property
    def labels(self) -> dict[str, int]:
        """The classes, and `ignore` if there is one, with their values in the label files."""
        return self.classes if self.ignore is None else {**self.classes, IGNORE: self.ignore}

    @property
    def ignored(self) -> int | None:
        """The number in caches of voxels that count nowhere, after those of the classes; None without any."""
        return None if self.ignore is None else 1 + len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the targets: the regions, else the classes."""
        return tuple(self.regions or self.classes)

    @cached_property
    def values(self) -> dict[str, tuple[int, ...]]:
        """Name → its voxel values in the label files."""
        if not self.regions:
            return {name: (value,) for name, value in self.classes.items()}
        return {name: tuple(self.classes[c] for c in members) for name, members in self.regions.items()}

    @cached_property
    def membership(self) -> np.ndarray:
        """(names, 1 + labels) bool: whether a number in caches belongs to a name; `ignore` has no name."""
        numbers = {name: number for number, name in enumerate(self.classes, start=1)}
        belongs = np.zeros((len(self.names), 1 + len(self.labels)), bool)
        for row, name in enumerate(self.names):
            belongs[row, [numbers[c] for c in self.regions.get(name, (name,))]] = True
        return belongs

    @cached_property
    def nested(self) -> list[tuple[int, list[int]]]:
        """Of each region, the largest first: its own class's number; the rows of it and those around."""
        numbers = {name: number for number, name in enumerate(self.classes, start=1)}
        rows = {name: row for row, name in enumerate(self.names)}
        return [
            (numbers[self._own(name)[0]], [rows[name], *(rows[outer] for outer in self._outer(name))])
            for name in sorted(self.regions, key=lambda name: -len(self.regions[name]))
        ]

    def decode(self, probabilities: Iterable[np.ndarray]) -> np.ndarray:
        """Class numbers of the most probable labels, 0 for background.

        A voxel belongs to a region if the region's probability is over one half, and that of every region
        around it; it gets the own class of the smallest one.

        Args:
            probabilities: (x, y, z) of each name, 0 to 255, without background; looked at one by one.
        """
        kind = label_type(len(self.classes))
        if self.regions:
            inside = [part > 127.5 for part in probabilities]
            labels = np.zeros(inside[0].shape, kind)
            for number, rows in self.nested:
                labels[np.logical_and.reduce([inside[row] for row in rows])] = number
            return labels
        parts = iter(probabilities)
        best = np.array(next(parts))  # a copy, which changes
        labels, total = np.ones(best.shape, kind), best.astype(np.float32)
        for number, part in enumerate(parts, start=2):
            total += part
            labels[part > best] = number
            np.maximum(best, part, out=best)
        labels[~(best > 255 - total)] = 0
        return labels

    def value(self, name: str) -> int:
        """The voxel value of a name: its class's, or that of a region's own class."""
        if not self.regions:
            return self.classes[name]
        return self.classes[self._own(name)[0]]

    def without(self, name: str) -> int:
        """The value of a voxel removed from a name: the smallest surrounding region's, or 0."""
        outer = self._outer(name)
        return self.value(min(outer, key=lambda region: len(self.regions[region]))) if outer else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for index, models and predictions.

        Classes and regions are numbered in their order, which JSON with sorted keys does not keep: `order`
        lists the names where there are several.
        """
        values: dict[str, Any] = {
            "classes": dict(self.classes),
            "regions": {name: list(members) for name, members in self.regions.items()},
        }
        if self.ignore is not None:
            values[IGNORE] = self.ignore
        several = max(len(self.classes), len(self.regions)) > 1
        return {**values, "order": [list(self.classes), list(self.regions)]} if several else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            CaseError: several classes without their order.
        """
        classes, regions = values["classes"], values["regions"]
        if max(len(classes), len(regions)) > 1 and "order" not in values:
            raise CaseError(
                f"{', '.join(classes)}: the order of these classes is not recorded; earlier versions "
                "confused classes whose names are not in alphabetical order. Train again."
            )
        first, second = values.get("order", (classes, regions))
        return cls(
            {name: classes[name] for name in first},
            {name: tuple(regions[name]) for name in second},
            values.get(IGNORE),
        )

    def _outer(self, name: str) -> list[str]:
        here = set(self.regions.get(name, ()))
        return [other for other, members in self.regions.items() if here and set(members) > here]

    def _own(self, name: str) -> list[str]:
        here = self.regions[name]
        inner: set[str] = set()
        for members in self.regions.values():
            inner |= set(members) if set(members) < set(here) else set()
        return [member for member in here if member not in inner]
