"""The sample sheet: one case a row, read as text and turned into paths."""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from foldwise.files import CaseError
from foldwise.settings import Data

# A case's name becomes file names and a wildcard of the workflow.
CASE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
SPLITS = ("", "train", "test")
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
COLUMNS = ("case", "group", "image", "label", "weight", "split")


@dataclass(frozen=True)
class Case:
    """A row of the sheet.

    Attributes:
        name: the case, unique.
        group: the patient; folds never split it. The case's own name where the sheet gives none.
        images: one path per channel, in the order of the columns `image` or `image_<channel>`.
        label: label map on the images' grid, or None: such a case is only predicted.
        weight: weight map for the weighted sampler, on the images' grid, or None.
        split: "test" for a case of the fixed test set, else "".
        line: the row's line in the sheet; the header is line 1.
    """

    name: str
    group: str
    images: tuple[Path, ...]
    label: Path | None
    weight: Path | None
    split: str
    line: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case."""
        return self.images + tuple(path for path in (self.label, self.weight) if path)

    @property
    def trains(self) -> bool:
        """Whether the case takes part in cross-validation."""
        return self.label is not None and self.split != "test"


@dataclass(frozen=True)
class Sheet:
    """The cases of a sheet and what is wrong with its text.

    Attributes:
        cases: the usable rows, in the order of the sheet.
        channels: names of the image channels ("" where there is one column `image`).
        problems: one line each, starting with the sheet's line number.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    problems: tuple[str, ...]

    def __getitem__(self, name: str) -> Case:
        return next(case for case in self.cases if case.name == name)


def read_sheet(data: Data) -> Sheet:
    """Read the sheet without touching the files that it names.

    Raises:
        CaseError: no such file, no header, or a column that is missing or not known.
    """
    path = data.sheet
    if not path.is_file():
        raise CaseError(f"{path}: no such sample sheet (data.sheet)")
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = list(csv.reader(file, delimiter=delimiter))
    header = [name.strip() for name in rows[0]] if rows else []
    channels = _channels(path, header)
    folder = data.folder if data.folder is not None else path.parent

    cases: list[Case] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row) or row[0].lstrip().startswith("#"):
            continue
        if len(row) != len(header):
            problems.append(f"line {line}: {len(row)} cells, the header has {len(header)}")
            continue
        cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
        found = _row_problems(cells, channels, seen)
        problems += [f"line {line}: {problem}" for problem in found]
        if found:
            continue
        seen[cells["case"]] = line
        cases.append(_case(cells, channels, folder, line))
    if not cases and not problems:
        problems.append("line 1: the sheet has no cases")
    return Sheet(tuple(cases), channels, tuple(problems))


def read_new_cases(source: Path) -> list[Case]:
    """Scans to be predicted, from a sample sheet or a folder; labels in the sheet are not looked at.

    In a folder, a file is a case, or a channel of one if its name ends in `_0000`, `_0001`, … as in nnU-Net;
    a folder within is a DICOM series.

    Raises:
        CaseError: nothing to predict, or a sheet with faults.
    """
    if source.is_file():
        sheet = read_sheet(Data(sheet=source))
        if sheet.problems:
            raise CaseError(f"{source}: {len(sheet.problems)} problem(s)\n  " + "\n  ".join(sheet.problems))
        return list(sheet.cases)
    if not source.is_dir():
        raise CaseError(f"{source}: neither a sample sheet nor a folder of scans")
    found: dict[str, list[Path]] = {}
    for path in sorted(source.iterdir()):
        suffix = next((s for s in VOLUME_SUFFIXES if path.name.endswith(s)), None)
        if path.name.startswith(".") or (suffix is None and not path.is_dir()):
            continue
        name = path.name.removesuffix(suffix or "")
        found.setdefault(re.sub(r"_\d{4}$", "", name) if suffix else name, []).append(path)
    if not found:
        raise CaseError(
            f"{source}: no scans in it ({', '.join(VOLUME_SUFFIXES)}, or folders of a DICOM series)"
        )
    if wrong := [name for name in found if not CASE_NAME.match(name)]:
        raise CaseError(
            f"{source}: {wrong[0]!r} is no name for a case: letters, digits, `_`, `.` and `-` only"
        )
    return [
        Case(name, name, tuple(paths), None, None, "", line)
        for line, (name, paths) in enumerate(found.items(), start=1)
    ]


def _channels(path: Path, header: list[str]) -> tuple[str, ...]:
    for column in header:
        # Columns of the user's own are welcome; a misspelt one would silently drop the labels.
        near = difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.75)
        if column not in COLUMNS and near and not re.fullmatch(r"image_\w+", column):
            raise CaseError(f"{path}: line 1: column {column!r}: did you mean `{near[0]}`?")
    if len(set(header)) != len(header):
        raise CaseError(f"{path}: line 1: a column stands twice")
    channels = tuple(
        column[len("image") :].lstrip("_") for column in header if re.fullmatch(r"image(_\w+)?", column)
    )
    if "case" not in header or not channels or ("" in channels and len(channels) > 1):
        raise CaseError(
            f"{path}: line 1: needs a column `case` and either `image` or one `image_<channel>` each"
        )
    return channels


def _row_problems(cells: dict[str, str], channels: tuple[str, ...], seen: dict[str, int]) -> list[str]:
    name = cells["case"]
    problems = []
    if not CASE_NAME.match(name):
        problems.append(f"case {name!r}: a name holds letters, digits, `_`, `.` and `-` only")
    if name in seen:
        problems.append(f"case {name}: already on line {seen[name]}")
    if missing := [c for c in channels if not cells[_column(c)]]:
        problems.append(f"case {name}: no {', '.join(map(_column, missing))}")
    if (split := cells.get("split", "")) not in SPLITS:
        problems.append(f"case {name}: split {split!r}; it is `train`, `test` or empty")
    return problems


def _case(cells: dict[str, str], channels: tuple[str, ...], folder: Path, line: int) -> Case:
    def path(column: str) -> Path | None:
        return folder / cells[column] if cells.get(column) else None

    split = cells.get("split", "")
    return Case(
        name=cells["case"],
        group=cells.get("group") or cells["case"],
        images=tuple(folder / cells[_column(channel)] for channel in channels),
        label=path("label"),
        weight=path("weight"),
        split="test" if split == "test" else "",
        line=line,
    )


def _column(channel: str) -> str:
    return f"image_{channel}" if channel else "image"
