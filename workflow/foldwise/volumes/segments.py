"""Segmentations of 3D Slicer (.seg.nrrd): named segments, in layers, on a part of an image's grid.

The format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.placing import laid, turned
from foldwise.volumes.targets import IGNORE, Targets, label_type
from foldwise.volumes.volume import Header, Volume, reader_of

SUFFIXES = (".nrrd", ".nhdr")
# Names of a segment and a class that are more similar than this may be one name with a slip.
SIMILAR = 0.7


@dataclass(frozen=True)
class Segment:
    """A segment: the voxels of a layer that have a value.

    Attributes:
        name: its name.
        value: of its voxels.
        layer: its layer, from 0.
        colour: red, green and blue, 0 to 255; None: the file has none.
    """

    name: str
    value: int
    layer: int
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Segmentation(Header):
    """The header of a segmentation.

    Attributes:
        path: its file.
        segments: its segments.
    """

    path: Path
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, header: Header, path: Path, segments: Iterable[Sequence[Any]]) -> Segmentation:
        """A header with the values of its segments' attributes."""
        found = tuple(
            Segment(name, value, layer, None if colour is None else tuple(colour))
            for name, value, layer, colour in segments
        )
        return cls(header.shape, header.affine, header.dtype, header.remarks, path=path, segments=found)


def read_segmentation(path: Path) -> Segmentation | None:
    """The header of a segmentation of 3D Slicer; None for any other file.

    Raises:
        CaseError: it is not three-dimensional, or two segments are the same voxels.
    """
    if not path.name.lower().endswith(SUFFIXES) or not path.is_file():
        return None
    try:
        reader, keys = reader_of(path).information(path)
    except RuntimeError:  # named as a volume that is not readable
        return None
    numbers = sorted(int(found[1]) for key in keys if (found := re.fullmatch(r"Segment(\d+)_ID", key)))
    if not numbers:
        return None
    if reader.GetDimension() != 3:
        raise CaseError(f"{path}: expected a 3-D segmentation, found {reader.GetDimension()} dimensions")
    try:
        segments = tuple(_segment(keys, number) for number in numbers)
    except ValueError as error:
        raise CaseError(f"{path}: a segment's layer or value is no whole number ({error})") from None
    places = Counter((segment.layer, segment.value) for segment in segments)
    (place, count), *_ = places.most_common(1)
    if count > 1:
        names = ", ".join(s.name for s in segments if (s.layer, s.value) == place)
        raise CaseError(f"{path}: the segments {names} have the same value in the same layer")
    dtype = np.dtype(label_type(max(segment.value for segment in segments)))
    shape, affine, _, remarks = reader_of(path).read_header(path)
    return Segmentation(shape[:3], affine, dtype, remarks, path=path, segments=segments)


def _segment(keys: Mapping[str, str], number: int) -> Segment:
    start = f"Segment{number}_"
    # The first versions of the format had neither values nor layers: a segment was a layer.
    value, layer = keys.get(f"{start}LabelValue", "1"), keys.get(f"{start}Layer", str(number))
    name = keys.get(f"{start}Name", f"Segment_{number}")
    return Segment(name, int(value), int(layer), _colour(keys.get(f"{start}Color", "")))


def _colour(text: str) -> tuple[int, int, int] | None:
    """A colour from three numbers between 0 and 1; None if the text is anything else."""
    try:
        red, green, blue = (round(255 * float(part)) for part in text.split())
    except ValueError:
        return None
    return (red, green, blue) if 0 <= min(red, green, blue) <= max(red, green, blue) <= 255 else None


def chosen(found: Segmentation, targets: Targets) -> tuple[dict[str, list[Segment]], list[str]]:
    """The segments of each class and of `ignore`, and remarks on the others.

    A segment belongs to the class that has its name, apart from case, spaces and punctuation. If no segment
    has the name of a class, the values decide.

    Raises:
        CaseError: a segment's name is almost a class's, or the values do not determine the segments.
    """
    named = {name: [s for s in found.segments if _means(s.name, name, targets)] for name in targets.labels}
    taken = [segment for segments in named.values() for segment in segments]
    others = [segment for segment in found.segments if segment not in taken]
    for segment in others:
        absent = {_plain(name): name for name, segments in named.items() if not segments}
        if near := difflib.get_close_matches(_plain(segment.name), absent, n=1, cutoff=SIMILAR):
            raise CaseError(
                f"{found.path}: segment {segment.name!r} is no class of data.labels; is it "
                f"{absent[near[0]]}? Rename the segment, or the class"
            )
    listed = ", ".join(f"{segment.name!r}" for segment in others)
    if taken:
        return named, [f"segments that are no class of data.labels are left out: {listed}"] if others else []
    values = Counter(segment.value for segment in found.segments)
    if several := [value for value, count in values.items() if count > 1]:
        raise CaseError(
            f"{found.path}: no segment has the name of a class ({', '.join(targets.labels)}), and "
            f"{values[several[0]]} of them, in several layers, have the value {several[0]}; its segments: "
            f"{listed}"
        )
    known = {value: name for name, value in targets.labels.items()}
    if unknown := [segment for segment in found.segments if segment.value not in known]:
        raise CaseError(
            f"{found.path}: segment {unknown[0].name!r} has neither the name nor the value "
            f"({unknown[0].value}) of a class; data.labels: {targets.labels}"
        )
    pairs = ", ".join(f"{known[s.value]} is {s.name!r} ({s.value})" for s in found.segments)
    by_value = {name: [s for s in found.segments if s.value == value] for value, name in known.items()}
    return by_value, [f"no segment has the name of a class, so their values decide: {pairs}"]


