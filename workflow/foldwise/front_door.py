"""What the Snakefile does before any rule: read the settings and the sheet, and look at every header."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldwise import forecast
from foldwise.check import Checked, check
from foldwise.files import CaseError
from foldwise.layout import Layout
from foldwise.settings import Settings, validate
from foldwise.sheet import Case, Sheet, read_sheet

# A header not made yet (the demo's) or not readable: what a clinical chest CT has.
TYPICAL = forecast.Size(shape=(512, 512, 300), spacing=(0.8, 0.8, 1), channels=1, labelled=True)
PHANTOMS = Path("results/phantom")


class FrontDoor(Layout):
    """The layout of an experiment, and the memory of its jobs."""

    def __init__(self, settings: Settings, sheet: Sheet, checked: Checked | None) -> None:
        """Keep what was checked; None in a job's own Snakemake, which needs the memory of no job."""
        super().__init__(settings, sheet)
        self.checked = checked
        self.sizes = {case.name: self._size(case) for case in sheet.cases}

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB, for `mem_mb`; a retry gets half as much again.

        Args:
            stage: name of the rule.
            which: its case, or its model.
            attempt: number of the try, from 1.
        """
        if stage in ("lung_mask", "crop", "cache"):
            peak = forecast.case_mib(stage, self.sizes[which], self.planned)
        elif stage in ("train", "test", "ensemble", "predict"):
            peak = forecast.model_mib(
                stage, list(self.sizes.values()), self.planned, self.planned.models[which], self._step(which)
            )
        else:
            peak = forecast.small_mib(stage)
        return forecast.asked_mib(stage, peak, attempt)

    def _step(self, model: str) -> forecast.Step | None:
        """What a step of the model holds; None while its plan is not made, or in a job's own Snakemake."""
        if self.checked is None or (self.plan and not Path(self.plan).exists()):
            return forecast.Step(0, 0, 0, 0) if self.checked is None else None
        channels = next(iter(self.sizes.values())).channels
        targets = self.settings.data.targets()
        return forecast.count(self.planned.models[model], targets, channels, Path(self.counts))

    def _size(self, case: Case) -> forecast.Size:
        return (self.checked.size(case) if self.checked else None) or TYPICAL


def use_this_checkout(root: Path) -> None:
    """Let jobs run this interpreter and this checkout's package, whatever the shell's PATH says."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(root / "workflow")


def front_door(config: Mapping[str, Any], main: bool) -> FrontDoor:
    """Read the experiment; the user's own call also looks at every header, before the DAG is built.

    The headers are read here and not in a rule: a rule whose output all others take as input would, when the
    sheet changes, redo all cases; marked `ancient`, it would hide their own changes from Snakemake.

    Args:
        config: Snakemake's config.
        main: whether this is the user's own call of Snakemake and not a job's.

    Raises:
        SystemExit: the settings or the data are wrong; everything that is wrong is printed first.
    """
    try:
        settings = validate(Settings, dict(config), origin="config")
        sheet = read_sheet(settings.data)
        checked = check(sheet, settings, labels=False, produced=_is_phantom) if main else None
        if checked:
            checked.refuse(settings.data.sheet)
        door = FrontDoor(settings, sheet, checked)
        for model in settings.models if main else ():
            # Also tells of a network that cannot be made, or cannot take its patches.
            door._step(model)
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    return door


def _is_phantom(path: Path) -> bool:
    return PHANTOMS in path.parents
