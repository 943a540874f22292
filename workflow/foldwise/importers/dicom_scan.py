"""The series in a folder of DICOM files, and the choice of those to import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from foldwise.files import file_hash
from foldwise.processes import processes
from foldwise.volumes.dicom_files import describe, lost_slices, read_dataset

TAGS = (
    *("Modality", "PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID"),
    *("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImageType", "SeriesDescription"),
    *("SliceThickness", "ImagePositionPatient", "NumberOfFrames"),
)
STRUCTURES = ("RTSTRUCT", "SEG")
# As many files are read sooner than processes start, which takes seconds.
FEW = 1000


@dataclass(eq=False)
class Series:
    """A series of a patient.

    Attributes:
        uid: SeriesInstanceUID.
        patient: PatientID; empty: none.
        identity: distinguishes the patient from others: the PatientID, or a space and what else there is.
        study: StudyInstanceUID.
        frame: FrameOfReferenceUID, or empty.
        modality: e.g. CT.
        description: SeriesDescription.
        thickness: slice thickness in mm; 0: unknown.
        localizer: whether these are scouts.
        slices: number of slices.
        files: files of its instances.
        instances: SOPInstanceUID → its files; some archives have one UID for all slices.
        fault: why its files cannot form one series; empty: they may.
    """

    uid: str
    patient: str
    identity: str
    study: str
    frame: str
    modality: str
    description: str
    thickness: float
    localizer: bool
    slices: int = 0
    files: list[Path] = field(default_factory=list)
    instances: dict[str, list[Path]] = field(default_factory=dict)
    fault: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its first file."""
        return self.files[0].parent

    @property
    def kind(self) -> str:
        """What it is, for the user."""
        thickness = f", {self.thickness:g} mm" if self.thickness else ""
        return f"{self.description or 'no description'} ({self.modality}{thickness})"


@dataclass(frozen=True)
class _Instance:
    """What is in a file: its series, as yet without files; SOPInstanceUID, position, and number of frames."""

    series: Series
    uid: str
    position: str
    frames: int


@dataclass(frozen=True)
class Found:
    """The contents of a DICOM folder.

    Attributes:
        series: all series apart from structures, by patient and UID.
        structures: RTSTRUCT and SEG files, each with (identity of the patient, study).
        remarks: what was left out, one line each.
        broken: unreadable files that may be slices, with the reason.
    """

    series: list[Series]
    structures: dict[Path, tuple[str, str]]
    remarks: list[str]
    broken: dict[Path, str]


@dataclass(frozen=True)
class Choice:
    """Which series are imported.

    Attributes:
        modality: of the images, e.g. CT.
        description: pattern of the SeriesDescription; `*` and `?`, case-insensitive.
        thickness: smallest and largest SliceThickness in mm; None: any.
        min_slices: series with fewer, such as scouts, are left out.
    """

    modality: str = "CT"
    description: str = "*"
    thickness: tuple[float, float] | None = None
    min_slices: int = 1

    def against(self, one: Series) -> str:
        """Why a series is left out; empty if it is imported."""
        if one.modality != self.modality:
            return f"its modality is {one.modality or 'unknown'}, not {self.modality}"
        if one.localizer:
            return "a localizer"
        if not fnmatchcase(one.description.lower(), self.description.lower()):
            return f"its description does not fit {self.description!r}"
        if self.thickness and not self.thickness[0] <= (one.thickness or -1) <= self.thickness[1]:
            least, most = self.thickness
            return f"its SliceThickness is not {least:g} to {most:g} mm"
        if one.slices < self.min_slices:
            return f"fewer than {self.min_slices} slices"
        return ""


