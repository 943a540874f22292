"""Checks of volumes and their sheet before anything runs: all problems in one message."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from foldwise import check
from foldwise.check import Checked, Findings, Produced
from foldwise.experiment.settings import Split
from foldwise.files import CaseError
from foldwise.sheet import Sheet
from foldwise.store import Memory
from foldwise.twins import check_twins
from foldwise.volumes import segments
from foldwise.volumes.grids import is_sheared, spacing_of, straight_grid
from foldwise.volumes.headers import known_headers
from foldwise.volumes.labels import absent_classes, check_label, read_labels
from foldwise.volumes.segments import Segmentation
from foldwise.volumes.settings import Cache, Data
from foldwise.volumes.sheet import Case
from foldwise.volumes.size import Size
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Header, Volume, is_dicom_folder, same_grid

LABEL_THREADS = 2
NO_SEG = "export.dicom_seg is set, but a DICOM Segmentation cannot refer to the series"


def check_volumes(
    sheet: Sheet[Case],
    data: Data,
    split: Split | None,
    *,
    labels: bool,
    memory: Memory,
    produced: Produced,
    needs_weight: str | None = None,
    writes_seg: bool = False,
    cache: Cache | None = None,
) -> Checked:
    """Check a sheet and the files that it names.

    Args:
        sheet: the sheet as read.
        data: meaning of the labels.
        split: the requested cross-validation; None: these are not all cases.
        memory: headers that earlier calls read.
        labels: also read the labels' voxels and compare their values with `data.labels`.
        produced: whether the workflow itself produces a missing file.
        needs_weight: why every training case must have a weight map, or None.
        writes_seg: whether a DICOM Segmentation must be able to refer to every DICOM series.
        cache: with `labels`, forecast what its spacing loses.
    """
    found = Findings(sheet)
    present = check.present_files(sheet, produced, found)
    headers = _headers(present, memory, found)
    for case in sheet.cases:
        _check_grids(case, headers, data.targets(), found, remarks=not labels)
    _check_channels(sheet.cases, headers, found)
    check_twins([case for case in sheet.cases if case.images[0] in headers], memory, found)
    if split is not None:
        check.check_groups(sheet.cases, split, found)
    for case in sheet.cases if needs_weight else ():
        if case.trains and case.weight is None:
            what = "neither a `weight` nor a region (prepare.lung_mask or prepare.region)"
            found.add(case, f"{needs_weight}, but there is {what}")
    for case in sheet.cases if writes_seg else ():
        if case.images[0] in headers and (why := headers[case.images[0]].no_seg):
            found.add(case, f"{case.images[0]}: {NO_SEG}: {why}")
    if labels:
        seen = [case for case in sheet.cases if case.label in headers and case.images[0] in headers]
        counted = _check_labels(seen, data.targets(), headers, cache or Cache(), found)
        if split is not None and counted and len(counted) == sum(case.trains for case in sheet.cases):
            _check_classes(counted, data.targets(), found)
    seen = [case for case in sheet.cases if case.images[0] in headers]
    sizes = {case.name: _size(case, headers) for case in seen}
    firsts = {case.name: headers[case.images[0]] for case in seen}
    facts = {
        name: {"shape": list(first.shape), "affine": first.affine.tolist()} for name, first in firsts.items()
    }
    return Checked(found.problems, found.warnings, sizes, facts)


def no_seg(images: Mapping[str, Path], memory: Memory) -> list[str]:
    """New scans to which a DICOM Segmentation cannot refer, with the reasons.

    Args:
        images: case → its first image. One that cannot be read is left to its job, which names it and
            predicts the others.
        memory: headers that earlier calls read.
    """
    headers = known_headers(filter(is_dicom_folder, images.values()), memory)
    return [
        f"predict: case {case}: {path}: {NO_SEG}: {header.no_seg}"
        for case, path in images.items()
        if isinstance(header := headers.get(path), Header) and header.no_seg
    ]


def _size(case: Case, headers: dict[Path, Header]) -> Size:
    first = headers[case.images[0]]
    shape, affine = first.shape[:3], first.affine
    if is_sheared(affine):
        grid = straight_grid(affine, shape)  # it has more voxels than the source
        shape, affine = grid.shape, grid.matrix
    return Size(
        shape=shape,
        spacing=spacing_of(affine),
        channels=sum(headers[path].channels for path in case.images if path in headers),
        labelled=case.labelled,
        voxel_bytes=4 if first.dtype.kind == "f" else min(2, first.dtype.itemsize),
    )


def _headers(present: dict[Path, Case], memory: Memory, found: Findings) -> dict[Path, Header]:
    """Headers of the files that are volumes; others are problems."""
    may_have_segments = {
        path
        for path, case in present.items()
        if path == case.label and path.name.lower().endswith(segments.SUFFIXES)
    }
    headers = {}
    for path, header in known_headers(present, memory, may_have_segments).items():
        case = present[path]
        if isinstance(header, CaseError):
            found.add(case, str(header))
            continue
        for remark in header.remarks:
            found.add(case, f"{path}: {remark}", warning=True)
        if fault := _fault(header, image=path in case.images):
            found.add(case, f"{path}: {fault}")
        else:
            headers[path] = header
    return headers


def _fault(header: Header, image: bool) -> str | None:
    if len(header.shape) == 4 and not image:
        return (
            f"expected a 3-D volume with one value per voxel, found {header.channels} components or channels"
        )
    if len(header.shape) not in (3, 4):
        return f"expected a 3-D volume, found shape {header.shape}"
    return None


def _check_grids(
    case: Case, headers: dict[Path, Header], targets: Targets, found: Findings, *, remarks: bool
) -> None:
    reference = headers.get(case.images[0])
    if reference is None:
        return
    for path in case.files[1:]:
        other = headers.get(path)
        if isinstance(other, Segmentation):
            try:
                said = check_label(other, targets, reference)
            except CaseError as error:
                found.add(case, str(error))
            else:
                for remark in said if remarks else ():
                    found.add(case, f"{path}: {remark}", warning=True)
            continue
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


def _check_labels(
    cases: list[Case], targets: Targets, headers: dict[Path, Header], cache: Cache, found: Findings
) -> dict[str, set[str]]:
    """Check the voxels of labels; returns the classes in that of each training case whose label is right."""
    # Imported only here, since every call reads headers, and these take half a second to import.
    from foldwise.volumes.geometry import Box, Lineage, int3
    from foldwise.volumes.instances import losses

    def read(case: Case) -> tuple[set[str], list[str]] | str:
        assert case.label is not None
        said: list[str] = []
        try:
            label = read_labels(case.label, targets, headers[case.images[0]], said.append)
        except CaseError as error:
            return str(error)
        if targets.ignore is not None and (label.data == targets.ignore).all():
            said.append(f"{case.label}: every voxel is to be ignored; leave the case out")
        values = set(np.unique(label.data).tolist())
        classes = {name for name, value in targets.classes.items() if value in values}
        if not classes:
            said.append(f"{case.label}: no foreground")
        shape = int3(label.data.shape)
        native = Lineage.of(shape, label.affine, Box((0, 0, 0), shape))
        turned = Volume(native.labels_to_cache(label.data), native.cached_affine)
        lost = losses(turned, native.resized(cache.shape, cache.spacing).shape, targets.classes)
        if lost.text:
            said.append(f"{case.label}: {lost.text}")
        return classes, said

    held = {}
    # One label per thread is in memory at a time.
    with ThreadPoolExecutor(LABEL_THREADS) as pool:
        for case, result in zip(cases, pool.map(read, cases), strict=True):
            if isinstance(result, str):
                found.add(case, result)
                continue
            classes, said = result
            if case.trains:
                held[case.name] = classes
            for text in said:
                found.add(case, text, warning=True)
    return held


def _check_classes(held: dict[str, set[str]], targets: Targets, found: Findings) -> None:
    """Find classes that are in no label of the training cases."""
    try:
        for text in absent_classes(held, targets):
            found.add_general(text, warning=True)
    except CaseError as error:
        found.add_general(str(error))
