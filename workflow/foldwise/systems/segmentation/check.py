"""What the check of a segmentation experiment finds: volumes, samplers, memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldwise.check import Produced
from foldwise.forecast import table
from foldwise.sheet import Sheet
from foldwise.systems.segmentation.forecast import count, model_mib
from foldwise.systems.segmentation.settings import Settings
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
    """
    weighted = [name for name, model in settings.models.items() if model.sampling.weighted]
    lungs = settings.prepare.lung_mask is not None
    needs_weight = f"model {weighted[0]} samples by weight" if weighted and not lungs else None
    return check_volumes(
        sheet, settings.data, settings.split, labels=labels, produced=produced, needs_weight=needs_weight
    )


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
    models = _models(settings, list(sizes.values()), counts)
    peaks = []
    for stage in stages:
        case_name = max(cases, key=lambda name: cases[name]["mib"][stage])
        peaks.append((stage, cases[case_name]["mib"][stage], case_name))
    peaks += [(stage, mib, f"model {name}") for name, made in models.items() for stage, mib in made.items()]
    disk = sum(sum(facts["disk_mib"].values()) for facts in cases.values())
    facts = {"cases": cases, "models_mib": models, "warnings": list(checked.warnings)}
    return facts, table(peaks, disk, len(cases))


def _models(settings: Settings, sizes: list[Any], counts: Path) -> dict[str, dict[str, int]]:
    """Model → stage → peak in MiB."""
    task = {
        "targets": settings.data.targets().as_dict(),
        "channels": max(size.channels for size in sizes),
    }
    made = {}
    for name, model in settings.models.items():
        step = None if settings.plan else count(model, task, counts)
        made[name] = {
            stage: model_mib(stage, sizes, settings, model, step) for stage in ("train", "test", "ensemble")
        }
    return made
