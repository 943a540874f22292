"""The data of an experiment, checked before anything runs: everything that is wrong, in one message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.forecast import Size
from foldwise.settings import Settings
from foldwise.sheet import Case, Sheet
from foldwise.volumes.volume import Header, is_nifti, read_header, read_volume, same_grid, spacing_of

# Headers wait for the disk, most of all on network file systems; label voxels for the processor.
HEADER_THREADS = 16
LABEL_THREADS = 2


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        headers: path → header, for every file that could be read.
        problems: a line each, "line N: case …", in the order of the sheet.
        warnings: remarks that stop nothing, in the same form.
    """

    headers: dict[Path, Header]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def size(self, case: Case) -> Size | None:
        """What the case's header tells the forecast; None if it was not read."""
        header = self.headers.get(case.images[0])
        if header is None:
            return None
        images = [self.headers[path] for path in case.images if path in self.headers]
        return Size(
            shape=header.shape[:3],
            spacing=spacing_of(header.affine),
            channels=sum(image.channels for image in images),
            labelled=case.label is not None,
        )

    def refuse(self, sheet: Path) -> None:
        """Raise one CaseError with every problem, if there are any."""
        if self.problems:
            lines = "\n  ".join(self.problems)
            raise CaseError(
                f"{sheet}: {len(self.problems)} problem(s)\n  {lines}\n"
                f"Mend the sheet or the files and run again; nothing was computed."
            )


def check(
    sheet: Sheet, settings: Settings, *, labels: bool, produced: Callable[[Path], bool] = lambda path: False
) -> Checked:
    """Check a sheet and the files that it names.

    Args:
        sheet: as read.
        settings: of the experiment.
        labels: also read the labels' voxels and compare their values with `data.labels`.
        produced: says of a missing file whether the workflow makes it itself.
    """
    found = _Findings()
    for problem in sheet.problems:
        found.problems.append((int(problem.split()[1].rstrip(":")), problem))
    present: dict[Path, Case] = {}
    for case in sheet.cases:
        for path in case.files:
            if path.exists():
                present[path] = case
            elif not produced(path):
                found.add(case, f"{path}: no such file")
    headers = _headers(present, found)
    for case in sheet.cases:
        _check_grids(case, headers, found)
    _check_channels(sheet.cases, headers, found)
    _check_groups(sheet.cases, settings, found)
    _check_weights(sheet.cases, settings, found)
    if labels:
        _check_labels([case for case in sheet.cases if case.label in headers], settings, found)
    return Checked(headers, found.lines(found.problems), found.lines(found.warnings))


class _Findings:
    def __init__(self) -> None:
        self.problems: list[tuple[int, str]] = []
        self.warnings: list[tuple[int, str]] = []

    def add(self, case: Case, text: str, warning: bool = False) -> None:
        line = f"line {case.line}: case {case.name}: {text}"
        (self.warnings if warning else self.problems).append((case.line, line))

    @staticmethod
    def lines(found: list[tuple[int, str]]) -> tuple[str, ...]:
        return tuple(text for _, text in sorted(found, key=lambda item: item[0]))


def _headers(present: dict[Path, Case], found: _Findings) -> dict[Path, Header]:
    def read(path: Path) -> Header | CaseError:
        try:
            return read_header(path)
        except CaseError as error:
            return error

    headers = {}
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for path, header in zip(present, pool.map(read, present), strict=True):
            if isinstance(header, Header):
                is_image = path in present[path].images
                if fault := _fault(header, image=is_image and is_nifti(path)):
                    found.add(present[path], f"{path}: {fault}")
                else:
                    headers[path] = header
            else:
                found.add(present[path], str(header))
    return headers


