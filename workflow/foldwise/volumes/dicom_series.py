"""A DICOM series as a volume: position and values of every slice, read slice by slice."""

from __future__ import annotations

import filecmp
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from foldwise.files import CaseError
from foldwise.volumes.dicom_files import Files, read_dataset, read_files
from foldwise.volumes.dicom_frames import Frame, no_scan, unusable
from foldwise.volumes.dicom_order import DIRECTION, number_remark, step_of, tilt_remark
from foldwise.volumes.dicom_pixels import dtype_of, read_pixels
from foldwise.volumes.suffixes import is_dicom

# What all slices of a volume have in common, and what several of them would be.
ONE = {
    "PatientID": "patients",
    "StudyInstanceUID": "studies",
    "FrameOfReferenceUID": "frames of reference",
    "PhotometricInterpretation": "photometric interpretations",
    "StackID": "stacks",
}
# What a segmentation repeats of every image that it refers to.
REFERRED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    "FrameOfReferenceUID",
)


@dataclass(frozen=True)
class Series:
    """A series that forms a volume.

    Attributes:
        frames: one per slice, in the order of z.
        shape: voxels along (x, y, z): columns, rows, slices.
        affine: 4×4, voxel index to millimetres in DICOM's LPS. After a gantry tilt, the step from a slice to
            the next is not at a right angle to the slices.
        dtype: type of the values after each slice's slope and intercept.
        remarks: what a user should know, e.g. files that were left out.
    """

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype[Any]
    remarks: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, in the order of their first slices."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))

    @property
    def no_seg(self) -> str:
        """Why a DICOM Segmentation cannot refer to it; empty if one can.

        Nothing can take the place of the elements looked for here, which the standard demands.
        """
        for keyword in REFERRED:
            if lacking := [frame.name for frame in self.frames if frame.get(keyword) is None]:
                return f"{lacking[0]} has no {keyword}"
        if len({frame.get("SOPInstanceUID") for frame in self.frames}) < len(self.files):
            return "several of its files have the same SOPInstanceUID"
        if not UID(kind := self.frames[0].get("SOPClassUID")).keyword:
            return f"its SOPClassUID {kind} is not in the standard"
        if self.frames[0].many and len(self.files) > 1:
            return f"it consists of {len(self.files)} enhanced images, and one at most is allowed"
        return ""


