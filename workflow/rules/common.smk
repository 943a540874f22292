"""The experiment that every rule reads: settings, names of files, preparation of cases, and job resources.

A rule passes its request in one way: `params.request`, words of a command line that are quoted one by one. It
depends on its inputs and on `params.depends`, which is computed from the settings' declarations; the request
itself is built from input, output and threads, so it causes no rerun.
"""

import json
from functools import partial
from pathlib import Path

from foldwise import command
from foldwise.experiment.preparation import per_case
from foldwise.follow import follow
from foldwise.front_door import front_door, use_this_package
from foldwise.gpus import jobs_at_once
from foldwise.settings import as_json
from foldwise.status import note_run

use_this_package(deployed=bool(workflow.deployment_settings.deployment_method))

NAMES = workflow.modifier.path_modifier
if NAMES.prefix is not None or NAMES.modifies_prefixes:
    raise SystemExit(
        "error: `prefix` and `replace_prefix` of a module would rename outputs that jobs know by their names; "
        "set the path variable `results`, or the setting"
    )

EXPERIMENT = front_door(
    # A module's path variable; the setting comes first.
    {"results": workflow.pathvars.apply("<results>"), **config},
    main=workflow.is_main_process,
    # `set-scatter: {prepare: 30}` in a profile.
    parts=workflow.resource_settings.overwrite_scatter.get("prepare"),
    # If jobs are submitted, Snakemake counts these and no cores.
    submitted=(
        None
        if workflow.resource_settings.nodes is None
        else [str(path) for path in workflow.overwrite_configfiles]
    ),
)
SETTINGS = EXPERIMENT.settings
PATHS = EXPERIMENT.paths
PREPARED = EXPERIMENT.preparation
PARTS = EXPERIMENT.parts
JOBS = EXPERIMENT.jobs
TIMES = EXPERIMENT.times
DEPENDS = EXPERIMENT.depends


# Jobs that run here share the GPUs of this machine; in a cluster's job, it has its own.
SHARED = workflow.is_main_process and workflow.resource_settings.nodes is None


if SHARED and "device" not in workflow.global_resources:
    workflow.register_resource(
        "device", 1 if SETTINGS.device == "cpu" else jobs_at_once()
    )


onstart:
    # A part's job prepares cases only.
    if SHARED and SETTINGS.part is None:
        follow(EXPERIMENT)
    elif workflow.is_main_process:
        note_run(Path(PATHS.runs), workflow.scheduler._executor)


# Outputs name each other relative to the folder of results.
request = partial(
    command.request,
    results=SETTINGS.results,
    gpus=command.FREE if SHARED else None,
    device=SETTINGS.device if SETTINGS.device != "auto" else None,
)


wildcard_constraints:
    case="[A-Za-z0-9][A-Za-z0-9_.-]*",
    model="[A-Za-z0-9][A-Za-z0-9_.-]*",
    fold="[0-9]+",
    part="[0-9]+",
    parts="[0-9]+",
    folder="[a-z]+-[0-9a-f]+",
    cases="(training|others)_[0-9]+of[0-9]+",
    place="fold[0-9]+|ensemble",
    share="predictions|validation",
