"""Scans to predict, from a sample sheet or a folder in which nothing is passed over silently."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldwise import looks
from foldwise.files import CaseError, source_files
from foldwise.published import RECORDS
from foldwise.volumes.settings import Data
from foldwise.volumes.sheet import Case, read_sheet
from foldwise.volumes.suffixes import DICOM_SUFFIXES, VOLUME_SUFFIXES, is_dicom, stem_of, suffix_of

# Files of one reason that are named in a message.
NAMED = 20
# Files that belong to a scan, but are not to be given alone.
PARTS = (*DICOM_SUFFIXES, ".img")


@dataclass(frozen=True)
class Scans:
    """How a source of new scans is understood.

    Attributes:
        cases: the scans.
        left_out: file or folder of the source → why it is no scan.
    """

    cases: tuple[Case, ...]
    left_out: Mapping[Path, str]

    def lines(self) -> list[str]:
        """The same for the user: cases by their number of files, and what was left out by its reason."""
        counts: dict[int, list[Case]] = defaultdict(list)
        for case in self.cases:
            counts[len(case.images)].append(case)
        lines = []
        for channels, cases in sorted(counts.items()):
            first = ", ".join(path.name for path in cases[0].images)
            each = "1 file" if channels == 1 else f"{channels} channels"
            lines.append(f"{len(cases)} case(s), {each} each, e.g. {cases[0].name} ← {first}")
        reasons: dict[str, list[str]] = defaultdict(list)
        for path, reason in self.left_out.items():
            reasons[reason].append(path.name)
        return lines + [f"left out, {reason}: {_listed(names)}" for reason, names in reasons.items()]


def is_sheet(source: Path) -> bool:
    """Whether a source is a sample sheet: a file that is not itself a scan, or a part of one."""
    scan = suffix_of(source.name) or source.suffix.lower() in PARTS
    return source.is_file() and not scan and not is_dicom(source)


def read_new_scans(source: Path, region_column: str | None = None) -> Scans:
    """Scans to predict: one, those in a folder, or those of a sample sheet, whose labels are ignored.

    If the training cases have a mask of the region, these scans need one, in the same column of a sheet.

    In a folder, a file is a case, or a channel of one if its name ends in `_0000`, `_0001`, … as in nnU-Net:
    from 0000 without gaps, since other numbers count cases or years. A subfolder is a DICOM series, and so is
    the folder itself if it holds DICOM files and no scan.

    Raises:
        CaseError: nothing to predict, two scans with one name, or errors in the sheet.
    """
    if is_sheet(source):
        read = read_sheet(Data(sheet=source, region_column=region_column))
        read.refuse(source)
        return Scans(read.cases, {})
    if not source.exists():
        raise CaseError(f"{source}: no such file or folder; expected scans, or a sample sheet")
    if region_column is not None:
        raise CaseError(
            f"{source}: there are no masks beside scans, but the models need the region of each scan "
            f"(prepare.region); give a sample sheet with the columns `case`, `image` and `{region_column}`"
        )
    named: dict[str, Path] = {}
    others = []
    there = sorted(source.iterdir()) if source.is_dir() else [source]
    looks.look_at(there)
    for path in there:
        folder = looks.is_folder(path)
        if path.name.startswith(".") or not (_holds_series(path) if folder else suffix_of(path.name)):
            others.append(path)
            continue
        name = path.name if folder else stem_of(path.name)
        if (other := named.setdefault(name, path)) is not path:
            raise CaseError(f"{source}: {other.name} and {path.name} are two scans with one name; rename one")
    if not named and source.is_dir() and any(map(is_dicom, others)):
        named, others = {Path(os.path.abspath(source)).name: source}, []  # noqa: PTH100 (a link keeps its name)
    # The voxels of .hdr, .mhd and .nhdr are in files of their own.
    data = {file for path in named.values() if not looks.is_folder(path) for file in source_files(path)}
    left_out = {path: _reason(path) for path in others if path not in data}
    found = _cases(named)
    if not found:
        why = "".join(f"\n  {line}" for line in Scans((), left_out).lines())
        raise CaseError(
            f"{source}: contains no scans ({', '.join(VOLUME_SUFFIXES)}, or folders of a DICOM series){why}"
        )
    if wrong := [name for name in found if not name.isprintable()]:
        raise CaseError(
            f"{source}: {wrong[0]!r} contains a character that cannot be printed; rename the scan"
        )
    cases = [
        Case(name, name, "", line, tuple(paths), None, None)
        for line, (name, paths) in enumerate(found.items(), start=1)
    ]
    return Scans(tuple(cases), left_out)


def refuse_channels(cases: Sequence[Case], channels: int) -> None:
    """Refuse cases whose files cannot be the channels of a model.

    Args:
        cases: of a folder.
        channels: of the model. A single file may hold all of them.

    Raises:
        CaseError: all such cases.
    """
    if wrong := [case for case in cases if len(case.images) not in (1, channels)]:
        first = ", ".join(path.name for path in wrong[0].images)
        raise CaseError(
            f"case {wrong[0].name}: {first} were taken as its channels, but the models have {channels} "
            f"({len(wrong)} such case(s)); rename separate scans, or give a sample sheet"
        )


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


def _holds_series(folder: Path) -> bool:
    """Whether a folder may hold a DICOM series: it has files, and not only volumes of other formats.

    Predictions of an earlier call may lie beside the scans.
    """
    if (folder / RECORDS).is_dir():
        return False
    inner = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.is_file() and not suffix_of(path.name) for path in inner)


def _reason(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if (path / RECORDS).is_dir():
        return "predictions of Foldwise"
    if path.is_dir():
        return "without files of a DICOM series"
    if path.suffix.lower() == ".img":
        return "without its .hdr" if not path.with_suffix(".hdr").exists() else "the voxels of a .hdr"
    if is_dicom(path):
        return "single DICOM files (put each series into a folder of its own)"
    return f"not of a known format ({', '.join(VOLUME_SUFFIXES)})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