def open_series(folder: Path) -> Series:
    """Read the headers of a folder's single series; pixels are not read.

    Every file is read, or named in a remark; subfolders are not searched.

    Raises:
        CaseError: no or several series, a file that cannot be read, or slices that do not form one volume.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    hidden = [entry.name for entry in entries if entry.name.startswith(".")]
    folders = [entry.name for entry in entries if entry.is_dir()]
    visible = [Path(entry.path) for entry in entries if entry.name not in {*hidden, *folders}]
    series = read_series(visible, folder)
    passed = {name: "a hidden file" for name in hidden if _is_dicom(folder / name)}
    passed |= {name: "a folder" for name in folders if name not in hidden}
    return _with_remarks(series, _left_out(passed))


def read_series(files: Iterable[Path], where: Path) -> Series:
    """Read the headers of the single series among some files; pixels are not read.

    Objects of other kinds, secondary captures without a position, and localizers are left out beside a scan;
    so are files that are the same as another, byte for byte.

    Args:
        files: files of any type.
        where: their folder, for messages.

    Raises:
        CaseError: as for `open_series`.
    """
    found = read_files(files, where)
    frames = _scan(found, where)
    copies: dict[Path, str] = {}
    seen: dict[tuple[Any, ...], Frame] = {}
    for frame in frames:
        identity = [frame.get(keyword) for keyword in ("SOPInstanceUID", "ImagePositionPatient")]
        other = seen.setdefault((*identity, frame.number), frame)
        if other is not frame and filecmp.cmp(other.file, frame.file, shallow=False):
            copies[frame.file] = f"a copy of {other.file.name}"
    series = arrange([frame for frame in frames if frame.file not in copies], where)
    passed = {file.name: kind for file, kind in (found.others | copies).items()}
    return _with_remarks(series, _left_out(passed))


def arrange(frames: Sequence[Frame], where: Path) -> Series:
    """Sort the slices of one series and check that they form a volume.

    Args:
        frames: its slices.
        where: their folder, for messages.

    Raises:
        CaseError: they do not form a volume; the message gives the reason.
    """
    for keyword, what in ONE.items():
        _refuse_several(keyword, what, frames, where)
    _refuse_parts(frames, where)
    for frame in frames:
        if fault := unusable(frame, DIRECTION):
            raise CaseError(f"{where}: {frame.name} {fault}")
    if len(frames) == 1 and _is_mosaic(frames[0]):
        raise CaseError(f"{where}: {frames[0].name} is a mosaic of several slices; write it as NIfTI")
    first = frames[0]
    spacing = np.array(first.get("PixelSpacing"), float)
    same = {"Rows": 0.0, "Columns": 0.0, "ImageOrientationPatient": DIRECTION}
    for keyword, tolerance in (same | {"PixelSpacing": 1e-4 * spacing.min()}).items():
        values = np.array([np.ravel(frame.get(keyword)) for frame in frames], float)
        apart = np.abs(values - values[0]).max(axis=1)
        if apart.max() > tolerance:
            other = frames[apart.argmax()]
            raise CaseError(
                f"{where}: {keyword} of {first.name} is {first.get(keyword)}, that of {other.name} "
                f"{other.get(keyword)}"
            )
    row, column = np.array(first.get("ImageOrientationPatient"), float).reshape(2, 3)
    row, normal = _unit(row), _unit(np.cross(row, column))
    places = np.array([frame.get("ImagePositionPatient") for frame in frames], float)
    order = np.argsort(places @ normal, kind="stable")
    frames, places = [frames[i] for i in order], places[order]
    affine = np.eye(4)
    # DICOM gives the distance of rows before that of columns.
    affine[:3, :2] = np.column_stack([row, np.cross(normal, row)]) * spacing[::-1]
    affine[:3, 2] = step = step_of(frames, places, normal, where)
    affine[:3, 3] = places[0]
    remarks = filter(None, [tilt_remark(step, normal), number_remark(frames)])
    shape = (first.get("Columns"), first.get("Rows"), len(frames))
    return Series(tuple(frames), shape, affine, dtype_of(frames), tuple(remarks))


def read_voxels(series: Series) -> np.ndarray:
    """The values of a series, (x, y, z), each slice with its own slope, intercept, depth and sign.

    MONOCHROME1 concerns only the display and inverts nothing. Padding above every measured value becomes the
    lowest one; other padding is kept, since most scanners write a value below that of air.

    Raises:
        CaseError: the pixels of a file cannot be read.
    """
    values = np.empty(series.shape[::-1], series.dtype)
    lowest, highest = np.inf, -np.inf
    padded: dict[int, np.ndarray] = {}
    # Exact for all values of the types that `dtype_of` chooses.
    wide = np.float64 if values.dtype.kind == "f" else np.int64
    for z, frame, stored, padding in _slices(series):
        slope, intercept = frame.scale
        unscaled = (slope, intercept) == (1, 0)
        values[z] = stored if unscaled else stored.astype(wide) * wide(slope) + wide(intercept)
        if padding is None:
            lowest, highest = min(lowest, values[z].min()), max(highest, values[z].max())
            continue
        measured = values[z][~padding]
        if measured.size:
            lowest, highest = min(lowest, measured.min()), max(highest, measured.max())
        if values[z][padding].max() > highest:
            padded[z] = padding
    for z, padding in padded.items():
        values[z][padding & (values[z] > highest)] = lowest
    return values.transpose()


def _slices(series: Series) -> Iterator[tuple[int, Frame, np.ndarray, np.ndarray | None]]:
    """Every slice's z and frame, and its pixels and padding; each file is read once."""
    by_file: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for z, frame in enumerate(series.frames):
        by_file[frame.file].append((frame.number, z))
    for file, members in by_file.items():
        order = [z for _, z in sorted(members)]
        pictures = read_pixels(file, [series.frames[z] for z in order])
        try:
            for z, (frame, stored, padding) in zip(order, pictures, strict=True):
                yield z, frame, stored, padding
        except Exception as error:  # pydicom and ITK raise many types for a broken file
            raise CaseError(f"{file}: its pixels cannot be read ({error})") from error


