"""From predicted volumes to chosen post-processing, scores, and files for other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from foldwise.index import Entry
from foldwise.record import used
from foldwise.report.view import View
from foldwise.scores import Chosen, Scores
from foldwise.systems.base import Results, Rows
from foldwise.volumes.grids import voxel_ml_of
from foldwise.volumes.label_maps import keep_label_maps, kept_label_map, labelled_box
from foldwise.volumes.labels import read_labels
from foldwise.volumes.metrics import score as score_volume
from foldwise.volumes.postprocess import helps, processed, text
from foldwise.volumes.predictions import classes_of, label_map, probability_maps, targets_of
from foldwise.volumes.settings import Evaluate, Export, Step
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import is_dicom_folder, write_volume


class SegmentationResults(Results):
    """Post-processing chosen by Dice, scores on the source's grid, and label maps as files."""

    def choices(self, evaluate: Evaluate) -> Sequence[Chosen]:
        """All combinations of the post-processing steps, in their order; first none of them."""
        steps = evaluate.postprocess
        kept = [[s for s, one in zip(steps, which, strict=True) if one] for which in _which(len(steps))]
        return [{"postprocess": steps} for n, steps in enumerate(kept) if steps not in kept[:n]]

    def choose(self, scores: Mapping[str, Scores], evaluate: Evaluate) -> Chosen:
        """The post-processing steps, tried in order, that raise the mean Dice of these cases."""
        kept: list[Step] = []
        for step in evaluate.postprocess:
            before, after = (
                [dice for each in scores.values() for dice in _dices(each.of({"postprocess": steps}))]
                for steps in (kept, [*kept, step])
            )
            if helps(before, after):
                kept = [*kept, step]
        return {"postprocess": kept}

    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, chosen: Chosen
    ) -> Rows:
        """A row per class or region, against the source's label file."""
        return self._scored(prediction, entry, task, evaluate, [chosen], None)[0]

    def score_all(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Evaluate, file: h5py.File
    ) -> Sequence[Rows]:
        """The same with all combinations of post-processing steps; the file keeps their label maps."""
        return self._scored(prediction, entry, task, evaluate, self.choices(evaluate), file)

    def _scored(
        self,
        prediction: Path,
        entry: Entry,
        task: Mapping[str, Any],
        evaluate: Evaluate,
        choices: Sequence[Chosen],
        file: h5py.File | None,
    ) -> list[Rows]:
        """Rows for each choice; prediction and truth are read once."""
        targets = Targets.from_dict(task["targets"])
        found, truth = label_map(prediction), None
        if self.truths(entry):
            truth = read_labels(Path(self.truths(entry)[0]), targets, found)
        box = labelled_box(found.data, *([] if truth is None else [truth.data]))
        steps = [choice["postprocess"] for choice in choices]
        maps = [*_processed(found.data[box.slices], steps, targets, voxel_ml_of(found.affine))]
        if file is not None:
            keep_label_maps(file, maps, box, found)
        rows: dict[int, Rows] = {}
        for labels in maps:
            if id(labels) not in rows:
                rows[id(labels)] = (
                    []
                    if truth is None
                    else score_volume(
                        labels,
                        truth.data[box.slices],
                        truth.affine,
                        targets.values,
                        tolerance_mm=evaluate.tolerance_mm,
                        brats=evaluate.empty == "brats",
                        ignore=targets.ignore,
                        shape=truth.data.shape,
                    )
                )
        return [rows[id(labels)] for labels in maps]

    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Export,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """Write <case>.nii.gz, a label map with the user's label values in the source's grid.

        With `probabilities`, <case>_<class>_probability.nii.gz (float32, 0 to 1) is written too; for a DICOM
        folder with `dicom_seg`, also <case>.dcm. With `measurements`, rows of measurements.csv.
        """
        if scored is not None:
            labels = kept_label_map(scored, chosen)
        else:
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
        if not export.measurements:
            return {}
        from foldwise.volumes.measure import measure

        images = [Path(path) for path in entry.files["images"]]
        used(*images)
        rows = measure(labels, targets_of(prediction).values, images)
        return {"measurements.csv": [{"case": entry.case, "group": entry.group, **row} for row in rows]}

    @property
    def view(self) -> View:
        """Volumes and their Dice."""
        from foldwise.systems.segmentation.report import VIEW

        return VIEW


def _which(count: int) -> Iterator[tuple[bool, ...]]:
    """Which of so many steps are kept, in all combinations; first none."""
    return product((False, True), repeat=count)


def _processed(
    labels: np.ndarray, each: Sequence[Sequence[Step]], targets: Targets, voxel_ml: float
) -> Iterator[np.ndarray]:
    """Label maps after several post-processings; equal ones are the same object."""
    known: dict[tuple[str, ...], np.ndarray] = {(): labels}
    for steps in each:
        names = tuple(map(text, steps))
        for count, step in enumerate(steps, start=1):
            if names[:count] not in known:
                made = processed(known[names[: count - 1]], targets, step, voxel_ml)
                known[names[:count]] = next(
                    (one for one in known.values() if np.array_equal(one, made)), made
                )
        yield known[names]


def _dices(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The Dice of each target; undefined where truth and prediction are empty, however such a case counts."""
    return [math.nan if row["empty"] else row["dice"] for row in rows]
