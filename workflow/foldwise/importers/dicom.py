"""Import a folder of DICOM files: images with the RTSTRUCT and SEG objects that refer to them.

  python -m foldwise.importers.dicom archive --sheet data/lung.csv     # lists the structures
  python -m foldwise.importers.dicom archive --sheet data/lung.csv --structures 'Lung_*=lung,GTV*=tumour'

Every image series of the given modality is a case. A folder next to the sheet receives `series/<case>/`
with links to the series' files in their original place, and `labels/<case>.nii.gz` on the series' grid.
Structures are selected by patterns of their names (`*` and `?`; case-insensitive); where two classes
overlap, the later one wins. A case's name is its patient's ID and a hash of its series; patients' names are
never written.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from foldwise.command import run, written
from foldwise.files import CaseError, atomic_folder, put_back, refuse_foreign, short_hash
from foldwise.importers.sheets import Dataset, Row, clean, importer, publish, refuse, targets
from foldwise.volumes.check import HEADER_THREADS
from foldwise.volumes.dicom_files import describe, lost_slices
from foldwise.volumes.dicom_masks import contour_mask, gaps, segment_mask
from foldwise.volumes.dicom_series import read_series
from foldwise.volumes.volume import Header, Volume, series_header, write_volume

TAGS = (
    *("Modality", "PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
    *("FrameOfReferenceUID", "ImageType", "SeriesDescription", "SliceThickness", "ImagePositionPatient"),
)
# Elements that distinguish another slice from a copy of a file.
SAME = ("SeriesInstanceUID", "SOPInstanceUID", "PatientID", "ImagePositionPatient")
LOG = logging.getLogger(__name__)


@dataclass
class Series:
    """An image series.

    Attributes:
        uid: SeriesInstanceUID.
        frame: FrameOfReferenceUID, or empty.
        patient: pseudonym or ID.
        thickness: slice thickness in mm; 0: unknown.
        files: files of its instances.
        instances: their SOPInstanceUIDs.
    """

    uid: str
    frame: str
    patient: str
    thickness: float
    files: list[Path] = field(default_factory=list)
    instances: set[str] = field(default_factory=set)

    @property
    def case(self) -> str:
        """Its name in the sheet: stable, independent of other imports."""
        return f"{self.patient}_{short_hash(self.uid)}"


@dataclass(frozen=True)
class Found:
    """The contents of a DICOM folder.

    Attributes:
        series: image series by SeriesInstanceUID.
        structures: RTSTRUCT and SEG files.
        remarks: what was left out, one line each.
        broken: unreadable files that may be slices, with the reason.
    """

    series: dict[str, Series]
    structures: list[Path]
    remarks: list[str]
    broken: dict[Path, str]


@dataclass(frozen=True)
class Structures:
    """An RTSTRUCT or SEG object, without its contours or voxels.

    Attributes:
        path: its file.
        names: number of a structure → its name.
        series: SeriesInstanceUIDs that it refers to.
        instances: SOPInstanceUIDs that it refers to.
        frames: its frames of reference.
    """

    path: Path
    names: dict[int, str]
    series: frozenset[str]
    instances: frozenset[str]
    frames: frozenset[str]


def scan(folder: Path, modality: str, min_slices: int = 1, description: str = "*") -> Found:
    """Sort the files below a folder by type; only headers are read.

    Args:
        folder: with DICOM files at any depth; hidden files and other types are skipped.
        modality: modality of the images, e.g. CT.
        min_slices: series with fewer, such as scouts, are left out.
        description: pattern of the SeriesDescription to select.
    """
    files = sorted(p for p in folder.rglob("*") if not (p.is_dir() or p.name.startswith(".")))
    series: dict[str, Series] = {}
    structures, foreign, read = [], [], []
    broken: dict[Path, str] = {}
    seen = set()

    def wanted(dataset: pydicom.Dataset) -> bool:
        called = str(dataset.get("SeriesDescription") or "").lower()
        return "LOCALIZER" not in (dataset.get("ImageType") or []) and fnmatchcase(
            called, description.lower()
        )

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for path, dataset in zip(files, pool.map(_header, files), strict=True):
            if not isinstance(dataset, pydicom.Dataset):
                if isinstance(dataset, InvalidDicomError):
                    foreign.append(path)
                else:
                    broken[path] = f"cannot be read ({dataset})"
                continue
            if "SeriesInstanceUID" not in dataset:  # such as a DICOMDIR
                continue
            read.append(path)
            kind = str(dataset.get("Modality", ""))
            if kind in ("RTSTRUCT", "SEG"):
                structures.append(path)
            elif kind == modality and wanted(dataset):
                uid = str(dataset.SeriesInstanceUID)
                one = series.setdefault(uid, _series(uid, dataset))
                # Copies of files are common in archives; equal UIDs alone may result from careless
                # de-identification.
                copy = tuple(str(dataset.get(keyword)) for keyword in SAME)
                if copy not in seen:
                    seen.add(copy)
                    one.files.append(path)
                    one.instances.add(str(dataset.get("SOPInstanceUID")))
    broken |= lost_slices(foreign, read)
    few = {uid: one for uid, one in series.items() if len(one.files) < min_slices}
    remarks = [
        f"{one.files[0].parent}: a series of {len(one.files)} slices, left out" for one in few.values()
    ]
    places = {path.parent for one in series.values() for path in one.files}
    lonely = {path.parent for path in broken} - places
    for where in sorted(lonely):
        faults = {path: fault for path, fault in broken.items() if path.parent == where}
        remarks.append(f"{where}: {describe(faults)}")
    return Found({uid: one for uid, one in series.items() if uid not in few}, structures, remarks, broken)


def _header(path: Path) -> pydicom.Dataset | Exception:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        kind = dataset.file_meta.get("MediaStorageSOPClassUID")
        if kind is not None and "Image Storage" in kind.name and "SeriesInstanceUID" not in dataset:
            return CaseError("it has no SeriesInstanceUID; is it truncated?")
        return dataset
    except Exception as error:  # pydicom raises many types for broken files
        return error


def _series(uid: str, dataset: pydicom.Dataset) -> Series:
    return Series(
        uid,
        str(dataset.get("FrameOfReferenceUID") or ""),
        pseudonym(dataset),
        float(dataset.get("SliceThickness") or 0),
    )


def pseudonym(dataset: pydicom.Dataset) -> str:
    """The patient's ID as a name; a hash instead if the ID contains the patient's name, or is missing."""
    identity = str(dataset.get("PatientID") or "").strip()
    # Real names contain no digits; names in pseudonymised archives do, and equal the ID.
    words = re.findall(r"[^\W\d_]{3,}", str(dataset.get("PatientName") or ""))
    named = not re.search(r"\d", str(dataset.get("PatientName") or "")) and any(
        word.lower() in identity.lower() for word in words
    )
    if identity and not named:
        return clean(identity)
    return f"patient_{short_hash(identity or str(dataset.get('StudyInstanceUID')))}"


def read_structures(path: Path) -> Structures:
    """Read the contents and references of an RTSTRUCT or SEG.

    Raises:
        CaseError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # pydicom skips missing parts of a truncated file, e.g. whole structures.
            warnings.filterwarnings("error", message="End of file")
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if dataset.Modality == "SEG":
            names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
        else:
            names = {int(s.ROINumber): str(s.ROIName) for s in dataset.StructureSetROISequence}
            # The number follows the contours, so it is missing from a truncated file.
            if not all("ReferencedROINumber" in drawn for drawn in dataset.ROIContourSequence):
                raise EOFError("it is truncated")
        return Structures(
            path,
            names,
            _values(dataset, "SeriesInstanceUID") - {str(dataset.SeriesInstanceUID)},
            _values(dataset, "ReferencedSOPInstanceUID"),
            _values(dataset, "FrameOfReferenceUID") | _values(dataset, "ReferencedFrameOfReferenceUID"),
        )
    except Exception as error:  # pydicom raises many types for broken files
        raise CaseError(f"{path}: not readable as RTSTRUCT or SEG ({error})") from error


