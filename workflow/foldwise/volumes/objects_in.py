"""Objects from files as the start of a segmentation: label maps, masks, 3D Slicer, DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from foldwise.files import CaseError
from foldwise.volumes.grids import voxel_ml_of
from foldwise.volumes.objects import Merge, Object, Objects, number_type
from foldwise.volumes.placing import OtherGridError, described, laid, nearest, turned
from foldwise.volumes.segments import Masks, Segmentation, read_segmentation
from foldwise.volumes.suffixes import is_dicom, stem_of
from foldwise.volumes.targets import LARGEST_LABEL
from foldwise.volumes.volume import Header, is_dicom_folder, read_channels, read_header

# A label map with more values may be an image.
MANY = 255
# Values up to this are looked up in a table, which is many times faster than to sort them.
LOOKED_UP = 1 << 24


def read_objects(path: Path, scan: Path, grid: Header, *, resample: bool = False) -> Objects:
    """Read a file with objects onto a scan's grid.

    A voxel in several objects is of the smallest (`objects.Merge`). No voxel is moved: a file whose voxels
    are those of the scan is turned and padded as needed, any other one is refused unless it may be resampled.

    Args:
        path: a label map, or masks along a fourth axis, of any format of volumes, with names from a table of
            BIDS beside it (`<name>.tsv` with `index`, `name` and maybe `color`); a segmentation of 3D Slicer
            (.seg.nrrd); a DICOM SEG or RTSTRUCT, or a folder with one.
        scan: the scan's file, or the folder of its series, to which a DICOM object must belong.
        grid: its header.
        resample: whether label maps on another grid are resampled to the nearest voxel.

    Raises:
        CaseError: the file cannot be read, is no segmentation, belongs to another scan, or lies on another
            grid.
    """
    grid = replace(grid, shape=grid.shape[:3])
    if is_dicom_folder(path):
        path = _only_file(path)
    if is_dicom(path):
        # Imported only where DICOM is read, which takes a second.
        from foldwise.volumes.dicom_objects import read_dicom_objects

        return _unique(read_dicom_objects(path, scan, grid))
    if found := read_segmentation(path):
        return _unique(_of_slicer(found, grid))
    return _unique(_of_volume(path, grid, resample))


def _only_file(folder: Path) -> Path:
    """The only file of a folder, as archives keep a SEG or RTSTRUCT."""
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    if len(files) != 1 or not is_dicom(files[0]):
        raise CaseError(
            f"{folder}: a folder with {len(files)} files; give the file of a SEG, RTSTRUCT or label map"
        )
    return files[0]


def _of_slicer(found: Segmentation, grid: Header) -> Objects:
    masks, merge = Masks(found, grid), Merge(grid.shape, len(found.segments))
    # Segments in several layers may share a value.
    shared = len({segment.value for segment in found.segments}) < len(found.segments)
    for number, segment in enumerate(found.segments, start=1):
        value = number if shared else segment.value
        merge.add(Object(segment.name, value, segment.colour), masks(segment))
    remarks = (f"{found.path}: {remark}" for remark in [*found.remarks, *merge.remarks()])
    return Objects(merge.labels, tuple(merge.listed), grid.affine, tuple(remarks))


def _of_volume(path: Path, grid: Header, resample: bool) -> Objects:
    header = read_header(path)
    remarks = list(header.remarks)
    channels = [_whole(volume.data, path) for volume in read_channels(path)]
    place = _placing(path, header, grid, resample, remarks)
    if len(channels) > 1:
        objects = _of_masks(channels, place, grid, path, remarks)
    else:
        objects = _of_labels(channels[0], place, grid, path, remarks)
    return replace(objects, remarks=tuple(f"{path}: {remark}" for remark in remarks))


def _whole(data: np.ndarray, path: Path) -> np.ndarray:
    """Values that are numbers of objects, as whole numbers.

    Raises:
        CaseError: others.
    """
    if data.dtype.kind == "f":
        nearest_ = np.rint(data)
        # Scaling, as by a NIfTI's slope, is rounded.
        wrong = ~(np.abs(data - nearest_) <= 1e-4)
        if wrong.any():
            raise CaseError(
                f"{path}: is no label map: {int(wrong.sum())} of its voxels are not whole numbers, e.g. "
                f"{data[wrong][0]:g}; probabilities need a threshold, interpolated labels have to be made "
                f"again by nearest neighbour"
            )
        data = nearest_
    low, high = data.min(), data.max()
    if low < 0 or high > LARGEST_LABEL:
        raise CaseError(
            f"{path}: is no label map: its values are {low:g} to {high:g}; expected 0 for background and "
            f"numbers up to {LARGEST_LABEL} for objects"
        )
    return data.astype(np.int32) if data.dtype.kind == "f" else data


def _placing(
    path: Path, header: Header, grid: Header, resample: bool, remarks: list[str]
) -> Callable[[np.ndarray], np.ndarray]:
    """What puts a channel of the file on the grid.

    Raises:
        CaseError: its voxels are not the grid's, and it may not be resampled.
    """
    to_grid = turned(header, grid)
    if to_grid is None and not resample:
        raise OtherGridError(
            f"{path}: lies on another grid than the scan. The file: {described(header)}; the scan: "
            f"{described(grid)}. Load it resampled to the nearest voxel, or resample it with your own program"
        )
    if to_grid is None:
        remarks.append(f"resampled to the nearest voxel, from {described(header)} to {described(grid)}")

    def place(data: np.ndarray) -> np.ndarray:
        if to_grid is not None:
            there, beyond = laid(data, to_grid, grid.shape[:3])
            if beyond:
                raise CaseError(f"{path}: {beyond} labelled voxels lie outside the scan")
            return there
        there = nearest(data, header.affine, grid)
        before = np.count_nonzero(data) * voxel_ml_of(header.affine)
        after = np.count_nonzero(there) * voxel_ml_of(grid.affine)
        if before and not after:
            raise CaseError(f"{path}: nothing of its {before:.4g} mL lies on a voxel of the scan")
        remarks.append(f"{before:.4g} mL became {after:.4g} mL")
        return there

    return place


def _of_labels(
    data: np.ndarray, place: Callable[[np.ndarray], np.ndarray], grid: Header, path: Path, remarks: list[str]
) -> Objects:
    values = _values(data)
    try:
        kind = number_type(len(values))
    except ValueError as error:
        raise CaseError(f"{path}: {error}; is it an image?") from None
    if len(values) > MANY:
        remarks.append(f"has {len(values)} different values, each of which is an object; is it an image?")
    labels = place(_numbers(data, values, kind))
    listed = _named((Object(f"label {value}", value) for value in values), path)
    left = _values(labels)
    if lost := [one.name for number, one in enumerate(listed, start=1) if number not in left]:
        remarks.append(f"no voxel is left of {', '.join(lost)}")
    return Objects(labels, listed, grid.affine)


def _values(data: np.ndarray) -> list[int]:
    """The values above 0, in order."""
    if (most := int(data.max(initial=0))) > LOOKED_UP:
        return [int(value) for value in np.unique(data[data > 0])]
    there = np.zeros(most + 1, bool)
    there[data] = True
    return [int(value) for value in np.flatnonzero(there) if value]


def _numbers(data: np.ndarray, values: list[int], kind: type[np.uint8 | np.uint16]) -> np.ndarray:
    """The place of each voxel's value among all values, from 1, as a type; 0 for background."""
    if max(values, default=0) <= LOOKED_UP:
        table: np.ndarray = np.zeros(max(values, default=0) + 1, kind)
        table[values] = np.arange(1, len(values) + 1)
        return np.asarray(table[data])
    found: np.ndarray = np.zeros(data.shape, kind)
    found[data > 0] = np.searchsorted(values, data[data > 0]) + 1
    return found


