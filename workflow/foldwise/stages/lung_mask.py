"""Find the lungs of a chest CT, and a region that includes tumours at their border."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.volumes.lung_mask import mask_case
from foldwise.volumes.settings import LungMask


@stage
def lung_mask(
    *,
    case: Annotated[str, "the case's name, for messages"],
    image: Annotated[Path, "CT in HU"],
    label: Annotated[Path | None, "label map, to report the share outside the region"] = None,
    ignore: Annotated[int | None, "value of the label map's voxels that do not count"] = None,
    settings: LungMask,
    mask: Annotated[Output, "lung mask to write (.nii.gz)"],
    region: Annotated[Output, "region to write (.nii.gz)"],
    facts: Annotated[Output, "findings to write (.json)"],
) -> None:
    """Write a case's lung mask and region, and the findings."""
    mask_case(case, image, label, settings, mask, region, facts, ignore=ignore)


if __name__ == "__main__":
    run(lung_mask.main)
