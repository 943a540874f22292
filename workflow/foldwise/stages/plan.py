"""Plan spacing, patch, batch, network and grey values from the cropped training cases."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from foldwise.command import Folder, Output, run, stage
from foldwise.files import read_json, write_text
from foldwise.record import used
from foldwise.systems.segmentation.planning import plan_model, plan_text, read_fingerprint, target_spacing
from foldwise.systems.segmentation.settings import Plan
from foldwise.volumes.settings import Data
from foldwise.volumes.sheet import read_sheet


@stage
def plan(
    *,
    settings: Plan,
    data: Data,
    cache: Annotated[dict[str, Any] | None, "values of the section cache set in the experiment"] = None,
    models: Annotated[dict[str, dict[str, Any]] | None, "values of each model set in the experiment"] = None,
    crops: Annotated[Folder, "folder of the crops"],
    out: Annotated[Output, "plan to write (.yaml)"],
) -> None:
    """Write the plan of every model."""
    targets, given_cache = data.targets(), cache or {}
    cropped = [crops / case.name for case in read_sheet(data).cases if case.trains]
    used(*cropped)
    fingerprint = read_fingerprint(cropped, settings.ct)
    channels = read_json(cropped[0] / "crop.json")["channels"]
    spacing = given_cache.get("spacing") or target_spacing(fingerprint)
    planned = {}
    for name, given in (models or {"unet": {}}).items():
        planned_model = planned[name] = plan_model(
            fingerprint, spacing, given, targets, channels, settings.gib
        )
        logging.info(
            "model %s: patch %s, batch %s", name, planned_model["patch"], planned_model["training"]["batch"]
        )
    chosen = None if given_cache.get("spacing") or given_cache.get("shape") else spacing
    write_text(out, plan_text(fingerprint, chosen, planned, settings))


if __name__ == "__main__":
    run(plan.main)