def scan(folder: Path) -> Found:
    """Sort the files below a folder into series; only headers are read.

    Series are told apart by patient and UID, since careless de-identification gives several patients equal
    UIDs. Copies of a file count once.
    """
    everything = sorted(path for path in folder.rglob("*") if not path.is_dir())
    files = [path for path in everything if not path.name.startswith(".")]
    series: dict[tuple[str, str, bool], Series] = {}
    structures: dict[Path, tuple[str, str]] = {}
    foreign, read = [], []
    broken: dict[Path, str] = {}
    seen: dict[tuple[str, ...], Path] = {}
    with processes() as pool:
        many = len(files) > FEW
        instances = pool.map(_instance, files, chunksize=100) if many else map(_instance, files)
        for path, instance in zip(files, instances, strict=True):
            if instance is None:
                foreign.append(path)
                continue
            if isinstance(instance, str):
                broken[path] = f"cannot be read ({instance})"
                continue
            read.append(path)
            one = instance.series
            if one.modality in STRUCTURES:
                structures[path] = (one.identity, one.study)
                continue
            one = series.setdefault((one.identity, one.uid, one.localizer), one)
            # Slices that differ in their position are no copies, even if careless de-identification gave
            # them one UID.
            first = seen.setdefault((one.identity, one.uid, instance.uid, instance.position), path)
            if first is path:
                one.files.append(path)
                one.instances.setdefault(instance.uid, []).append(path)
                one.slices += instance.frames
            elif not one.fault and not _same_image(first, path):
                one.fault = (
                    f"{first} and {path} have the same UIDs and position, but other pixels; keep one, or "
                    "import their folders separately"
                )
    for one in series.values():
        folders = sorted({str(path.parent) for path in one.files})
        if not one.patient and len(folders) > 1:
            one.fault = one.fault or (
                f"its files have no PatientID and lie in {', '.join(folders)}; import them separately"
            )
    broken |= lost_slices(foreign, read)
    found = list(series.values())
    left_out = [path for path in foreign if path not in broken]
    hidden = len(everything) - len(files)
    return Found(found, structures, _remarks(found, left_out, hidden, broken), broken)


def _remarks(
    series: list[Series], foreign: Iterable[Path], hidden: int, broken: dict[Path, str]
) -> list[str]:
    remarks = []
    kinds = Counter(path.suffix.lower() or "without a suffix" for path in foreign)
    if hidden:
        kinds["hidden"] = hidden
    if kinds:
        listed = ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))
        remarks.append(f"left out, no images or structures of DICOM: {listed}")
    places = {path.parent for one in series for path in one.files}
    for where in sorted({path.parent for path in broken} - places):
        remarks.append(f"{where}: {describe({p: fault for p, fault in broken.items() if p.parent == where})}")
    shared = Counter(uid for uid, _ in {(one.uid, one.identity) for one in series})
    if several := sum(count > 1 for count in shared.values()):
        remarks.append(
            f"{several} SeriesInstanceUID(s) belong to several patients, who are told apart by PatientID"
        )
    if unknown := {one.study for one in series if not one.patient}:
        remarks.append(f"{len(unknown)} studies have no PatientID; each counts as another patient")
    return remarks


def _instance(path: Path) -> _Instance | str | None:
    """The instance in a file; a text: why it cannot be read; None: it has none, such as a DICOMDIR."""
    try:
        with path.open("rb") as stream:
            dataset = read_dataset(stream, list(TAGS), pixels=False)
        if "SeriesInstanceUID" not in dataset:
            kind = dataset.file_meta.get("MediaStorageSOPClassUID")
            image = kind is not None and "Image Storage" in kind.name
            return "it has no SeriesInstanceUID; is it truncated?" if image else None
        return _Instance(
            _series(dataset),
            str(dataset.get("SOPInstanceUID")),
            str(dataset.get("ImagePositionPatient")),
            int(dataset.get("NumberOfFrames") or 1),
        )
    except InvalidDicomError:
        return None
    except Exception as error:  # pydicom raises many types for broken files
        return str(error)


def _series(dataset: pydicom.Dataset) -> Series:
    def text(keyword: str) -> str:
        return str(dataset.get(keyword) or "").strip()

    patient = text("PatientID")
    keywords = ("PatientName", "PatientBirthDate", "StudyInstanceUID")
    return Series(
        uid=text("SeriesInstanceUID"),
        patient=patient,
        identity=patient or " " + " ".join(map(text, keywords)),
        study=text("StudyInstanceUID"),
        frame=text("FrameOfReferenceUID"),
        modality=text("Modality"),
        description=text("SeriesDescription"),
        thickness=float(dataset.get("SliceThickness") or 0),
        localizer="LOCALIZER" in (dataset.get("ImageType") or []),
    )


def _same_image(first: Path, second: Path) -> bool:
    """Whether two files hold the same pixels, whatever their further headers."""
    if file_hash(first) == file_hash(second):
        return True
    try:
        pixels = [pydicom.dcmread(path).get("PixelData") for path in (first, second)]
    except Exception:  # pydicom raises many types for broken files
        return False
    return pixels[0] is not None and pixels[0] == pixels[1]
