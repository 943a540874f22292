"""All that can be known about an experiment's data before it runs: problems and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldwise.disk import NONE, of_cases, of_model, room
from foldwise.experiment.jobs import Jobs
from foldwise.experiment.parts import Parts
from foldwise.experiment.past import Past
from foldwise.experiment.preparation import per_case
from foldwise.experiment.settings import Experiment
from foldwise.experiment.times import SLICE, Times
from foldwise.forecast import Row, table
from foldwise.record import used
from foldwise.store import Memory
from foldwise.systems.base import System

# The jobs after preparation whose memory is listed.
LISTED = ("train", "test", "ensemble", "score", "export")


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
    parts, own = Parts(preparation), settings.results / settings.experiment
    jobs = Jobs(system, settings, counts, parts, checked)
    past = Past([own / "benchmarks", Path(preparation.data) / "benchmarks"], own)
    times = Times(system, settings, parts, jobs, past, lambda: 0)
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
    rows, prepared = [], of_cases(footprint, settings, checked.sizes)
    for stage in preparation.stages:
        largest = max(cases, key=lambda name: cases[name]["mib"][stage])
        minutes = times.minutes(stage, largest)
        left = prepared.pop(stage, NONE).left
        rows.append(Row(stage, largest, cases[largest]["mib"][stage], left, minutes=minutes))
    rows += [Row(kind, "", None, space.left) for kind, space in prepared.items()]
    listed = (*LISTED, *settings.further_tests)
    models = {name: {stage: round(jobs.peak(stage, name)) for stage in listed} for name in settings.models}
    for name in settings.models:
        spaces = of_model(footprint, settings, name, sheet.cases, checked.sizes, jobs.step(name))
        for stage in dict.fromkeys((*listed, *spaces)):
            space = spaces.get(stage, NONE)
            minutes = SLICE if stage == "train" else times.minutes(stage, name)
            peak = models[name].get(stage)
            rows.append(Row(stage, f"model {name}", peak, space.left, space.passing, minutes))
    facts = {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)}
    # Not kept: whether they are known yet must not decide whether check.json is up to date.
    remarks = system.results.view.remarks(cases, Path(preparation.data), Path(preparation.caches))
    noticed = [f"warning: case {remark.case}: {remark.text}" for remark in remarks]
    patterns = [path for stage in preparation.stages.values() for path in stage.outputs]
    there = [path for pattern in patterns for path in per_case(sheet.cases, pattern)]
    there.append(str(own))
    free = room(settings.results, sum(row.left + row.passing for row in rows), map(Path, there))
    return facts, [table(rows), *free, *checked.notes, *noticed]
