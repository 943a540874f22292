"""All that can be known about an experiment's data before it runs: problems and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldwise.experiment.jobs import Jobs
from foldwise.experiment.parts import Parts
from foldwise.forecast import table
from foldwise.record import used
from foldwise.settings import Experiment
from foldwise.store import Memory
from foldwise.systems.base import System

# The model jobs whose memory is listed.
LISTED = ("train", "test", "ensemble")


def examine(system: System[Any, Any], settings: Experiment, counts: Path) -> tuple[dict[str, Any], list[str]]:
    """Check everything, and forecast memory and disk.

    Args:
        system: of the experiment.
        settings: of the experiment.
        counts: JSON file with the stored sizes of networks.

    Returns:
        Facts for check.json, and lines to print.

    Raises:
        CaseError: all problems.
    """
    sheet = system.read_sheet(settings.data)
    used(settings.data.sheet, *(path for case in sheet.cases for path in case.files))
    checked = system.check(settings, sheet, deep=True, memory=Memory(None))
    checked.refuse(settings.data.sheet)
    preparation, footprint = system.preparation(settings, sheet), system.footprint
    jobs = Jobs(system, settings, counts, Parts(preparation), checked)
    cases: dict[str, dict[str, Any]] = {}
    for case in sheet.cases:
        cases[case.name] = {
            "group": case.group,
            "labelled": case.labelled,
            "split": case.split,
            **checked.facts[case.name],
            "mib": {stage: jobs.peak(stage, case.name) for stage in preparation.stages},
            "disk_mib": footprint.disk_mib(checked.sizes[case.name], settings),
        }
    peaks = []
    for stage in preparation.stages:
        largest = max(cases, key=lambda name: cases[name]["mib"][stage])
        peaks.append((stage, round(cases[largest]["mib"][stage]), largest))
    models = {name: {stage: round(jobs.peak(stage, name)) for stage in LISTED} for name in settings.models}
    peaks += [
        (stage, mib, f"model {name}") for name, stages in models.items() for stage, mib in stages.items()
    ]
    disk = sum(sum(facts["disk_mib"].values()) for facts in cases.values())
    facts = {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)}
    # Not kept: whether they are known yet must not decide whether check.json is up to date.
    remarks = system.results.view.remarks(cases, Path(preparation.data), Path(preparation.caches))
    noticed = [f"warning: case {remark.case}: {remark.text}" for remark in remarks]
    return facts, [table(peaks, disk, len(cases)), *checked.notes, *noticed]
