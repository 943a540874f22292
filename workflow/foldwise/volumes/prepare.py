"""From a new scan to its cache, as the workflow prepares its cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, atomic_folder, read_json
from foldwise.index import Entry
from foldwise.settings import validate
from foldwise.volumes.cache import cache_case
from foldwise.volumes.crop import Masks, crop_case
from foldwise.volumes.lung_mask import mask_case
from foldwise.volumes.remarks import LUNG_FACTS
from foldwise.volumes.settings import Cache, Prepare
from foldwise.volumes.targets import Targets


def prepare_scan(entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
    """Write a new scan's cache as the workflow does for others, and return its path.

    Args:
        entry: the scan.
        state: contents of the model's file.
        folder: folder for the files.

    Raises:
        CaseError: the scan cannot be used.
    """
    prepare = validate(Prepare, state["prepared"]["prepare"], origin="model")
    cache = validate(Cache, state["prepared"]["cache"], origin="model")
    labels = Targets.from_dict(state["task"]["targets"]).labels
    images = [Path(path) for path in entry.files["images"]]
    masks = Masks()
    if prepare.lung_mask is not None:
        masks = Masks(folder / "region.nii.gz", folder / "mask.nii.gz")
        found = (folder / "mask.nii.gz", folder / "region.nii.gz", folder / LUNG_FACTS)
        mask_case(entry.case, images[0], None, prepare.lung_mask, *found)
    elif prepare.region is not None:
        if "region" not in entry.files:
            raise CaseError(
                f"{images[0]}: the model needs a mask of the region (prepare.region), as in the column "
                f"`{prepare.region.column}` of its training cases; give it too"
            )
        masks = Masks(Path(entry.files["region"][0]), values=prepare.region.values)
    with atomic_folder(folder / "crop") as cropped:
        crop_case(images, None, None, masks, prepare.crop, labels, cropped)
    found, wanted = read_json(folder / "crop" / "crop.json")["channels"], state["task"]["channels"]
    if found != wanted:
        raise CaseError(f"{found} image channel(s), but the model takes {wanted}")
    path = folder / f"{entry.case}.h5"
    cache_case(entry.case, folder / "crop", cache, labels, path)
    return path
