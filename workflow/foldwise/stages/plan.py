"""Plan spacing, patch, batch, network and grey values from the cropped training cases."""

from __future__ import annotations

import logging
from pathlib import Path

from foldwise.command import parser, run, written
from foldwise.files import read_json, write_text
from foldwise.settings import parse, parse_values
from foldwise.systems.segmentation.planning import (
    memory_gib,
    plan_model,
    plan_text,
    read_fingerprint,
    target_spacing,
)
from foldwise.systems.segmentation.settings import Plan
from foldwise.volumes.settings import Data
from foldwise.volumes.sheet import read_sheet


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Plan)
    made.add_argument("--data", required=True, help="the data section, as YAML or JSON")
    made.add_argument("--cache", default="{}", help="what the experiment sets of the cache section")
    made.add_argument("--models", default="{unet: {}}", help="what it sets of each model")
    made.add_argument("--crops", required=True, type=Path, help="folder of the crops")
    made.add_argument("--out", required=True, type=written, help="plan to write (.yaml)")
    args = made.parse_args()
    settings, cache = parse(Plan, args.settings), parse_values(args.cache)
    data = parse(Data, args.data)
    targets = data.targets()
    crops = [args.crops / case.name for case in read_sheet(data).cases if case.trains]
    fingerprint = read_fingerprint(crops, settings.ct)
    channels = read_json(crops[0] / "crop.json")["channels"]
    spacing = cache.get("spacing") or target_spacing(fingerprint)
    models = {}
    for name, given in parse_values(args.models).items():
        models[name] = plan_model(fingerprint, spacing, given, targets, channels, memory_gib(settings))
        logging.info(
            "model %s: patch %s, batch %s", name, models[name]["patch"], models[name]["training"]["batch"]
        )
    planned = None if cache.get("spacing") or cache.get("shape") else spacing
    write_text(args.out, plan_text(fingerprint, planned, models, settings))


if __name__ == "__main__":
    run(main)