def _fault(header: Header, image: bool) -> str | None:
    if len(header.shape) != 3 and not (image and len(header.shape) == 4):
        return f"a 3-D volume is expected, this one has shape {header.shape}"
    if not np.isfinite(header.affine).all():
        return "its affine holds NaN or infinite values"
    if min(spacing_of(header.affine)) < 1e-6 or abs(np.linalg.det(header.affine)) < 1e-12:
        return f"its voxel size is {spacing_of(header.affine)} mm, or its axes are not independent"
    return None


def _check_grids(case: Case, headers: dict[Path, Header], found: _Findings) -> None:
    reference = headers.get(case.images[0])
    if reference is None:
        return
    for path in case.files[1:]:
        other = headers.get(path)
        if other is None or same_grid(reference, other):
            continue
        if other.shape[:3] != reference.shape[:3]:
            what = f"shape {other.shape} is not the image's {reference.shape}"
        else:
            apart = np.abs(other.affine - reference.affine).max()
            what = f"its affine is not the image's (largest difference of an entry {apart:.3g})"
        found.add(case, f"{path}: {what}; was it flipped or resampled alone?")


def _check_channels(cases: Collection[Case], headers: dict[Path, Header], found: _Findings) -> None:
    counts = {
        case: sum(headers[path].channels for path in case.images)
        for case in cases
        if all(path in headers for path in case.images)
    }
    usual = max(counts.values(), key=list(counts.values()).count, default=0)
    for case, count in counts.items():
        if count != usual:
            found.add(case, f"{case.images[0]}: {count} channel(s), the other cases have {usual}")


def _check_groups(cases: Iterable[Case], settings: Settings, found: _Findings) -> None:
    parts: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in cases:
        if case.label is not None:
            parts[case.group].setdefault(case.split, case)
    for group, members in parts.items():
        if len(members) == 2:
            first, second = members["test"], members[""]
            found.add(
                first, f"patient {group} is in the fixed test set, and in training as case {second.name}"
            )
    patients = sum("" in members for members in parts.values())
    split = settings.split
    # A fold needs a patient to test on, one to train on, and with a validation share one to choose by.
    left = patients - ceil(patients / split.folds)
    if split.file is None and (patients < split.folds or left < (2 if split.validation else 1)):
        share = " and a validation share" if split.validation else ""
        text = f"{patients} labelled patient(s) for {split.folds} folds{share}"
        found.problems.append((10**9, f"{text}; lower split.folds or add labelled cases"))


def _check_weights(cases: Collection[Case], settings: Settings, found: _Findings) -> None:
    if settings.prepare.lung_mask is not None:
        return
    names = [name for name, model in settings.models.items() if model.sampling.weighted]
    for case in cases if names else ():
        if case.trains and case.weight is None:
            found.add(
                case,
                f"model {names[0]} samples by weight, but there is neither a `weight` nor a lung mask",
            )


def _check_labels(cases: list[Case], settings: Settings, found: _Findings) -> None:
    named = {0, *settings.data.labels.values()}

    def read(case: Case) -> str | tuple[np.ndarray, np.ndarray]:
        assert case.label is not None
        try:
            return np.unique(read_volume(case.label).data, return_counts=True)
        except CaseError as error:
            return str(error)

    # One label per thread is in memory at a time.
    with ThreadPoolExecutor(LABEL_THREADS) as pool:
        for case, result in zip(cases, pool.map(read, cases), strict=True):
            if isinstance(result, str):
                found.add(case, result)
                continue
            values, counts = result
            unknown = [i for i, value in enumerate(values) if value not in named]
            if unknown:
                listed = ", ".join(f"{values[i]:g} ({counts[i]} voxels)" for i in unknown[:5])
                hint = (
                    "; a 0/255 mask: set data.labels to 255, or divide the file by 255"
                    if set(values.tolist()) <= {0, 255}
                    else ""
                )
                found.add(case, f"{case.label}: label values that data.labels does not name: {listed}{hint}")
            elif not np.isin(values, list(named - {0})).any():
                found.add(case, f"{case.label}: no foreground", warning=True)