def referenced(structures: Structures, series: Iterable[Series]) -> Series | None:
    """The image series that an object belongs to, or None if it is missing.

    Raises:
        CaseError: several series match, or its frame of reference differs from its series'.
    """
    series, frames = list(series), structures.frames
    fitting = [one for one in series if one.uid in structures.series]
    fitting = fitting or [one for one in series if one.instances & structures.instances]
    if not fitting and not structures.series:
        # The object gives only its frame of reference; that is enough if exactly one series has it.
        fitting = [one for one in series if one.frame and one.frame in frames]
    if len(fitting) > 1:
        raise CaseError(f"{structures.path}: refers to {len(fitting)} image series; the right one is unclear")
    if fitting and frames and fitting[0].frame and fitting[0].frame not in frames:
        raise CaseError(
            f"{structures.path}: its frame of reference differs from that of the series it refers to"
        )
    return fitting[0] if fitting else None


def _values(dataset: pydicom.Dataset, keyword: str) -> frozenset[str]:
    return frozenset(str(element.value) for element in _walk(dataset, keyword))


def _walk(dataset: pydicom.Dataset, keyword: str) -> Iterator[pydicom.DataElement]:
    """Every element with a name, at any depth, except in contours and frames, which are many."""
    for element in dataset:
        if element.keyword == keyword:
            yield element
        elif element.VR == "SQ" and element.keyword not in (
            "ROIContourSequence",
            "PerFrameFunctionalGroupsSequence",
        ):
            for item in element.value:
                yield from _walk(item, keyword)


