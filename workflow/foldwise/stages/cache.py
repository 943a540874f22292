"""Write a case's HDF5 cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Keys, Output, run, stage
from foldwise.files import naming, read_json
from foldwise.plan import with_plan
from foldwise.record import used
from foldwise.volumes.cache import cache_case
from foldwise.volumes.cropped import keeps_images
from foldwise.volumes.settings import TUMOUR, Cache


@stage
def cache_stage(
    *,
    case: Annotated[str, "the case's name"],
    crop: Annotated[Path, "folder that the crop stage wrote"],
    settings: Annotated[dict[str, Any], Keys(Cache)],
    plan: Annotated[Path | None, "plan.yaml, for values missing from the settings"] = None,
    labels: Annotated[dict[str, int] | None, "class name → voxel value, as YAML; default: tumour: 1"] = None,
    cache: Annotated[Output, "HDF5 file to write"],
) -> None:
    """Resample a cropped case and write the file that training reads."""
    with naming(case):
        if not keeps_images(crop):
            used(*read_json(crop / "crop.json")["images"])
        cache_case(case, crop, with_plan(Cache, settings, plan, "cache"), labels or TUMOUR, cache)
    logging.info("case %s: %.1f MiB", case, cache.stat().st_size / 2**20)


if __name__ == "__main__":
    run(cache_stage.main)
