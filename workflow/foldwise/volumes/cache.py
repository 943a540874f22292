"""From a case's crop to its HDF5 file: arrays in their native type, in chunks suited to patches.

Layout (axes x, y, z in RAS orientation):
    image       (channels, x, y, z), int16, uint8 or float32; Blosc2-LZ4HC chunks
    label       (x, y, z) uint8, int16 for more than 255 classes: 0 background, then 1… in the order of the
                attribute `classes`; voxels to ignore have the number after these
    weight      (x, y, z) uint8 or float32: the weighted sampler's map
    weight_sum  sums of `weight` over its chunks, so that a draw reads a single chunk
    foreground/<class>   (n, 3) int16, int32 for longer axes: voxels of the class, at most `max_foreground`
    counted     the same for all voxels that are not to be ignored; only if some are
    centre/<class>       (n, 3) of the same type: of each lesion (connected component), the voxel closest to
                         the mean of its voxels
Attributes: format, case, content (hash of the arrays), recording (hash of the source's voxels), classes,
ignored (number in the label, or 0), spacing, affine, lineage (JSON), statistics (JSON, per channel), fill
(per channel; value outside the array), lost (JSON, class → instances, cut_away, resampled: how many its label
had, and how many crop and spacing lost).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from foldwise.files import CaseError, atomic_path, read_json
from foldwise.hdf5 import as_json, create_hdf5, open_hdf5
from foldwise.volumes.cropped import read_cropped
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.instances import find_centres, losses
from foldwise.volumes.settings import Cache
from foldwise.volumes.targets import IGNORE, Targets, label_type
from foldwise.volumes.volume import Volume, read_volume

FORMAT = "foldwise-volume-2"
# Fewer steps between lowest and highest value than a 12-bit scanner has mean a loss.
LEAST_STEPS = 4096


@dataclass(frozen=True)
class Contents:
    """The contents of a case's file.

    Attributes:
        image: (channels, x, y, z).
        label: (x, y, z), 0 background then 1… in the order of `classes`, and the number after these where
            voxels are to be ignored; None without a label.
        weight: (x, y, z), non-negative; None without a weight map.
        lineage: how the grid was derived from its source.
        classes: names, in the order of the label's values.
        recording: hash of the source's voxels.
        ignored: the number of voxels to ignore; 0: there is none.
        lost: class → numbers of instances, as in the attribute.
    """

    image: np.ndarray
    label: np.ndarray | None
    weight: np.ndarray | None
    lineage: Lineage
    classes: tuple[str, ...]
    recording: str = ""
    ignored: int = 0
    lost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def compact(image: np.ndarray) -> np.ndarray:
    """The smallest of uint8, int16 and float32 that holds the values.

    Integers up to 2²⁴ stay exact; others, and float64, are rounded to float32's seven digits.

    Raises:
        CaseError: the values exceed float32's range or precision.
    """
    if image.dtype.kind == "f" and image.dtype.itemsize <= 4:
        return image.astype(np.float32, copy=False)
    low, high = image.min().item(), image.max().item()
    if image.dtype.kind != "f":
        for kind in (np.uint8, np.int16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return image.astype(kind, copy=False)
    largest = low if abs(low) > abs(high) else high
    if abs(largest) > float(np.finfo(np.float32).max):
        raise CaseError(
            f"its value {largest:g} is outside the range of float32 (±3.4e38); correct or rescale it"
        )
    rounded = image.astype(np.float32)
    steps = (high - low) / float(np.spacing(np.abs(np.float32(largest))))
    if 0 < steps < LEAST_STEPS and (rounded != image).any():
        raise CaseError(
            f"its values from {low:.15g} to {high:.15g} need more precision than float32 offers; subtract "
            f"an offset"
        )
    return rounded


def cache_case(case: str, folder: Path, settings: Cache, labels: Mapping[str, int], path: Path) -> None:
    """Reorient a cropped case to RAS, resample it if requested, and write its HDF5 file.

    Args:
        case: its name.
        folder: folder from `crop_case`.
        settings: the cache.
        labels: class name, or `ignore`, → voxel value in the label file.
        path: the HDF5 file.
    """
    facts = read_json(folder / "crop.json")
    lineage = Lineage.of_crop(facts).resized(settings.shape, settings.spacing)
    channels = []
    for channel in read_cropped(folder, facts):
        if not lineage.resamples:
            channels.append(lineage.to_cache(channel))
            continue
        smooth = lineage.to_cache(channel.astype(np.float32), fill=float(channel.min()))
        rounded = np.rint(smooth) if np.issubdtype(channel.dtype, np.integer) else smooth
        channels.append(rounded.astype(channel.dtype))
    targets = Targets.of(labels)
    label = weight = None
    lost: dict[str, dict[str, int]] = {}
    if "label" in facts:
        stored = read_volume(folder / "label.nii.gz").data
        numbers = np.zeros(stored.shape, label_type(len(targets.labels)))
        for number, value in enumerate(targets.labels.values(), start=1):
            numbers[stored == value] = number
        label = lineage.labels_to_cache(numbers)
        lost = _lost(case, facts, numbers, lineage, targets)
    if (folder / "weight.nii.gz").exists():
        weight = lineage.to_cache(read_volume(folder / "weight.nii.gz").data)
        if label is not None and targets.ignored is not None:
            # The weighted sampler draws no voxel that counts nowhere.
            weight = weight * (label != targets.ignored)
    # One type for all channels, since one array holds them.
    image = compact(np.stack(channels))
    contents = Contents(
        image,
        label,
        weight,
        lineage,
        tuple(targets.classes),
        recording=facts.get("recording", ""),
        ignored=targets.ignored or 0,
        lost=lost,
    )
    write_case(path, case, contents, settings.chunk, settings.max_foreground)


def write_case(
    path: Path, case: str, contents: Contents, chunk: tuple[int, int, int], max_foreground: int
) -> None:
    """Write a case's file atomically."""
    image, label, weight = contents.image, contents.label, contents.weight
    affine = contents.lineage.cached_affine
    with atomic_path(path) as temporary, create_hdf5(temporary) as file:
        _store(file, "image", image, (1, *chunk))
        if label is not None:
            _store(file, "label", label, chunk)
            for value, name in enumerate(contents.classes, start=1):
                file[f"foreground/{name}"] = _coordinates(label == value, max_foreground)
                file[f"centre/{name}"] = find_centres(label == value).astype(_index_type(label))
            if contents.ignored and (counted := label != contents.ignored).sum() < label.size:
                file["counted"] = _coordinates(counted, max_foreground)
        if weight is not None:
            _store(file, "weight", weight, chunk)
            file["weight_sum"] = _chunk_sums(weight, file["weight"].chunks)
        arrays = [array for array in (image, label, weight) if array is not None]
        file.attrs.update(
            {
                "format": FORMAT,
                "case": case,
                "content": _content_hash(arrays, affine),
                "recording": contents.recording,
                "classes": list(contents.classes),
                "ignored": contents.ignored,
                "lost": as_json(contents.lost),
                "spacing": np.linalg.norm(affine[:3, :3], axis=0),
                "affine": affine,
                "lineage": as_json(contents.lineage.as_dict()),
                "statistics": as_json([_statistics(channel) for channel in image]),
                "fill": np.array([channel.min() for channel in image], np.float32),
            }
        )


