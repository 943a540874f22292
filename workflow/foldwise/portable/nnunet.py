"""An experiment's cases as a raw data set of nnU-Net (version 2), with the folds of the experiment."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwise import __version__
from foldwise.experiment.open import Opened
from foldwise.files import CaseError, apart, atomic_folder, write_json
from foldwise.index import Entry, make_index
from foldwise.sheet import read_table
from foldwise.systems.segmentation.settings import Settings
from foldwise.volumes.grids import is_sheared, voxel_ml_of
from foldwise.volumes.labels import read_labels
from foldwise.volumes.settings import VolumeExperiment
from foldwise.volumes.sheet import IMAGE, Case
from foldwise.volumes.targets import IGNORE, Targets, label_type
from foldwise.volumes.volume import Volume, read_channels, same_grid, write_volume

# nnU-Net finds a data set by this name.
NAME = re.compile(r"Dataset\d{3}_\w+")
# Tells nnU-Net to take grey values as HU: one window and scale for all cases.
CT = "CT"


def export_nnunet(opened: Opened[Any, Any], folder: Path, channels: Sequence[str] | None = None) -> list[str]:
    """Write imagesTr, labelsTr, imagesTs, labelsTs, dataset.json and splits_final.json.

    All files are NIfTI with one channel each, in mm. nnU-Net wants labels numbered from 1 without gaps, and
    `ignore` last: they are renumbered, and dataset.json keeps the old values. Regions stay regions. Cases of
    the fixed test set, and those without a label, are in imagesTs.

    splits_final.json has the experiment's folds, since nnU-Net knows no patients: it belongs into the folder
    of preprocessed data, before the first training. nnU-Net has no share for validation besides the held-out
    cases, so it trains on the experiment's.

    Args:
        opened: the experiment, of any system on volumes.
        folder: the folder to write, Dataset<three digits>_<name>.
        channels: names of the channels, of which CT has a meaning for nnU-Net; default: as in the sheet's
            columns image_<channel>, and of a column `image` CT or image, by the settings.

    Returns:
        What was changed or should be known, a line each.

    Raises:
        CaseError: another name of the folder or number of channels, all errors in the sheet, or all cases
            that cannot be written.
    """
    settings = opened.settings
    if not isinstance(settings, VolumeExperiment):
        raise CaseError(f"system {settings.system}: nnU-Net segments volumes; this experiment has none")
    if not NAME.fullmatch(folder.name):
        raise CaseError(
            f"{folder}: nnU-Net finds a data set by its name, e.g. Dataset501_{settings.experiment}"
        )
    opened.sheet.refuse(settings.data.sheet)  # else the cases of wrong rows would be missing
    targets = settings.data.targets()
    numbers, remarks = _numbers(targets)
    names = list(channels or _channels(settings))
    entries, failed = [], dict[str, str]()
    with atomic_folder(folder) as temporary:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (temporary / part).mkdir()
        for case in opened.sheet.cases:
            with apart(case.name, failed):
                held, lines = _write_case(case, targets, numbers, names, temporary)
                remarks += [f"case {case.name}: {line}" for line in lines]
                if case.trains:
                    entries.append(held)
        if failed:
            why = "\n  ".join(failed.values())
            raise CaseError(f"{len(failed)} of {len(opened.sheet.cases)} cases cannot be written:\n  {why}")
        if not entries:
            raise CaseError(f"{settings.data.sheet}: no case has a label and is not in the fixed test set")
        write_json(temporary / "dataset.json", _description(targets, numbers, names, len(entries)))
        folds = make_index(entries, {}, settings.split).folds
        splits = [{"train": [*fold.train, *fold.validation], "val": [*fold.test]} for fold in folds]
        write_json(temporary / "splits_final.json", splits)
        if not any((temporary / "labelsTs").iterdir()):
            (temporary / "labelsTs").rmdir()
    if any(fold.validation for fold in folds):
        remarks.append("nnU-Net also trains on the cases with which a fold's best epoch was chosen")
    return remarks


def _numbers(targets: Targets) -> tuple[dict[str, int], list[str]]:
    """Class, and `ignore`, → its number for nnU-Net, 0 if it is in no region; and which values change."""
    listed = {name for members in targets.regions.values() for name in members} or {*targets.classes}
    kept = [name for name in targets.classes if name in listed]
    numbers = {name: 1 + kept.index(name) if name in listed else 0 for name in targets.classes}
    if targets.ignore is not None:
        numbers[IGNORE] = 1 + len(kept)
    changed = [
        f"{name} {targets.labels[name]} → {number}"
        for name, number in numbers.items()
        if number != targets.labels[name]
    ]
    return numbers, [f"label values: {', '.join(changed)}"] if changed else []


def _channels(settings: VolumeExperiment) -> list[str]:
    """Names of the channels, from the sheet's columns."""
    header = read_table(settings.data.sheet, (), ".*").header
    columns = [column for column in header if re.fullmatch(IMAGE, column)]
    if columns != ["image"]:
        return [column.removeprefix("image_") for column in columns]
    hu = settings.prepare.lung_mask is not None or settings.prepare.crop.outside == "air"
    if isinstance(settings, Settings):
        planned = settings.plan.ct if settings.plan is not None else None
        windows = all(isinstance(model.intensity[0].clip, tuple) for model in settings.models.values())
        hu = hu or bool(planned if settings.plan is not None else windows)
    return [CT if hu else "image"]


