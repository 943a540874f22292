"""What the check of an interactive experiment finds: volumes, labels, memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldwise.check import Produced
from foldwise.files import CaseError
from foldwise.forecast import table
from foldwise.sheet import Sheet
from foldwise.systems.interactive.forecast import count, model_mib
from foldwise.systems.interactive.settings import Settings
from foldwise.volumes.check import Checked, check_volumes
from foldwise.volumes.forecast import case_mib, disk_mib
from foldwise.volumes.sheet import Case, read_sheet


def check(
    sheet: Sheet[Case], settings: Settings, *, labels: bool, produced: Produced = lambda path: False
) -> Checked:
    """Check a sheet and the files that it names.

    Args:
        sheet: as read.
        settings: of the experiment.
        labels: also read the labels' voxels and compare their values with `data.labels`.
        produced: says of a missing file whether the workflow makes it itself.

    Raises:
        CaseError: a file of weights is missing.
    """
    for name, model in settings.models.items():
        weights = model.trunk.weights
        if weights is not None and not weights.exists():
            raise CaseError(f"models.{name}.trunk.weights: {weights}: no such file")
    return check_volumes(sheet, settings.data, settings.split, labels=labels, produced=produced)


def examine(settings: Settings, counts: Path) -> tuple[dict[str, Any], str]:
    """Check everything, and forecast memory and disk.

    Args:
        settings: of the experiment.
        counts: JSON that remembers what networks hold.

    Returns:
        Facts for check.json, and a table to print.

    Raises:
        CaseError: everything that is wrong.
    """
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings, labels=True)
    checked.refuse(settings.data.sheet)
    sizes = {case.name: size for case in sheet.cases if (size := checked.size(case))}
    stages = (["lung_mask"] if settings.prepare.lung_mask else []) + ["crop", "cache"]
    cases = {}
    for case in sheet.cases:
        header, size = checked.headers[case.images[0]], sizes[case.name]
        cases[case.name] = {
            "group": case.group,
            "labelled": case.labelled,
            "split": case.split,
            "shape": list(header.shape),
            "affine": header.affine.tolist(),
            "mib": {stage: case_mib(stage, size, settings.cache) for stage in stages},
            "disk_mib": disk_mib(size, settings.cache, len(settings.data.labels)),
        }
    channels = max(size.channels for size in sizes.values())
    task = {"targets": settings.data.targets().as_dict(), "channels": channels}
    peaks = []
    for stage in stages:
        largest = max(cases, key=lambda name: cases[name]["mib"][stage])
        peaks.append((stage, cases[largest]["mib"][stage], largest))
    models: dict[str, dict[str, int]] = {}
    for name, model in settings.models.items():
        step = count(model, task, counts)
        models[name] = {
            stage: model_mib(stage, list(sizes.values()), settings, model, step)
            for stage in ("train", "test", "ensemble")
        }
        peaks += [(stage, mib, f"model {name}") for stage, mib in models[name].items()]
    disk = sum(sum(facts["disk_mib"].values()) for facts in cases.values())
    warnings = list(checked.warnings)
    if unlabelled := [case.name for case in sheet.cases if not case.labelled]:
        warnings.append(
            f"{len(unlabelled)} case(s) without a label, e.g. {unlabelled[0]}: no user can be simulated for "
            f"them; segment such scans by `python -m foldwise.annotate`"
        )
    facts = {"cases": cases, "models_mib": models, "warnings": warnings}
    return facts, table(peaks, disk, len(cases))