def open_case(path: Path | str) -> h5py.File:
    """Open a case's file read-only.

    Raises:
        CaseError: the file is missing, truncated, or not a cache.
    """
    return open_hdf5(path, FORMAT)


def check_labels(caches: Sequence[str], targets: Targets) -> None:
    """Check the labels of training cases.

    Raises:
        CaseError: a cache has other classes, another order of them, or other voxels to ignore; or none has a
            voxel of a class, though the source files have.
    """
    expected = _listed(targets.classes, targets.ignored)
    filled = lost = False
    for path in caches:
        with open_case(path) as file:
            stored = _listed(file.attrs["classes"], file.attrs.get("ignored"))
            filled |= any(len(voxels) for voxels in file.get("foreground", {}).values())
            lost |= any(map(gone, lost_of(file).values()))
        if stored != expected:
            raise CaseError(
                f"{path}: its labels are {stored}, in this order; expected {expected}. "
                "Delete the file; it will be written again"
            )
    if lost and not filled:
        raise CaseError(
            f"{Path(caches[0]).parent}: the crop or the spacing lost all labelled voxels of the "
            f"{len(caches)} training cases, so nothing can be learnt; the logs of these cases name the "
            f"spacing (cache.spacing) that keeps them"
        )


def _listed(names: Iterable[str], ignored: int | None) -> str:
    return ", ".join([*names, *([IGNORE] if ignored else [])])