def parse_structures(text: str) -> list[tuple[str, str]]:
    """(pattern, class) pairs from "GTV*=tumour,Lung_L=lung".

    Raises:
        CaseError: an entry does not have that form.
    """
    pairs = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, name = entry.rpartition("=")
        if not equals or not pattern.strip() or clean(name) != name.strip():
            raise CaseError(f"--structures: {entry!r} does not have the form 'pattern=class'")
        pairs.append((pattern.strip().lower(), name.strip()))
    return pairs


def label_map(
    objects: Sequence[Structures], wanted: Sequence[tuple[str, str]], header: Header, thickness: float = 0
) -> tuple[np.ndarray, set[str]]:
    """The label map of a series, and the classes in its objects.

    Args:
        objects: objects that refer to the series.
        wanted: (pattern, class) pairs; classes are numbered from 1 in the order of their first mention.
        header: header of the series.
        thickness: thickness of its slices, in mm.

    Raises:
        CaseError: a structure does not fit the series, or two objects contain the same class.
    """
    masks = _Masks(header, thickness)
    classes = list(dict.fromkeys(name for _, name in wanted))
    labels = np.zeros(header.shape, np.uint8 if len(classes) < 256 else np.uint16)
    seen = set()
    for value, name in enumerate(classes, start=1):
        patterns = [pattern for pattern, of in wanted if of == name]
        matching = [
            (held, number)
            for held in objects
            for number, called in held.names.items()
            if any(fnmatchcase(called.lower(), pattern) for pattern in patterns)
        ]
        if len({held.path for held, _ in matching}) > 1:
            paths = ", ".join(sorted({str(held.path) for held, _ in matching}))
            raise CaseError(f"class {name} is in several objects; keep one of {paths}")
        for held, number in matching:
            seen.add(name)
            labels[masks(held, number)] = value
    return labels, seen


class _Masks:
    """Masks of structures on one series' grid; each object is read once, and released with the series."""

    def __init__(self, header: Header, thickness: float) -> None:
        self.header, self.thickness = header, thickness
        self._read: dict[Path, pydicom.Dataset] = {}

    def __call__(self, held: Structures, number: int) -> np.ndarray:
        if held.path not in self._read:
            self._read[held.path] = self._load(held.path)
        dataset = self._read[held.path]
        if isinstance(dataset, hd.seg.Segmentation):
            return segment_mask(dataset, number, self.header, held.path)
        drawn = [
            contour
            for roi in dataset.get("ROIContourSequence", [])
            if int(roi.ReferencedROINumber) == number
            for contour in roi.get("ContourSequence", [])
        ]
        if not drawn:  # planned, but empty: no voxels
            return np.zeros(self.header.shape, bool)
        name = f"{held.path}: structure {held.names[number]}"
        mask = contour_mask(drawn, name, self.header, self.thickness)
        if remark := gaps(mask):
            LOG.warning("%s %s", name, remark)
        return mask

    @staticmethod
    def _load(path: Path) -> pydicom.Dataset:
        try:
            dataset = pydicom.dcmread(path)
            is_seg = dataset.Modality == "SEG"
            return hd.seg.Segmentation.from_dataset(dataset, copy=False) if is_seg else dataset
        except Exception as error:  # highdicom is strict, and raises many types
            raise CaseError(f"{path}: not readable as RTSTRUCT or SEG ({error})") from error