def _description(
    targets: Targets, numbers: Mapping[str, int], channels: Sequence[str], training: int
) -> dict[str, Any]:
    labels: dict[str, Any] = {"background": 0}
    order = []
    # The largest region first: nnU-Net writes the value of each in turn.
    for name in sorted(targets.names, key=lambda name: -len(targets.regions.get(name, ()))):
        members = [numbers[member] for member in targets.regions.get(name, (name,))]
        labels[name] = members[0] if len(members) == 1 else members
        values = {targets.classes[each]: numbers[each] for each in targets.classes}
        order.append(values[targets.value(name)])
    if IGNORE in numbers:
        labels[IGNORE] = numbers[IGNORE]
    return {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels,
        **({"regions_class_order": order} if targets.regions else {}),
        "numTraining": training,
        "file_ending": ".nii.gz",
        "converted_by": f"Foldwise {__version__}",
        "original_labels": targets.labels,
    }


def _write_case(
    case: Case, targets: Targets, numbers: Mapping[str, int], channels: Sequence[str], folder: Path
) -> tuple[Entry, list[str]]:
    """Write a case's files, and return what its folds depend on, as the index knows it, and remarks."""
    part, remarks = "Tr" if case.trains else "Ts", list[str]()
    found = [(path, volume) for path in case.images for volume in read_channels(path, remarks.append)]
    if len(found) != len(channels):
        raise CaseError(f"{len(found)} channel(s); expected {len(channels)}: {', '.join(channels)}")
    first = found[0][1]
    if is_sheared(first.affine):
        remarks.append("its axes are not at right angles, which SimpleITK, nnU-Net's reader, refuses")
    for number, (path, volume) in enumerate(found):
        _refuse_other_grid(path, volume, first)
        write_volume(volume, folder / f"images{part}" / f"{case.name}_{number:04d}.nii.gz")
    volumes: dict[str, float] = {}
    if case.label is not None:
        labels = read_labels(case.label, targets, first, logging.info)
        _refuse_other_grid(case.label, labels, first)
        renumbered = np.zeros(labels.data.shape, label_type(max(numbers.values())))
        for name, number in numbers.items():
            renumbered[labels.data == targets.labels[name]] = number
        write_volume(Volume(renumbered, labels.affine), folder / f"labels{part}" / f"{case.name}.nii.gz")
        voxel_ml = voxel_ml_of(labels.affine)
        volumes = {
            name: int((labels.data == value).sum()) * voxel_ml for name, value in targets.classes.items()
        }
    present = tuple(name for name, volume in volumes.items() if volume > 0)
    entry = Entry(case.name, case.group, {}, "", {}, sum(volumes.values()), present or ("empty",))
    return entry, remarks


def _refuse_other_grid(path: Path, volume: Volume, first: Volume) -> None:
    if not same_grid(volume, first):
        raise CaseError(
            f"{path}: its grid differs from that of the case's first image; resample it to that grid"
        )
