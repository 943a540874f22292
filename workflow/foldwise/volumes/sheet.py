"""The sample sheet of volumes: columns `image` or one `image_<channel>` each, `label`, `weight`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foldwise import sheet
from foldwise.files import CaseError
from foldwise.sheet import Sheet
from foldwise.volumes.settings import Data

COLUMNS = ("image", "label", "weight")
IMAGE = r"image(_\w+)?"


@dataclass(frozen=True)
class Case(sheet.Case):
    """A row of the sheet.

    Attributes:
        images: one path per channel, in the order of the columns `image` or `image_<channel>`.
        label: label map on the images' grid, or None: the case is only predicted.
        weight: weight map for the weighted sampler, on the images' grid, or None.
        region: mask of the region, on the images' grid, or None.
    """

    images: tuple[Path, ...]
    label: Path | None
    weight: Path | None
    region: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case."""
        return self.images + tuple(path for path in (self.label, self.weight, self.region) if path)

    @property
    def recordings(self) -> tuple[Path, ...]:
        """The images."""
        return self.images

    @property
    def labelled(self) -> bool:
        """Whether the case has a label."""
        return self.label is not None


def read_sheet(data: Data) -> Sheet[Case]:
    """Read the sheet without touching the files that it names.

    Raises:
        CaseError: no such file, no header, or a missing or unknown column.
    """
    path = data.sheet
    masks = () if data.region_column is None else (data.region_column,)
    table = sheet.read_table(path, (*COLUMNS, *masks), IMAGE)
    images = [column for column in table.header if re.fullmatch(IMAGE, column)]
    if not images or ("image" in images and len(images) > 1):
        raise CaseError(
            f"{path}: line 1: needs a column `case` and either `image` or one `image_<channel>` per channel"
        )
    if missing := [column for column in masks if column not in table.header]:
        raise CaseError(f"{path}: line 1: no column `{missing[0]}`, named by prepare.region.column")
    folder = data.root

    def make(cells: Mapping[str, str], base: sheet.Case) -> Case:
        label, weight = (folder / cells[c] if cells.get(c) else None for c in ("label", "weight"))
        paths = tuple(folder / cells[column] for column in images)
        region = folder / cells[masks[0]] if masks else None
        return Case(base.name, base.group, base.split, base.line, paths, label, weight, region)

    return sheet.read_cases(table, [*images, *masks], make)
