"""The folders of a segmentation experiment, the inputs of its preparation, and the memory of its jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from foldwise.forecast import SMALL_MIB, Step, asked_mib
from foldwise.plan import read_plan
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.systems.segmentation.check import check
from foldwise.systems.segmentation.forecast import count, model_mib
from foldwise.systems.segmentation.planning import complete
from foldwise.systems.segmentation.settings import Settings
from foldwise.volumes.check import Checked
from foldwise.volumes.forecast import case_mib
from foldwise.volumes.layout import VolumeLayout, is_phantom
from foldwise.volumes.sheet import Case, read_sheet


def open_experiment(config: dict[str, Any], main: bool) -> Layout:
    """Read the settings and the sheet; in the user's own call also look at headers.

    Raises:
        CaseError: everything that is wrong.
    """
    settings = validate(Settings, config, origin="config")
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings, labels=False, produced=is_phantom) if main else None
    if checked:
        checked.refuse(settings.data.sheet)
    made = Layout(settings, sheet, checked)
    if main:
        _ = made.planned  # an edited plan is read before anything is done
    return made


class Layout(VolumeLayout[Settings]):
    """Lungs, crops and caches of a segmentation experiment, and its plan."""

    def __init__(self, settings: Settings, sheet: Sheet[Case], checked: Checked | None) -> None:
        """Keep what was checked; None in a job's own Snakemake, which needs the memory of no job."""
        super().__init__(settings, sheet, checked)
        if settings.plan is not None:
            self.plan = f"{self.experiment}/plan.yaml"

    @property
    def cache_key(self) -> list[Any]:
        """What a plan decides is known only later, and an experiment has one of its own."""
        settings = self.settings
        if settings.plan is None:
            return super().cache_key
        return [dump(settings.cache, given=True), settings.experiment, dump(settings.plan)]

    @property
    def models(self) -> Sequence[str]:
        """Names of the models."""
        return list(self.settings.models)

    @cached_property
    def planned(self) -> Settings:
        """The settings, completed by the plan if it is made already."""
        if self.plan is None or not Path(self.plan).exists():
            return self.settings
        return complete(self.settings, Path(self.plan))

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB; a retry gets half as much again."""
        if stage in SMALL_MIB:
            peak = SMALL_MIB[stage]
        elif which in self.sizes:
            peak = case_mib(stage, self.sizes[which], self.planned.cache)
        else:
            sizes, model = list(self.sizes.values()), self.planned.models[which]
            peak = model_mib(stage, sizes, self.planned, model, self.step(which))
        return asked_mib(stage, peak, attempt)

    def step(self, model: str) -> Step | None:
        """What a step of the model holds; None while its plan is not made, or in a job's own Snakemake."""
        if self.checked is None or not self.is_planned(model):
            return Step(0, 0, 0, 0) if self.checked is None else None
        return count(self.planned.models[model], self.task, Path(self.counts))

    def is_planned(self, model: str) -> bool:
        """Whether there is nothing left to plan of a model."""
        if self.plan is None:
            return True
        return Path(self.plan).exists() and model in read_plan(Path(self.plan)).models

    @property
    def task(self) -> dict[str, Any]:
        """What is learnt, as the index will have it."""
        channels = next(iter(self.sizes.values())).channels
        return {"targets": self.settings.data.targets().as_dict(), "channels": channels}

    def try_model(self, model: str) -> None:
        """Try a model, or, before it is planned, what is given of it."""
        chosen = self.planned.models[model]
        count(chosen, self.task, Path(self.counts), trying=True, whole=self.is_planned(model))

    @property
    def given_models(self) -> str:
        """What the experiment sets of each model, as JSON."""
        return json.dumps({name: dump(model, given=True) for name, model in self.settings.models.items()})

    def pretrained(self, model: str) -> list[str]:
        """The file of weights that a model starts from, if there is one."""
        settings = self.settings.models[model].pretrained
        return [str(settings.file)] if settings else []

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        heavy = ("network", "dimensions", "slice_axis", "slices", "patch", "inference", "sampling", "loss")
        training = {"batch": True, "accumulate": True, "amp": True, "gpus": True}
        per_model: Any = {
            name: {**dict.fromkeys(heavy, True), "training": training} for name in self.settings.models
        }
        whole = dict.fromkeys(("experiment", "system", "data", "prepare", "cache", "split", "plan"), True)
        return self.settings.model_dump_json(include={**whole, "models": per_model})
