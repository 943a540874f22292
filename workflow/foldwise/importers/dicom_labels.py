"""Structures and boxes that belong to the series of an import."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from foldwise.files import CaseError
from foldwise.importers.boxes import by_series, read_boxes
from foldwise.importers.dicom_scan import Found, Series
from foldwise.importers.dicom_structures import referenced
from foldwise.importers.sheets import clean
from foldwise.volumes.dicom_structures import Structures, read_structures


@dataclass
class Labels:
    """Structures and boxes of series.

    Attributes:
        wanted: (pattern, class) pairs; classes are numbered from 1 in the order of their first mention.
        names: names of structures → number of objects with it.
        objects: what refers to each series.
        unusable: series with structures that cannot be used, with the reason.
        remarks: for the user.
        problems: structures that cannot be used and belong to no series.
    """

    wanted: list[tuple[str, str]] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    objects: dict[Series, list[Structures]] = field(default_factory=lambda: defaultdict(list))
    unusable: dict[Series, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def classes(self) -> dict[str, int]:
        """Class → voxel value."""
        names = dict.fromkeys(name for _, name in self.wanted)
        return {name: value for value, name in enumerate(names, start=1)}

    def add_boxes(self, folder: Path, series: Sequence[Series]) -> None:
        """Add the boxes in a folder of Pascal VOC files; without patterns, each name is a class."""
        boxes, faults = read_boxes(folder)
        drawn, unclear, remarks = by_series(boxes, series)
        for one, found in drawn.items():
            self.names.update(set(found.names.values()))
            self.objects[one].append(found)
        self.unusable |= unclear
        self.remarks += remarks
        for path, fault in faults.items():
            owners = [one for one in series if path.stem in one.instances]
            self._refuse(owners, fault)
        if not self.wanted:
            names: dict[str, str] = {}
            for name in sorted(self.names):
                names.setdefault(name.lower(), clean(name))
            self.wanted = [(escape(pattern), name) for pattern, name in sorted(names.items())]

    def add_structures(self, found: Found, series: Sequence[Series]) -> None:
        """Add RTSTRUCT and SEG objects; an object that cannot be used fails the series of its study."""
        for path, place in found.structures.items():
            try:
                held = read_structures(path)
                self.names.update(set(held.names.values()))
                one = referenced(held, series)
            except CaseError as error:
                self._refuse([one for one in series if (one.identity, one.study) == place], str(error))
                continue
            if one is None:
                self.remarks.append(f"{path}: the series that it refers to is missing or was left out")
            else:
                self.objects[one].append(held)

    def refuse_unmatched(self, folder: Path) -> None:
        """Ensure that there are patterns if there are structures, and that each fits one.

        Raises:
            CaseError: with the names that exist.
        """
        faults = sorted({*self.unusable.values(), *self.problems})
        found = [f"{name} ({count})" for name, count in sorted(self.names.items())] or ["none"]
        listed = "\n  ".join(["found (number of objects):", *found, *faults])
        if self.names and not self.wanted:
            raise CaseError(f"{folder}: give --structures, or --labels ignore for the images alone; {listed}")
        for pattern, _ in self.wanted:
            if not any(fnmatchcase(name.lower(), pattern) for name in self.names):
                raise CaseError(f"--structures: {pattern!r} matches none; {listed}")

    def _refuse(self, series: Sequence[Series], fault: str) -> None:
        for one in series:
            self.unusable.setdefault(one, fault)
        if not series:
            self.problems.append(fault)
