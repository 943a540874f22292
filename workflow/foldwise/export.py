"""Predictions as files that other programs read."""

from __future__ import annotations

from pathlib import Path

from foldwise.settings import Export
from foldwise.volumes.predictions import label_map, probability_maps
from foldwise.volumes.volume import write_volume


def export_case(
    prediction: Path, classes: dict[str, int], postprocess: str, settings: Export, folder: Path
) -> None:
    """Write <case>.nii.gz, a label map with the user's own values in the source's grid.

    Args:
        prediction: <case>.h5 of the test or ensemble stage.
        classes: class name → voxel value.
        postprocess: the step that the test stage chose.
        settings: with `probabilities`, <case>_<class>_probability.nii.gz (float32, 0 to 1) comes too.
        folder: where the files go.
    """
    case = prediction.stem
    write_volume(label_map(prediction, classes, postprocess), folder / f"{case}.nii.gz")
    if settings.probabilities:
        for name, volume in probability_maps(prediction).items():
            write_volume(volume, folder / f"{case}_{name}_probability.nii.gz")
