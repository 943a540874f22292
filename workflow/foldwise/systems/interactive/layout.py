"""The folders of an interactive experiment, and the memory of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldwise.forecast import SMALL_MIB, Step, asked_mib
from foldwise.settings import validate
from foldwise.systems.interactive.check import check
from foldwise.systems.interactive.forecast import count, model_mib
from foldwise.systems.interactive.settings import Settings
from foldwise.volumes.forecast import case_mib
from foldwise.volumes.layout import VolumeLayout, is_phantom
from foldwise.volumes.sheet import read_sheet


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
    return Layout(settings, sheet, checked)


class Layout(VolumeLayout[Settings]):
    """Crops and caches as of any volumes; the memory of both networks."""

    @property
    def models(self) -> Sequence[str]:
        """Names of the models."""
        return list(self.settings.models)

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB; a retry gets half as much again."""
        if stage in SMALL_MIB:
            peak = SMALL_MIB[stage]
        elif which in self.sizes:
            peak = case_mib(stage, self.sizes[which], self.settings.cache)
        else:
            sizes, model = list(self.sizes.values()), self.settings.models[which]
            peak = model_mib(stage, sizes, self.settings, model, self.step(which))
        return asked_mib(stage, peak, attempt)

    def step(self, model: str) -> Step:
        """What a step of the model holds; nothing in a job's own Snakemake, which asks for no memory."""
        if self.checked is None:
            return Step(0, 0, 0, 0)
        return count(self.settings.models[model], self.task, Path(self.counts))

    @property
    def task(self) -> dict[str, Any]:
        """What is learnt, as the index will have it."""
        channels = next(iter(self.sizes.values())).channels
        return {"targets": self.settings.data.targets().as_dict(), "channels": channels}

    def try_model(self, model: str) -> None:
        """Try a model."""
        count(self.settings.models[model], self.task, Path(self.counts), trying=True)

    def pretrained(self, model: str) -> list[str]:
        """Files of weights that a model starts from."""
        chosen = self.settings.models[model]
        made = [str(chosen.trunk.weights)] if chosen.trunk.weights else []
        return made + ([str(chosen.pretrained.file)] if chosen.pretrained else [])

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        heavy: Any = {
            "trunk": True,
            "size": True,
            "slice_axis": True,
            "frames": True,
            "memory": True,
            "training": {"batch": True, "accumulate": True, "gpus": True},
        }
        whole = dict.fromkeys(("experiment", "system", "data", "prepare", "cache", "split"), True)
        models = dict.fromkeys(self.settings.models, heavy)
        return self.settings.model_dump_json(include={**whole, "models": models})
