"""Boxes on slices, as files of Pascal VOC: one `<SOPInstanceUID>.xml` per slice, as in Lung-PET-CT-Dx."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from foldwise.files import CaseError
from foldwise.importers.dicom_scan import Series
from foldwise.volumes.dicom_structures import Grid, Masks, Structures

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Box:
    """A box on a slice.

    Attributes:
        path: its file.
        instance: SOPInstanceUID of the slice.
        name: its class.
        corners: x and y of its first corner, then of the opposite one, in pixels from the outer corner of the
            first pixel.
        size: columns and rows of the picture on which it was drawn; None: not stated.
    """

    path: Path
    instance: str
    name: str
    corners: tuple[float, float, float, float]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Boxes(Structures):
    """The boxes of a series.

    Attributes:
        boxes: number of a class → its boxes.
    """

    boxes: Mapping[int, tuple[Box, ...]] | None = None

    def masks(self, grid: Grid, say: Callable[[str], None] = logging.warning) -> Masks:
        """A function that fills the boxes of a class on the series' grid."""

        def draw(number: int) -> np.ndarray:
            mask = np.zeros(grid.header.shape, bool)
            for box in (self.boxes or {}).get(number, ()):
                places = grid.places[box.instance]
                if len(places) != 1:
                    raise CaseError(
                        f"{box.path}: {len(places)} slices have its SOPInstanceUID; one is expected"
                    )
                if box.size not in (None, grid.header.shape[:2]):
                    raise CaseError(
                        f"{box.path}: was drawn on {box.size} pixels, the slice has {grid.header.shape[:2]}"
                    )
                # LabelImg, with which they are drawn, measures from the outer corner of the first pixel.
                x0, y0, x1, y1 = (round(corner) for corner in box.corners)
                if not (0 <= x0 < x1 <= mask.shape[0] and 0 <= y0 < y1 <= mask.shape[1]):
                    raise CaseError(f"{box.path}: the box {x0, y0, x1, y1} does not lie within the slice")
                mask[x0:x1, y0:y1, places[0]] = True
            return mask

        return draw


def read_boxes(folder: Path) -> tuple[list[Box], dict[Path, str]]:
    """All boxes in the XML files below a folder, and the files that cannot be read, with the reason.

    Raises:
        CaseError: there are no such files.
    """
    boxes: list[Box] = []
    faults = {}
    for path in sorted(folder.rglob("*.[xX][mM][lL]")):
        if path.name.startswith("."):
            continue
        try:
            boxes += _boxes(path)
        except (ElementTree.ParseError, ValueError) as error:
            faults[path] = f"{path}: not a file of boxes in the form of Pascal VOC ({error})"
    if not boxes and not faults:
        raise CaseError(f"{folder}: contains no boxes; expected <SOPInstanceUID>.xml files of Pascal VOC")
    return boxes, faults


def by_series(
    boxes: Iterable[Box], series: Iterable[Series]
) -> tuple[dict[Series, Boxes], dict[Series, str], list[str]]:
    """The boxes of each series; series whose boxes are unclear, with the reason; remarks on other boxes."""
    owners: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        for instance in one.instances:
            owners[instance].append(one)
    own: dict[Series, list[Box]] = defaultdict(list)
    unclear: dict[Series, str] = {}
    missing: dict[Path, int] = defaultdict(int)
    for box in boxes:
        found = owners.get(box.instance, [])
        if not found:
            missing[box.path.parent] += 1
        for one in found:
            own[one].append(box)
            if len(found) > 1:
                unclear[one] = f"{box.path}: {len(found)} series have this slice; import them separately"
    drawn = {}
    for one, mine in own.items():
        names = dict(enumerate(sorted({box.name for box in mine}), start=1))
        each = {n: tuple(box for box in mine if box.name == name) for n, name in names.items()}
        drawn[one] = Boxes(mine[0].path.parent, names, boxes=each)
    remarks = [
        f"{folder}: {count} box(es) left out: their slices are missing or were left out"
        for folder, count in missing.items()
    ]
    return drawn, unclear, remarks


def _boxes(path: Path) -> list[Box]:
    root = ElementTree.parse(path).getroot()
    if root.tag != "annotation":
        raise ValueError(f"it holds <{root.tag}>, not <annotation>")
    width, height = (root.findtext(f"size/{side}") for side in ("width", "height"))
    size = (int(width), int(height)) if width and height and int(width) and int(height) else None
    found = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        corners = [item.findtext(f"bndbox/{corner}") for corner in CORNERS]
        if not name or None in corners:
            raise ValueError("an object without name or bndbox")
        x0, y0, x1, y1 = (float(corner or "") for corner in corners)
        found.append(Box(path, path.stem, name, (x0, y0, x1, y1), size))
    return found