def label_map(found: Segmentation, targets: Targets, grid: Header | Volume) -> tuple[Volume, list[str]]:
    """The segmentation as a label map on an image's grid, and remarks.

    Where segments of two classes overlap, the later class of `data.labels` wins, and `ignore` over all. An
    overlap is remarked on unless the winner belongs to every region of the other class.

    Raises:
        CaseError: as for `chosen` and `placed`, or a voxel has a value that is no segment's.
    """
    segments, remarks = chosen(found, targets)
    masks = Masks(found, grid)
    kind = label_type(max(targets.labels.values()))
    labels = np.zeros(masks.shape, kind)
    for number, (name, value) in enumerate(targets.labels.items(), start=1):
        for segment in segments[name]:
            mask = masks(segment)
            for other, before in list(targets.labels.items())[: number - 1]:
                if (count := int((labels[mask] == before).sum())) and not _covered(targets, other, name):
                    remarks.append(
                        f"{count} voxels lie in segments of {other} and of {name}; they count as {name}"
                    )
            labels[mask] = value
    return Volume(labels, grid.affine), remarks


def labelled(found: Segmentation, grid: Header | Volume) -> np.ndarray:
    """The voxels of an image's grid (x, y, z) that are in any segment and in none called `ignore`.

    Raises:
        CaseError: as for `placed`.
    """
    masks = Masks(found, grid)
    inside, outside = np.zeros(masks.shape, bool), np.zeros(masks.shape, bool)
    for segment in found.segments:
        part = outside if _plain(segment.name) == IGNORE else inside
        part |= masks(segment)
    return inside & ~outside


def placed(found: Segmentation, grid: Header | Volume) -> np.ndarray:
    """Voxel index of the segmentation to voxel index of the grid: 4×4, whole numbers, no scaling.

    Raises:
        CaseError: its voxels are not voxels of the grid.
    """
    to_grid = turned(found, grid)
    if to_grid is None:
        raise CaseError(
            f"{found.path}: its voxels are not those of the case's image; in 3D Slicer, choose the image as "
            f"source geometry of the segmentation (Segment Editor, Specify geometry) and save it again"
        )
    return to_grid


class Masks:
    """The segments of a file as masks on an image's grid.

    Raises:
        CaseError: as for `placed`, or a voxel has a value that is no segment's.
    """

    def __init__(self, found: Segmentation, grid: Header | Volume) -> None:
        self._found = found
        self.shape = tuple(grid.data.shape if isinstance(grid, Volume) else grid.shape[:3])
        self._to_grid = placed(found, grid)
        try:
            import SimpleITK as sitk

            self._layers = sitk.GetArrayFromImage(
                sitk.ReadImage(os.fspath(found.path), imageIO="NrrdImageIO")
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CaseError(f"{found.path}: its voxels cannot be read ({reason})") from error
        if self._layers.ndim == 3:
            self._layers = self._layers[..., None]
        for layer in range(self._layers.shape[3]):
            data = self._layers[..., layer]
            unknown = data != 0
            for segment in found.segments:
                if segment.layer == layer:
                    unknown &= data != segment.value
            if count := int(unknown.sum()):
                raise CaseError(
                    f"{found.path}: {count} voxels of layer {layer} have values that belong to no "
                    f"segment ({', '.join(map(str, np.unique(data[unknown])[:5]))}); in 3D Slicer, delete "
                    f"them or make them a segment"
                )

    def __call__(self, segment: Segment) -> np.ndarray:
        """A segment (x, y, z) on the grid.

        Raises:
            CaseError: its layer is missing, or it extends beyond the grid.
        """
        if segment.layer >= self._layers.shape[3]:
            raise CaseError(
                f"{self._found.path}: segment {segment.name!r}: there is no layer {segment.layer}"
            )
        # ITK's arrays are (z, y, x).
        mask = (self._layers[..., segment.layer] == segment.value).transpose()
        whole, beyond = laid(mask, self._to_grid, self.shape)
        if beyond:
            raise CaseError(
                f"{self._found.path}: {beyond} voxels of segment {segment.name!r} lie outside the image"
            )
        return whole


def _covered(targets: Targets, other: str, winner: str) -> bool:
    """Whether a voxel of two classes loses no region if it counts as the winner."""
    regions = targets.regions.values()
    return bool(regions) and all(winner in members for members in regions if other in members)


def _means(called: str, name: str, targets: Targets) -> bool:
    """Whether a segment's name is that of a class: exactly, or if it is no other's, apart from spelling."""
    return called == name or (called not in targets.labels and _plain(called) == _plain(name))


def _plain(name: str) -> str:
    """A name without case, spaces and punctuation, as far as class names cannot have them."""
    return re.sub(r"[^a-z0-9_.-]+", "_", name.casefold()).strip("_.-")
