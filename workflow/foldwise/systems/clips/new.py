"""New clips for a trained model, prepared as its training cases were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise.index import Entry
from foldwise.settings import validate
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.regions import find_regions
from foldwise.systems.clips.settings import Cache, Model, Prepare
from foldwise.systems.clips.sheet import read_new_cases


def new_entries(source: Path) -> list[Entry]:
    """Clips to be predicted, from a sample sheet or a folder; their caches are not made yet.

    Raises:
        CaseError: nothing to predict, or a sheet with faults.
    """
    made = []
    for case in read_new_cases(source):
        files: dict[str, tuple[str, ...]] = {"video": (str(case.video),)}
        if case.mask is not None:
            files["mask"] = (str(case.mask),)
        made.append(Entry(case.name, case.group, files, "", {"label": "", "box": case.box}, 0))
    return made


def prepare_case(entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
    """Make the file that the model's network takes of a new clip, and return its path.

    Args:
        entry: the clip.
        state: what the model's file holds.
        folder: for the files.

    Raises:
        CaseError: the clip cannot be used.
    """
    prepare = validate(Prepare, state["prepared"]["prepare"], origin="model")
    cache = validate(Cache, state["prepared"]["cache"], origin="model")
    model = validate(Model, state["settings"], origin="model")
    path = folder / "frames" / f"{entry.case}.h5"
    cache_clip(entry.case, Path(entry.files["video"][0]), "", cache, path)
    if model.input == "whole" or prepare.regions is None:
        return path
    made = folder / "regions" / f"{entry.case}.h5"
    mask = Path(entry.files["mask"][0]) if "mask" in entry.files else None
    facts = made.with_suffix(".json")
    find_regions(entry.case, path, entry.facts["box"], mask, prepare.regions, made, facts)
    return made
