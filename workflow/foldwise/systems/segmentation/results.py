"""What becomes of predicted volumes: post-processing chosen, scores, and files that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldwise.index import Entry
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.postprocess import helps
from foldwise.volumes.predictions import classes_of, label_map, probability_maps
from foldwise.volumes.prepare import read_labels
from foldwise.volumes.settings import Evaluate, Export
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, is_dicom_folder, write_volume


def chooses(settings: Evaluate) -> bool:
    """Whether there is anything to choose on validation cases before others are scored."""
    return bool(settings.postprocess)


def choose(
    predictions: Mapping[str, Path], entries: Sequence[Entry], task: Mapping[str, Any], settings: Evaluate
) -> dict[str, Any]:
    """Keep, of the post-processing steps in their order, those that raise the mean Dice of these cases.

    Args:
        predictions: case → prediction.
        entries: of these cases.
        task: what is learnt.
        settings: with the steps to try.
    """
    targets = Targets.from_dict(task["targets"])
    kept: list[str] = []

    def dice(steps: list[str]) -> list[float]:
        made: list[float] = []
        for entry in entries:
            truth = read_labels(Path(entry.files["label"][0]), targets.classes)
            made += _dice(label_map(predictions[entry.case], steps), truth, targets)
        return made

    before = dice(kept) if settings.postprocess and entries else []
    for step in settings.postprocess if before else ():
        after = dice([*kept, step])
        if helps(before, after):
            kept, before = [*kept, step], after
    return {"postprocess": kept}


def score(
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    fold: int | str,
    task: Mapping[str, Any],
    settings: Evaluate,
    chosen: Mapping[str, Any],
) -> pd.DataFrame:
    """Scores of the predictions against the source label files: a row per case and class or region.

    Args:
        predictions: case → prediction.
        entries: the cases; those without a label are left out.
        fold: for the column `fold`.
        task: what is learnt.
        settings: of the scores.
        chosen: what `choose` returned.
    """
    targets = Targets.from_dict(task["targets"])
    rows = []
    for entry in entries:
        if "label" not in entry.files:
            continue
        found = label_map(predictions[entry.case], chosen["postprocess"])
        truth = read_labels(Path(entry.files["label"][0]), targets.classes)
        scored = score_volume(
            found.data,
            truth.data,
            truth.spacing,
            targets.values,
            tolerance_mm=settings.tolerance_mm,
            brats=settings.empty == "brats",
        )
        rows += [{"case": entry.case, "group": entry.group, "fold": fold, **row} for row in scored]
    return pd.DataFrame(rows)


def export(
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    settings: Export,
    chosen: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write each case as <case>.nii.gz, a label map with the user's own values in the source's grid.

    Args:
        predictions: case → prediction.
        entries: the cases.
        settings: with `probabilities`, <case>_<class>_probability.nii.gz (float32, 0 to 1) comes too; of a
            DICOM folder, `dicom_seg` makes <case>.dcm too.
        chosen: what `choose` returned.
        folder: where the files go.
    """
    for entry in entries:
        case, prediction = entry.case, predictions[entry.case]
        labels = label_map(prediction, chosen["postprocess"])
        write_volume(labels, folder / f"{case}.nii.gz")
        source = Path(entry.files["images"][0])
        if settings.dicom_seg and is_dicom_folder(source):
            # Only here, since importing it takes seconds.
            from foldwise.volumes.dicom_seg import write_dicom_seg

            write_dicom_seg(labels, source, classes_of(prediction), folder / f"{case}.dcm")
        if settings.probabilities:
            for name, volume in probability_maps(prediction).items():
                write_volume(volume, folder / f"{case}_{name}_probability.nii.gz")


def _dice(found: Volume, truth: Volume, targets: Targets) -> list[float]:
    made = []
    for values in targets.values.values():
        a, b = np.isin(found.data, values), np.isin(truth.data, values)
        size = int(a.sum() + b.sum())
        made.append(2 * int((a & b).sum()) / size if size else float("nan"))
    return made
