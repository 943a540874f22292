"""From predicted volumes to chosen post-processing, scores, and files for other programs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldwise.files import file_hash, naming, source_hash
from foldwise.index import Entry
from foldwise.record import used
from foldwise.report.view import View
from foldwise.store import Memory
from foldwise.systems.base import Chosen, Results, Rows
from foldwise.volumes.geometry import bounding_box
from foldwise.volumes.labels import read_labels
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.postprocess import POSTPROCESSES, helps
from foldwise.volumes.predictions import classes_of, label_map, probability_maps
from foldwise.volumes.settings import Evaluate, Export
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import is_dicom_folder, write_volume


class SegmentationResults(Results):
    """Post-processing chosen by Dice, scores on the source's grid, and label maps as files."""

    def chooses(self, evaluate: Evaluate) -> bool:
        """Whether post-processing is to be chosen."""
        return bool(evaluate.postprocess)

    def choose(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        task: Mapping[str, Any],
        evaluate: Evaluate,
        memory: Memory,
    ) -> dict[str, Any]:
        """Choose the post-processing steps, tried in order, that raise the mean Dice of these cases."""
        targets = Targets.from_dict(task["targets"])
        kept: list[str] = []
        for step in evaluate.postprocess:
            tried = [*kept, step]
            before, after = [], []
            for number, entry in enumerate(entries, start=1):
                with naming(entry.case):
                    dices = _remembered(predictions[entry.case], entry, targets, [kept, tried], memory)
                before += dices[0]
                after += dices[1]
                if number % 50 == 0:
                    logging.info("%s: %d of %d cases", step, number, len(entries))
            if helps(before, after):
                kept = tried
        return {"postprocess": kept}

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """A row per class or region, against the source's label file."""
        if "label" not in entry.files:
            return []
        targets = Targets.from_dict(task["targets"])
        found = label_map(prediction, chosen["postprocess"])
        used(label := entry.files["label"][0])
        truth = read_labels(Path(label), targets, found)
        return score_volume(
            found.data,
            truth.data,
            truth.affine,
            targets.values,
            tolerance_mm=evaluate.tolerance_mm,
            brats=evaluate.empty == "brats",
            ignore=targets.ignore,
        )

    def export_case(
        self, prediction: Path, entry: Entry, export: Export, chosen: Chosen, folder: Path
    ) -> Mapping[str, Rows]:
        """Write <case>.nii.gz, a label map with the user's label values in the source's grid.

        With `probabilities`, <case>_<class>_probability.nii.gz (float32, 0 to 1) is written too; for a DICOM
        folder with `dicom_seg`, also <case>.dcm.
        """
        labels = label_map(prediction, chosen["postprocess"])
        write_volume(labels, folder / f"{entry.case}.nii.gz")
        if export.probabilities:
            for name, volume in probability_maps(prediction).items():
                write_volume(volume, folder / f"{entry.case}_{name}_probability.nii.gz")
        source = Path(entry.files["images"][0])
        if export.dicom_seg and is_dicom_folder(source):
            # Imported only here, since it takes seconds to import.
            from foldwise.volumes.dicom_seg import write_dicom_seg

            used(source)
            write_dicom_seg(labels, source, classes_of(prediction), folder / f"{entry.case}.dcm")
        return {}

    @property
    def view(self) -> View:
        """Volumes and their Dice."""
        from foldwise.systems.segmentation.report import VIEW

        return VIEW


def _remembered(
    prediction: Path, entry: Entry, targets: Targets, tried: Sequence[Sequence[str]], memory: Memory
) -> list[list[float]]:
    """The Dice of each target after each of several post-processings, computed once."""
    label = Path(entry.files["label"][0])
    used(label)
    made_of = (file_hash(prediction), source_hash([label]), targets.as_dict())
    known: dict[str, Any] = {"+".join(steps): memory.get(*made_of, steps) for steps in tried}
    if missing := [steps for steps in tried if known["+".join(steps)] is None]:
        for steps, dice in zip(missing, _dices(prediction, label, targets, missing), strict=True):
            plain = known["+".join(steps)] = [None if math.isnan(value) else value for value in dice]
            memory.put(plain, *made_of, steps)
        memory.save()
    return [[math.nan if value is None else value for value in dices] for dices in known.values()]


def _dices(
    prediction: Path, label: Path, targets: Targets, tried: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The Dice of each target after each post-processing; prediction and truth are read once."""
    predicted = label_map(prediction)
    found, truth = predicted.data, read_labels(label, targets, predicted).data
    labelled = (found > 0) | (truth > 0)
    if labelled.any():
        # No step labels a voxel outside the box of the labelled voxels. One more voxel on each side:
        # cc3d fails on some arrays that are one voxel thin.
        box = bounding_box(labelled, 1, (1.0, 1.0, 1.0)).slices
        found, truth = found[box], truth[box]
    dices = []
    for steps in tried:
        processed = found
        for step in steps:
            processed = POSTPROCESSES[step](processed, targets)
        dices.append(_dice(processed, truth, targets))
    return dices


def _dice(found: np.ndarray, truth: np.ndarray, targets: Targets) -> list[float]:
    dices = []
    counted = True if targets.ignore is None else truth != targets.ignore
    for values in targets.values.values():
        a, b = np.isin(found, values) & counted, np.isin(truth, values)
        size = int(a.sum() + b.sum())
        dices.append(2 * int((a & b).sum()) / size if size else float("nan"))
    return dices
