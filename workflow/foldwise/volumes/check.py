"""Checks of volumes and their sheet before anything runs: all problems in one message."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from foldwise import check
from foldwise.check import Checked, Findings, Produced
from foldwise.files import CaseError
from foldwise.settings import Split
from foldwise.sheet import Sheet
from foldwise.volumes.settings import Data
from foldwise.volumes.sheet import Case
from foldwise.volumes.size import Size
from foldwise.volumes.targets import unnamed
from foldwise.volumes.volume import Header, is_nifti, read_header, read_volume, same_grid, spacing_of

# Reading headers waits for the disk, above all on network file systems; label voxels need the processor.
HEADER_THREADS = 16
LABEL_THREADS = 2


def check_volumes(
    sheet: Sheet[Case],
    data: Data,
    split: Split | None,
    *,
    labels: bool,
    produced: Produced,
    needs_weight: str | None = None,
) -> Checked:
    """Check a sheet and the files that it names.

    Args:
        sheet: the sheet as read.
        data: meaning of the labels.
        split: the requested cross-validation; None: these are not all cases.
        labels: also read the labels' voxels and compare their values with `data.labels`.
        produced: whether the workflow itself produces a missing file.
        needs_weight: why every training case must have a weight map, or None.
    """
    found = Findings(sheet)
    present = check.present_files(sheet, produced, found)
    headers = _headers(present, found)
    for case in sheet.cases:
        _check_grids(case, headers, found)
    _check_channels(sheet.cases, headers, found)
    if split is not None:
        check.check_groups(sheet.cases, split, found)
    for case in sheet.cases if needs_weight else ():
        if case.trains and case.weight is None:
            what = "neither a `weight` nor a region (prepare.lung_mask or prepare.region)"
            found.add(case, f"{needs_weight}, but there is {what}")
    if labels:
        _check_labels([case for case in sheet.cases if case.label in headers], data, found)
    seen = [case for case in sheet.cases if case.images[0] in headers]
    sizes = {case.name: _size(case, headers) for case in seen}
    firsts = {case.name: headers[case.images[0]] for case in seen}
    facts = {
        name: {"shape": list(first.shape), "affine": first.affine.tolist()} for name, first in firsts.items()
    }
    return Checked(found.problems, found.warnings, sizes, facts)


def _size(case: Case, headers: dict[Path, Header]) -> Size:
    first = headers[case.images[0]]
    return Size(
        shape=first.shape[:3],
        spacing=spacing_of(first.affine),
        channels=sum(headers[path].channels for path in case.images if path in headers),
        labelled=case.labelled,
    )


def _headers(present: dict[Path, Case], found: Findings) -> dict[Path, Header]:
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
        return f"expected a 3-D volume, found shape {header.shape}"
    if not np.isfinite(header.affine).all():
        return "its affine contains NaN or infinite values"
    if min(spacing_of(header.affine)) < 1e-6 or abs(np.linalg.det(header.affine)) < 1e-12:
        return f"its voxel size is {spacing_of(header.affine)} mm, or its axes are not independent"
    return None


def _check_grids(case: Case, headers: dict[Path, Header], found: Findings) -> None:
    reference = headers.get(case.images[0])
    if reference is None:
        return
    for path in case.files[1:]:
        other = headers.get(path)
        if other is None or same_grid(reference, other):
            continue
        if other.shape[:3] != reference.shape[:3]:
            what = f"shape {other.shape} differs from the image's {reference.shape}"
        else:
            apart = np.abs(other.affine - reference.affine).max()
            what = f"its affine differs from the image's (largest difference of an entry {apart:.3g})"
        found.add(case, f"{path}: {what}; was only this file flipped or resampled?")


def _check_channels(cases: Collection[Case], headers: dict[Path, Header], found: Findings) -> None:
    counts = {
        case: sum(headers[path].channels for path in case.images)
        for case in cases
        if all(path in headers for path in case.images)
    }
    usual = max(counts.values(), key=list(counts.values()).count, default=0)
    for case, count in counts.items():
        if count != usual:
            found.add(case, f"{case.images[0]}: {count} channel(s), but the other cases have {usual}")


def _check_labels(cases: list[Case], data: Data, found: Findings) -> None:
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
            if listed := unnamed(values, counts, data.labels):
                hint = (
                    "; a 0/255 mask: set data.labels to 255, or divide the file by 255"
                    if set(values.tolist()) <= {0, 255}
                    else ""
                )
                found.add(case, f"{case.label}: label values that are not in data.labels: {listed}{hint}")
            elif not values.any():
                found.add(case, f"{case.label}: no foreground", warning=True)