def _scan(found: Files, where: Path) -> list[Frame]:
    """The frames of the only scan; what is none goes to the other files.

    Raises:
        CaseError: there is none, or there are several.
    """
    series: dict[str | None, list[Frame]] = defaultdict(list)
    for frame in found.frames:
        series[frame.get("SeriesInstanceUID")].append(frame)
    if len(series) > 1:
        scans = {uid: frames for uid, frames in series.items() if not all(map(no_scan, frames))}
        series = scans or series
    if len(series) != 1:
        kinds = [f"{len(s)} × {s[0].kind}, e.g. {s[0].file.name}" for s in series.values()]
        kinds = kinds or [f"{file.name}: {kind}" for file, kind in found.others.items()]
        listed = f" ({'; '.join(kinds[:5])})" if kinds else ""
        raise CaseError(f"{where}: contains {len(series)} DICOM series, expected exactly one{listed}")
    (frames,) = series.values()
    # Some scanners put them into the scan's own series.
    slices = [frame for frame in frames if "LOCALIZER" not in (frame.get("ImageType") or ())] or frames
    kept = {frame.file for frame in slices}
    found.others |= {f.file: no_scan(f) or "" for f in found.frames if f.file not in kept}
    return slices


def _refuse_several(keyword: str, what: str, frames: Sequence[Frame], where: Path) -> None:
    owners = {str(value): frame for frame in frames if (value := frame.get(keyword)) is not None}
    if len(owners) > 1:
        named = ", ".join(str(frame.file) for frame in list(owners.values())[:2])
        raise CaseError(
            f"{where}: its files have {len(owners)} {keyword}s ({named}): {len(owners)} {what} in one series"
        )


def _refuse_parts(frames: Sequence[Frame], where: Path) -> None:
    """Refuse a concatenation, an image divided into several files, without some of its files."""
    totals = {frame.get("InConcatenationTotalNumber") for frame in frames} - {None}
    there = {frame.get("InConcatenationNumber") for frame in frames} - {None}
    if totals and (missing := set(range(1, max(totals) + 1)) - there):
        raise CaseError(
            f"{where}: an image in {max(totals)} files; the files with InConcatenationNumber "
            f"{', '.join(map(str, sorted(missing)))} are missing"
        )


def _is_mosaic(frame: Frame) -> bool:
    """Whether Siemens' private header calls a picture a mosaic, which survives a changed ImageType."""
    if frame.get("Modality") != "MR":
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its reader experimental
        from nibabel.nicom import csareader
    with frame.file.open("rb") as stream:
        header = read_dataset(stream, [], pixels=False)
    try:
        csa = csareader.get_csa_header(header, "image")
    except Exception:  # de-identification damages private headers; nibabel raises several types
        return False
    return csa is not None and (csareader.get_n_mosaic(csa) or 0) > 1


def _left_out(passed: Mapping[str, str]) -> str | None:
    """A remark on files that were not read, with what each is."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, kind in sorted(passed.items()):
        kinds[kind].append(name)
    named = (
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} ({kind})"
        for kind, names in kinds.items()
    )
    return f"left out: {'; '.join(named)}" if kinds else None


def _with_remarks(series: Series, *remarks: str | None) -> Series:
    return replace(series, remarks=(*series.remarks, *filter(None, remarks)))


def _is_dicom(file: Path) -> bool:
    try:
        return is_dicom(file)
    except OSError:
        return False


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit
