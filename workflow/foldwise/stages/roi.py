"""Find a clip's region in all frames: on key frames, interpolated in between, or followed by a network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from foldwise.command import Output, run, stage
from foldwise.files import naming
from foldwise.systems.clips.regions import find_regions
from foldwise.systems.clips.settings import Regions


@stage(gpus=lambda values: int(values["settings"].weights is not None))
def roi(
    *,
    case: Annotated[str, "the case's name"],
    cache: Annotated[Path, "the case's frame cache"],
    box: Annotated[str, "prompt `x0 y0 x1 y1` in pixels of the video"] = "",
    mask: Annotated[Path | None, "given mask: an image, or a folder of images by frame number"] = None,
    settings: Regions,
    regions: Annotated[Output, "HDF5 file to write"],
    facts: Annotated[Output, "findings to write (.json)"],
) -> None:
    """Find the regions of a clip."""
    with naming(case):
        found = find_regions(case, cache, box, mask, settings, regions, facts)
    logging.info("%s: %.1f %% of the frame; %s", case, 100 * found.share, found.review or "accepted")


if __name__ == "__main__":
    run(roi.main)
