"""Crop a case to its box and record how to undo it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.files import atomic_folder, naming
from foldwise.volumes.crop import Masks, crop_case
from foldwise.volumes.settings import TUMOUR, Crop


@stage
def crop(
    *,
    case: Annotated[str, "the case's name, for messages"],
    images: Annotated[list[Path], "one file per channel"],
    label: Annotated[Path | None, "label map on the images' grid"] = None,
    weight: Annotated[Path | None, "weight map on the images' grid"] = None,
    region: Annotated[Path | None, "mask of the region"] = None,
    values: Annotated[list[int] | None, "values in that mask; default: all but 0"] = None,
    max_missed: Annotated[float, "share of labelled voxels that may lie outside that mask"] = 1.0,
    lungs: Annotated[Path | None, "mask of the lungs, for `to: lungs`"] = None,
    settings: Crop,
    labels: Annotated[dict[str, int] | None, "class name → voxel value, as YAML; default: tumour: 1"] = None,
    keep: Annotated[bool, "also write the cropped images"] = False,
    folder: Annotated[Output, "folder to write"],
) -> None:
    """Crop images, label and weight map of a case."""
    with naming(case), atomic_folder(folder) as temporary:
        crop_case(
            images,
            label,
            weight,
            Masks(region, lungs, values, max_missed),
            settings,
            labels or TUMOUR,
            temporary,
            keep=keep,
        )


if __name__ == "__main__":
    run(crop.main)
