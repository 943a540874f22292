"""New scans for a trained model, prepared as its training cases were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.files import CaseError, atomic_folder, read_json
from foldwise.index import Entry
from foldwise.settings import validate
from foldwise.stages.lung_mask import lung_mask
from foldwise.volumes.prepare import cache_case, crop_case
from foldwise.volumes.settings import Cache, Prepare
from foldwise.volumes.sheet import read_new_cases
from foldwise.volumes.targets import Targets


def new_entries(source: Path) -> list[Entry]:
    """Scans to be predicted, from a sample sheet or a folder; their caches are not made yet.

    Raises:
        CaseError: nothing to predict, or a sheet with faults.
    """
    return [
        Entry(case.name, case.group, {"images": tuple(map(str, case.images))}, "", {}, 0)
        for case in read_new_cases(source)
    ]


def prepare_case(entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
    """Make a new scan's cache as the workflow would, and return its path.

    Args:
        entry: the scan.
        state: what the model's file holds.
        folder: for the files.

    Raises:
        CaseError: the scan cannot be used.
    """
    prepare = validate(Prepare, state["prepared"]["prepare"], origin="model")
    cache = validate(Cache, state["prepared"]["cache"], origin="model")
    classes = Targets.from_dict(state["task"]["targets"]).classes
    images = [Path(path) for path in entry.files["images"]]
    inside = None
    if prepare.lung_mask is not None:
        mask, region = folder / "mask.nii.gz", folder / "region.nii.gz"
        lung_mask(entry.case, images[0], None, prepare.lung_mask, mask, region, folder / "lungs.json")
        inside = {"region": region, "lungs": mask}.get(prepare.crop.to)
    with atomic_folder(folder / "crop") as cropped:
        crop_case(images, None, None, inside, prepare.crop, classes, cropped)
    found, wanted = read_json(folder / "crop" / "crop.json")["channels"], state["task"]["channels"]
    if found != wanted:
        raise CaseError(f"{found} image channel(s), the model takes {wanted}")
    path = folder / f"{entry.case}.h5"
    cache_case(entry.case, folder / "crop", cache, classes, path)
    return path