def import_folder(
    folder: Path,
    out: Path,
    modality: str,
    structures: str,
    min_slices: int = 1,
    skip_broken: bool = False,
    description: str = "*",
) -> tuple[Dataset, list[str]]:
    """Link the series of a folder and write their label maps.

    Args:
        folder: with DICOM files at any depth.
        out: folder to write, with subfolders `series` and `labels`.
        modality: modality of the images.
        structures: in the form of `parse_structures`.
        min_slices: series with fewer are left out.
        skip_broken: leave out unusable series instead of stopping.
        description: pattern of the SeriesDescription to select.

    Returns:
        The cases, and remarks for the user.

    Raises:
        CaseError: all problems.
    """
    found = scan(folder, modality, min_slices, description)
    if not found.series:
        kinds = f"{len(found.structures)} RTSTRUCT or SEG" if found.structures else "nothing usable"
        raise CaseError(f"{folder}: no {modality} series ({kinds}); give --modality")
    remarks, problems, objects = list(found.remarks), [], []
    for path in found.structures:
        try:
            objects.append(read_structures(path))
        except CaseError as error:
            problems.append(str(error))
    wanted = parse_structures(structures)
    if not objects:
        refuse([*problems, *(f"{path}: {fault}" for path, fault in found.broken.items())], folder)
    _refuse_unmatched(folder, objects, wanted)
    belonging: dict[str, list[Structures]] = defaultdict(list)
    for held in objects:
        try:
            one = referenced(held, found.series.values())
        except CaseError as error:
            problems.append(str(error))
            continue
        if one is None:
            remarks.append(f"{held.path}: the {modality} series that it refers to is missing")
        else:
            belonging[one.uid].append(held)
    classes = {name: i for i, name in enumerate(dict.fromkeys(name for _, name in wanted), start=1)}
    rows = []
    with atomic_folder(out) as temporary:
        for one in sorted(found.series.values(), key=lambda series: series.case):
            LOG.info("case %s: %d slices", one.case, len(one.files))
            links = temporary / "series" / one.case
            links.mkdir(parents=True)
            for i, path in enumerate(one.files):
                (links / f"{i:05d}.dcm").symlink_to(path.resolve())
            where = one.files[0].parent
            try:
                folders = {file.parent for file in one.files}
                if lost := {p: fault for p, fault in found.broken.items() if p.parent in folders}:
                    raise CaseError(f"{where}: {describe(lost)}")
                header = series_header(read_series(one.files, where))
                labels, seen = label_map(belonging[one.uid], wanted, header, one.thickness)
            except CaseError as error:
                shutil.rmtree(links)
                problems.append(f"case {one.case}: {error}")
                continue
            for name in [name for name in classes if seen and name not in seen]:
                remarks.append(f"case {one.case}: no structure for {name}; its voxels count as background")
            label = Path("labels") / f"{one.case}.nii.gz"
            if seen:
                write_volume(Volume(labels, header.affine), temporary / label)
            rows.append(
                Row(one.case, {"": out / "series" / one.case}, out / label if seen else None, one.patient)
            )
        if skip_broken:
            remarks += [f"left out: {problem}" for problem in problems]
        else:
            refuse(problems, f"{folder} (--skip-broken leaves such series out)")
    return Dataset(rows, classes, ct=modality == "CT"), remarks


def _refuse_unmatched(folder: Path, objects: list[Structures], wanted: list[tuple[str, str]]) -> None:
    names = Counter(name for held in objects for name in set(held.names.values()))
    listed = "\n  ".join(f"{name} ({count})" for name, count in sorted(names.items())) or "none"
    if not wanted:
        raise CaseError(f"{folder}: --structures is required; found (number of objects):\n  {listed}")
    for pattern, _ in wanted:
        if not any(fnmatchcase(name.lower(), pattern) for name in names):
            raise CaseError(f"--structures: {pattern!r} matches none; found (number of objects):\n  {listed}")


def _parse() -> argparse.Namespace:
    arguments = importer(__doc__)
    arguments.add_argument(
        "--structures", default="", help="e.g. 'Lung_*=lung,GTV*=tumour'; default: list the structures"
    )
    arguments.add_argument("--modality", default="CT", help="modality of the images (default CT)")
    arguments.add_argument(
        "--series", default="*", help="pattern of the images' SeriesDescription, e.g. '*T1*'"
    )
    arguments.add_argument(
        "--out", type=written, help="folder of links and labels (default: the sheet's name)"
    )
    arguments.add_argument(
        "--min-slices",
        type=int,
        default=5,
        help="leave out series with fewer slices, such as scouts (default 5)",
    )
    arguments.add_argument(
        "--skip-broken", action="store_true", help="leave out unusable series, with a warning"
    )
    return arguments.parse_args()


def main() -> None:
    """Read the command line."""
    args = _parse()
    out = args.out or args.sheet.with_suffix("")
    targets(args, out)
    refuse_foreign(out)
    with put_back(out):
        dataset, remarks = import_folder(
            args.folder, out, args.modality, args.structures, args.min_slices, args.skip_broken, args.series
        )
        for remark in remarks:
            print(f"warning: {remark}")
        publish(dataset, args)


if __name__ == "__main__":
    run(main)
