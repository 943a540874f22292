"""From source volumes and masks to a case's crop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import CaseError, write_json
from foldwise.volumes import geometry
from foldwise.volumes.cache import compact
from foldwise.volumes.cropped import CHANNEL, INSIDE, Channel
from foldwise.volumes.geometry import Box, Lineage, int3
from foldwise.volumes.grids import plane_distances, voxel_ml_of
from foldwise.volumes.instances import find_instances, find_values, finest, lost_in_box
from foldwise.volumes.labels import read_labels
from foldwise.volumes.lungs import missed_share
from foldwise.volumes.settings import Crop
from foldwise.volumes.targets import IGNORE, Targets
from foldwise.volumes.volume import Volume, read_channels, read_volume, same_grid, write_volume

# No quantity in a scan is as large; programs fill voxels without a value with 1e20 and more.
LARGEST = 1e18

# Air, and what the darkest voxel of a CT of the body is below. HU.
AIR_HU, NO_AIR_HU = -1000.0, -300


@dataclass(frozen=True)
class Masks:
    """Files with masks of the anatomy.

    Attributes:
        region: what the crop encloses (`crop.to: region`), and where the weighted sampler draws.
        lungs: both lungs.
        values: values in `region` that belong to it; None: all but 0.
        max_missed: share of a case's labelled voxels that may lie outside the region.
    """

    region: Path | None = None
    lungs: Path | None = None
    values: Sequence[int] | None = None
    max_missed: float = 1.0

    def read_region(self, image: Volume) -> np.ndarray | None:
        """The region on the image's grid, or None.

        Raises:
            CaseError: its grid is another one.
        """
        if self.region is None:
            return None
        data = _on_grid(read_volume(self.region), image, self.region).data
        return np.asarray(data != 0 if self.values is None else np.isin(data, self.values))


def crop_case(
    images: Sequence[Path],
    label: Path | None,
    weight: Path | None,
    masks: Masks | None,
    settings: Crop,
    labels: Mapping[str, int],
    folder: Path,
    *,
    keep: bool = False,
) -> None:
    """Write a case's facts and its small cropped volumes into `folder`.

    Its images are a box of the source, which `read_cropped` reads again: a copy would take as much space as
    the source, and more time to write and read than the source takes to read.

    Args:
        images: source files on one grid, one per channel, or a 4-D file with all of them.
        label: label map on the same grid, or None.
        weight: weight map on the same grid; None: a labelled case gets the region.
        masks: masks of the anatomy on the same grid, or None.
        settings: the crop.
        labels: class name, or `ignore`, → voxel value.
        folder: an existing folder; receives crop.json, label.nii.gz, weight.nii.gz, inside.nii.gz if voxels
            outside are replaced, and for a labelled case foreground.npy: grey values (channels, n ≤ 10,000)
            float32 of voxels of a class, and instances.npy: (n, 3) float32, the voxel edges along the stored
            axes, in mm, that keep each instance of the label (see `finest`).
        keep: also write the images: image0.nii.gz, image1.nii.gz, …

    Raises:
        CaseError: grids differ, a label value is unknown, voxels are NaN, an image is constant, or the
            mask is empty.
    """
    volumes = [(volume, path) for path in images for volume in _read_image(path)]
    first = volumes[0][0]
    masks = masks or Masks()
    region = masks.read_region(first)
    mask, inside = region, masks.region
    if settings.to == "nonzero":
        mask = np.any([volume.data != 0 for volume, _ in volumes], axis=0)
    elif settings.to == "lungs" and masks.lungs is not None:
        mask, inside = _on_grid(read_volume(masks.lungs), first, masks.lungs).data > 0, masks.lungs
    elif settings.to == "none":
        mask = None
    if mask is None:
        box = Box((0, 0, 0), int3(first.data.shape))
    else:
        try:
            box = geometry.bounding_box(mask, settings.margin_mm, plane_distances(first.affine))
        except ValueError:
            what = images[0] if settings.to == "nonzero" else inside
            raise CaseError(f"{what}: the mask is empty, so there is nothing to crop to") from None
    within = None
    if mask is not None and settings.outside != "keep" and not mask[box.slices].all():
        within = np.asarray(mask[box.slices], bool)
    kept, channels = [], []
    for volume, path in volumes:
        cut = geometry.crop(_on_grid(volume, first, path), box)
        outside = None if within is None else _outside(cut.data, ~within, settings.outside, path)
        channels.append(Channel(volume.data.dtype.name, outside))
        if within is not None:
            cut = Volume(channels[-1].cut(volume.data, box, within), cut.affine)
        kept.append(cut)
        if keep:
            write_volume(kept[-1], folder / CHANNEL.format(len(kept) - 1))
    if within is not None:
        write_volume(Volume(within.astype(np.uint8), kept[0].affine), folder / INSIDE)

    lineage = Lineage.of(int3(first.data.shape), first.affine, box)
    facts: dict[str, Any] = {
        "box": {"start": box.start, "shape": box.shape},
        "source_shape": lineage.source_shape,
        "source_affine": lineage.source_affine,
        "turn": lineage.turn,
        "images": [str(path) for path in images],
        "recording": _recording([volume for volume, _ in volumes]),
        "channels": len(kept),
        "voxels": [asdict(channel) for channel in channels],
        "nonzero_share": _nonzero_share([volume for volume, _ in volumes], kept),
        "minimum": min(float(volume.data.min()) for volume in kept),
    }
    if label is not None:
        targets = Targets.of(labels)
        whole = _on_grid(read_labels(label, targets, first, logging.info), first, label)
        cut, held = geometry.crop(whole, box), find_values(whole.data, [*targets.classes.values()])
        write_volume(cut, folder / "label.nii.gz")
        instances = find_instances(whole.data, [*targets.classes.values()])
        np.save(folder / "foreground.npy", _grey_values(kept, held[box.slices]))
        np.save(folder / "instances.npy", finest(instances, whole.spacing).astype(np.float32))
        lost = instances.only(lost_in_box(instances, whole.data, box))
        _refuse_missed(held, region, masks, label)
        # Components of all classes together, as a slab has to hold them.
        lesions = find_instances(held[box.slices].astype(np.uint8), [1])
        facts |= {
            "label": str(label),
            **_foreground(whole, cut, targets),
            "instances": instances.counts(targets.classes),
            "instances_cut_away": lost.counts(targets.classes),
            "lesions_mm": lesions.extents_mm(cut.spacing).tolist(),
        }
    if weight is not None:
        map_ = geometry.crop(_on_grid(read_volume(weight), first, weight), box)
        if not (np.isfinite(map_.data) & (map_.data >= 0)).all():
            raise CaseError(
                f"{weight}: negative, infinite or NaN weights; a weight map must be zero or more everywhere"
            )
        write_volume(_compact(map_, weight), folder / "weight.nii.gz")
    elif label is not None and region is not None:
        # Where tumours may be: the lungs themselves lack most of a large one.
        write_volume(Volume(region[box.slices].astype(np.uint8), kept[0].affine), folder / "weight.nii.gz")
    write_json(folder / "crop.json", facts)


def _read_image(path: Path) -> list[Volume]:
    volumes = []
    for volume in read_channels(path, logging.warning):
        if np.issubdtype(volume.data.dtype, np.floating) and not np.isfinite(volume.data).all():
            bad = int((~np.isfinite(volume.data)).sum())
            raise CaseError(f"{path}: {bad} voxels are NaN or infinite; repair the file")
        low, high = volume.data.min().item(), volume.data.max().item()
        if low == high:
            raise CaseError(f"{path}: every voxel is {low}; the image is empty")
        if max(abs(low), abs(high)) > LARGEST:
            raise CaseError(
                f"{path}: its values range from {low:g} to {high:g}; numbers this large are no measurements, "
                f"but mark missing voxels; replace them by a value of the background"
            )
        volumes.append(_compact(volume, path))
    return volumes


def _compact(volume: Volume, path: Path) -> Volume:
    try:
        return Volume(compact(volume.data), volume.affine)
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from None


def _on_grid(volume: Volume, reference: Volume, path: Path) -> Volume:
    if not same_grid(volume, reference):
        raise CaseError(
            f"{path}: its grid (shape {volume.data.shape}) differs from that of the case's first image "
            f"(shape {reference.data.shape}); resample it to that grid"
        )
    return volume


def _outside(data: np.ndarray, outside: np.ndarray, how: str, path: Path) -> float:
    """The value of voxels outside the mask."""
    if how == "air":
        if data.min() > NO_AIR_HU:
            raise CaseError(
                f"{path}: crop.outside: air is for CT in HU, but no voxel is below {NO_AIR_HU} HU"
            )
        value = AIR_HU
    else:
        value = 0.0 if how == "zero" else float(data[outside].mean(dtype=np.float64))
    return float(np.rint(value)) if np.issubdtype(data.dtype, np.integer) else value


def _recording(channels: Sequence[Volume]) -> str:
    """A hash of the voxels, whatever their type and the order of their axes in the file."""
    digest = sha256()
    for channel in channels:
        turned = channel.oriented().data
        digest.update(repr(turned.shape).encode())
        for z in range(turned.shape[2]):
            # Slice by slice, since a copy as float32 may be larger than the volume.
            digest.update(np.ascontiguousarray(turned[:, :, z], np.float32).data)
    return digest.hexdigest()


def _nonzero_share(whole: Sequence[Volume], kept: Sequence[Volume]) -> float:
    """Share of the scan's voxels that are not 0 in any channel, counted within the box."""
    filled = np.any([volume.data != 0 for volume in kept], axis=0)
    return float(filled.sum() / whole[0].data.size)


