"""Predictions as files that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foldwise.settings import Export
from foldwise.volumes.predictions import classes_of, label_map, probability_maps
from foldwise.volumes.volume import is_dicom_folder, write_volume


def export_case(
    prediction: Path, postprocess: Sequence[str], settings: Export, folder: Path, source: Path
) -> None:
    """Write <case>.nii.gz, a label map with the user's own values in the source's grid.

    Args:
        prediction: <case>.h5 of the test or ensemble stage.
        postprocess: the steps that the test stage chose.
        settings: with `probabilities`, <case>_<class>_probability.nii.gz (float32, 0 to 1) comes too.
        folder: where the files go.
        source: the case's image; of a DICOM folder, `dicom_seg` makes <case>.dcm too.
    """
    case = prediction.stem
    labels = label_map(prediction, postprocess)
    write_volume(labels, folder / f"{case}.nii.gz")
    if settings.dicom_seg and is_dicom_folder(source):
        # Only here, since importing it takes seconds.
        from foldwise.volumes.dicom_seg import write_dicom_seg

        write_dicom_seg(labels, source, classes_of(prediction), folder / f"{case}.dcm")
    if settings.probabilities:
        for name, volume in probability_maps(prediction).items():
            write_volume(volume, folder / f"{case}_{name}_probability.nii.gz")
