"""The experiment that every rule reads: settings, sample sheet, paths, memory."""

import json
from pathlib import Path

from foldwise.front_door import front_door, use_this_checkout
from foldwise.layout import option
from foldwise.settings import as_json

use_this_checkout(Path(workflow.basedir))

LAYOUT = front_door(
    config,
    main=workflow.is_main_process,
    # `set-scatter: {prepare: 30}` of a profile.
    parts=workflow.resource_settings.overwrite_scatter.get("prepare"),
    # Where jobs are submitted, Snakemake counts these and no cores.
    submitted=(
        None
        if workflow.resource_settings.nodes is None
        else [str(path) for path in workflow.overwrite_configfiles]
    ),
)
SETTINGS = LAYOUT.settings


wildcard_constraints:
    case="[A-Za-z0-9][A-Za-z0-9_.-]*",
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    fold="[0-9]+",
    part="[0-9]+",
    parts="[0-9]+",
    folder="[a-z]+-[0-9a-f]+",
    share="(training|others)_[0-9]+of[0-9]+",