def _of_masks(
    channels: list[np.ndarray],
    place: Callable[[np.ndarray], np.ndarray],
    grid: Header,
    path: Path,
    remarks: list[str],
) -> Objects:
    masks = []
    for number, data in enumerate(channels, start=1):
        values = _values(data)
        if len(values) > 1:
            raise CaseError(
                f"{path}: channel {number} has the values {', '.join(map(str, values[:5]))}; expected a mask "
                f"in each of its {len(channels)} channels, with one value apart from 0"
            )
        masks.append(data > 0)
    numbers = list(range(1, len(masks) + 1))
    # As networks write their classes.
    if np.array_equal(masks[0], ~np.logical_or.reduce(masks[1:])):
        remarks.append("channel 1 is all that no other channel is: the background, and left out")
        masks, numbers = masks[1:], numbers[1:]
    listed = _named((Object(f"channel {number}", number) for number in numbers), path)
    merge = Merge(grid.shape, len(listed))
    for one, mask in zip(listed, masks, strict=True):
        merge.add(one, place(mask))
    remarks += merge.remarks()
    return Objects(merge.labels, listed, grid.affine)


def _named(found: Iterable[Object], path: Path) -> tuple[Object, ...]:
    """Objects with the names and colours of a table of BIDS beside their file, if there is one.

    Raises:
        CaseError: the table has no columns `index` and `name`.
    """
    table = path.with_name(f"{stem_of(path.name)}.tsv")
    if not table.is_file():
        return tuple(found)
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    try:
        known = {int(row["index"]): (row["name"].strip(), row.get("color") or "") for row in rows}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(
            f"{table}: is no table of labels: expected the columns index (whole numbers) and name ({error}); "
            f"correct it, or move it away"
        ) from None
    named = []
    for one in found:
        name, colour = known.get(one.value, ("", ""))
        rgb = re.fullmatch(r"#?([0-9a-fA-F]{6})", colour.strip())
        red, green, blue = bytes.fromhex(rgb[1]) if rgb else (0, 0, 0)
        named.append(replace(one, name=name or one.name, colour=(red, green, blue) if rgb else None))
    return tuple(named)


def _unique(objects: Objects) -> Objects:
    """The objects with a number added to names that several have."""
    given = {one.name for one in objects.listed}
    taken: set[str] = set()
    listed = []
    for one in objects.listed:
        name = one.name
        if name in taken:
            tries = (f"{one.name} ({number})" for number in itertools.count(2))
            name = next(new for new in tries if new not in taken | given)
        taken.add(name)
        listed.append(replace(one, name=name))
    new = [b.name for a, b in zip(objects.listed, listed, strict=True) if a.name != b.name]
    remarks = (f"several objects have the same name; the later ones are {', '.join(new)}",) if new else ()
    return replace(objects, listed=tuple(listed), remarks=(*objects.remarks, *remarks))