def lost_of(file: h5py.File) -> dict[str, dict[str, int]]:
    """Class → numbers of instances and of lost ones, as in the attribute `lost`; {} in older caches."""
    found: dict[str, dict[str, int]] = json.loads(file.attrs.get("lost", "{}"))
    return found


def gone(counts: Mapping[str, int]) -> int:
    """The number of a class's instances that are not in the cache."""
    return counts["cut_away"] + counts["resampled"]


def lineage_of(file: h5py.File) -> Lineage:
    """The lineage stored with a case or a prediction."""
    return Lineage.from_dict(json.loads(file.attrs["lineage"]))


def _lost(
    case: str, facts: Mapping[str, Any], label: np.ndarray, lineage: Lineage, targets: Targets
) -> dict[str, dict[str, int]]:
    """Class → numbers of its instances and of lost ones, for the cache's attribute; these are logged."""
    native = Lineage.of_crop(facts)
    turned = Volume(native.labels_to_cache(label), native.cached_affine)
    found = losses(
        turned, lineage.shape, {name: number for number, name in enumerate(targets.classes, start=1)}
    )
    if found.text:
        logging.warning("case %s: %s", case, found.text)
    counts = {}
    for name, inside in found.instances.items():
        # Crops of earlier versions did not count.
        whole = facts.get("instances", {}).get(name, inside)
        away = facts.get("instances_cut_away", {}).get(name, 0)
        if away:
            logging.warning("case %s: %d of %d instances of %s lie outside the crop", case, away, whole, name)
        if whole:
            counts[name] = {"instances": whole, "cut_away": away, "resampled": found.lost[name]}
    return counts


def _store(file: h5py.File, name: str, array: np.ndarray, chunk: tuple[int, ...]) -> None:
    # Chunks of equal size along an axis: HDF5 stores a partial last one at full size.
    even = tuple(-(-n // -(-n // c)) for c, n in zip(chunk, array.shape, strict=True))
    # LZ4's slow compressor: reads as fast as LZ4 but is smaller; chest CTs are smaller than as .nii.gz.
    compression = hdf5plugin.Blosc2(cname="lz4hc", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    file.create_dataset(name, data=array, chunks=even, compression=compression)


def _coordinates(mask: np.ndarray, limit: int) -> np.ndarray:
    places = np.flatnonzero(mask)
    if len(places) > limit:
        chosen = np.random.default_rng(0).choice(len(places), limit, replace=False)
        places = places[np.sort(chosen)]
    return np.stack(np.unravel_index(places, mask.shape), axis=1).astype(_index_type(mask))


def _index_type(array: np.ndarray) -> type[np.int16 | np.int32]:
    return np.int16 if max(array.shape) <= 2**15 else np.int32


def _chunk_sums(weight: np.ndarray, chunk: tuple[int, ...]) -> np.ndarray:
    sums = weight.astype(np.float64)
    for axis, size in enumerate(chunk):
        sums = np.add.reduceat(sums, np.arange(0, weight.shape[axis], size), axis=axis)
    return sums


def _statistics(channel: np.ndarray) -> dict[str, Any]:
    low, high = np.percentile(channel, [0.5, 99.5])
    facts = {
        "mean": channel.mean(dtype=np.float64),
        "std": channel.std(dtype=np.float64),
        "percentile_0.5": low,
        "percentile_99.5": high,
    }
    filled = channel[channel != 0]
    if filled.size:
        facts["nonzero_mean"] = filled.mean(dtype=np.float64)
        facts["nonzero_std"] = filled.std(dtype=np.float64)
    return {key: float(value) for key, value in facts.items()}


def _content_hash(arrays: list[np.ndarray], affine: np.ndarray) -> str:
    digest = hashlib.sha256(affine.tobytes())
    for array in arrays:
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
