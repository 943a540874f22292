"""Label files: their values, and the segments of 3D Slicer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes import segments
from foldwise.volumes.segments import Segmentation, read_segmentation
from foldwise.volumes.targets import Targets, label_type
from foldwise.volumes.volume import Header, Volume, read_header, read_volume


def label_header(path: Path) -> Header:
    """A label file's header; that of a segmentation of 3D Slicer knows its segments.

    Raises:
        CaseError: as for `read_header`; also a segmentation with faults.
    """
    return read_segmentation(path) or read_header(path)


def check_label(header: Header, targets: Targets, grid: Header) -> list[str]:
    """Check a segmentation of 3D Slicer by its header, and return remarks; other files have none.

    Raises:
        CaseError: its segments are not those of `targets`, or its voxels are not the grid's.
    """
    if not isinstance(header, Segmentation):
        return []
    segments.placed(header, grid)
    return segments.chosen(header, targets)[1]


def read_labels(
    path: Path,
    targets: Targets,
    grid: Header | Volume,
    say: Callable[[str], None] = lambda remark: None,
) -> Volume:
    """Read a label file as a label map with the values of `targets.labels`, in the smallest type for them.

    Args:
        path: a label map on any grid, or a segmentation of 3D Slicer.
        targets: meaning of its values or segments.
        grid: the case's image; a segmentation is placed on its grid.
        say: takes remarks on segments.

    Raises:
        CaseError: it contains values that are not in `targets.labels`, or its segments do not fit.
    """
    if found := read_segmentation(path):
        labels, remarks = segments.label_map(found, targets, grid)
        for remark in remarks:
            say(f"{path}: {remark}")
        return labels
    volume = read_volume(path)
    values, counts = np.unique(volume.data.ravel(order="K"), return_counts=True)
    whole = _whole(values)
    if listed := _unnamed(whole, counts, targets):
        raise CaseError(
            f"{path}: label values that are not in data.labels: {listed}; known: {targets.labels}"
            f"{_hint(whole)}"
        )
    data = volume.data if volume.data.dtype.kind in "biu" else np.rint(volume.data)
    return Volume(data.astype(label_type(max(targets.labels.values()))), volume.affine)


def labelled(path: Path, grid: Header | Volume, ignore: int | None = None) -> np.ndarray:
    """The voxels (x, y, z) of a label file that have any label, except `ignore`, its value or its segment.

    Raises:
        CaseError: the file cannot be read, or is a segmentation whose voxels are not the grid's.
    """
    if found := read_segmentation(path):
        return segments.labelled(found, grid)
    data = read_volume(path).data
    return (data != 0) if ignore is None else (data != 0) & (data != ignore)


def absent_classes(held: Mapping[str, Collection[str]], targets: Targets) -> list[str]:
    """A line for each class that is in no label of the training cases.

    Args:
        held: training case → the classes in its label.
        targets: with all classes.

    Raises:
        CaseError: no label has a voxel of any class.
    """
    present = {name for classes in held.values() for name in classes}
    if not present & targets.classes.keys():
        raise CaseError(
            f"none of the {len(held)} labels of the training cases has a voxel of "
            f"{', '.join(targets.classes)}: nothing can be learnt; are these the right files, and is "
            f"data.labels right?"
        )
    return [
        f"class {name} is in none of the {len(held)} labels of the training cases: it cannot be learnt"
        for name in targets.classes
        if name not in present
    ]


def _whole(values: np.ndarray) -> np.ndarray:
    """Values with those that are whole numbers but for the rounding of float32, as that of a file's slope."""
    if values.dtype.kind in "biu":
        return values
    nearest = np.rint(values)
    with np.errstate(over="ignore", invalid="ignore"):
        close = np.abs(values - nearest) <= 2 * np.spacing(np.maximum(np.abs(values), 1).astype(np.float32))
    return np.where(close, nearest, values)


def _unnamed(values: np.ndarray, counts: np.ndarray, targets: Targets) -> str:
    """The first values that are neither in `targets.labels` nor 0, with their voxels; "" without any."""
    named = {0, *targets.labels.values()}
    found = [(v, n) for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v not in named]
    return ", ".join(
        f"{value:{'.12g' if value % 1 else '.0f'}} ({count} voxels)" for value, count in found[:5]
    )


def _hint(values: np.ndarray) -> str:
    if set(values.tolist()) <= {0, 255}:
        return "; a 0/255 mask: set data.labels to 255, or divide the file by 255"
    if values.dtype.kind == "f" and (np.rint(values) != values).any():
        return "; values that are not whole come from interpolation: resample labels by nearest neighbour"
    return ""