def _grey_values(channels: Sequence[Volume], held: np.ndarray, limit: int = 10_000) -> np.ndarray:
    # In the order of z, which is that of a NIfTI in memory, then sorted to that of x.
    z, y, x = np.unravel_index(np.flatnonzero(held.T), held.T.shape)
    places = np.sort(np.ravel_multi_index((x, y, z), held.shape))
    if len(places) > limit:
        places = np.sort(np.random.default_rng(0).choice(places, limit, replace=False))
    at = np.unravel_index(places, held.shape)
    return np.stack([channel.data[at] for channel in channels]).astype(np.float32)


def _refuse_missed(held: np.ndarray, region: np.ndarray | None, masks: Masks, path: Path) -> None:
    """Refuse a region that misses more of a label than allowed."""
    if region is None:
        return
    missed = missed_share(held, region)
    if missed is not None and missed > masks.max_missed:
        raise CaseError(
            f"{path}: {missed:.1%} of the labelled voxels lie outside the region {masks.region}, but only "
            f"{masks.max_missed:.1%} are allowed (prepare.region.max_missed); is it the mask of this scan?"
        )


def _foreground(labels: Volume, cut: Volume, targets: Targets) -> dict[str, object]:
    voxel_ml = voxel_ml_of(labels.affine)
    whole = {name: int((labels.data == value).sum()) for name, value in targets.labels.items()}
    kept = {name: int((cut.data == value).sum()) for name, value in targets.classes.items()}
    facts: dict[str, object] = {
        "foreground_ml": {name: whole[name] * voxel_ml for name in kept},
        "foreground_cut_away": {name: whole[name] - count for name, count in kept.items()},
    }
    if targets.ignore is not None:
        facts["ignored_ml"] = whole[IGNORE] * voxel_ml
    return facts
