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

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
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


def read_new_cases(source: Path, region_column: str | None = None) -> list[Case]:
    """Scans to predict, from a sample sheet or a folder; labels in the sheet are ignored.

    If the training cases have a mask of the region, these scans need one, in the same column of a sheet.

    In a folder, a file is a case, or a channel of one if its name ends in `_0000`, `_0001`, … as in nnU-Net:
    from 0000 without gaps, since other numbers count cases or years. A subfolder is a DICOM
    series.

    Raises:
        CaseError: nothing to predict, two scans with one name, or errors in the sheet.
    """
    if source.is_file():
        read = read_sheet(Data(sheet=source, region_column=region_column))
        read.refuse(source)
        return list(read.cases)
    if not source.is_dir():
        raise CaseError(f"{source}: neither a sample sheet nor a folder of scans")
    if region_column is not None:
        raise CaseError(
            f"{source}: a folder of scans has no masks, but the models need the region of each scan "
            f"(prepare.region); give a sample sheet with the columns `case`, `image` and `{region_column}`"
        )
    named: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        suffix = next((s for s in VOLUME_SUFFIXES if path.name.lower().endswith(s)), None)
        if path.name.startswith(".") or (suffix is None and not path.is_dir()):
            continue
        name = path.name[: -len(suffix)] if suffix else path.name
        if (other := named.setdefault(name, path)) is not path:
            raise CaseError(f"{source}: {other.name} and {path.name} are two scans with one name; rename one")
    found = _cases(named)
    if not found:
        raise CaseError(
            f"{source}: contains no scans ({', '.join(VOLUME_SUFFIXES)}, or folders of a DICOM series)"
        )
    if wrong := [name for name in found if not name.isprintable()]:
        raise CaseError(
            f"{source}: {wrong[0]!r} contains a character that cannot be printed; rename the scan"
        )
    return [
        Case(name, name, "", line, tuple(paths), None, None)
        for line, (name, paths) in enumerate(found.items(), start=1)
    ]


def _cases(named: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The files of each case, from the files' names without their suffixes.

    Raises:
        CaseError: a case exists both as one file and as channels.
    """
    found: dict[str, list[Path]] = {}
    for name, path in named.items():
        case, number = name[:-5], name[-4:]
        channels = [f"{case}_{n:04d}" for n in range(int(number) + 1)] if re.search(r"._\d{4}$", name) else []
        whole = bool(channels) and all(each in named and named[each].is_file() for each in channels)
        if whole and case in named:
            raise CaseError(
                f"{path.parent}: {named[case].name} and {path.name} are two scans of {case}; rename one"
            )
        found.setdefault(case if whole else name, []).append(path)
    return found
