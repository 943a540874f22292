"""How much memory jobs request, from the work that they have to do."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from foldwise.check import Checked
from foldwise.experiment.parts import Parts
from foldwise.experiment.trial import remembered
from foldwise.forecast import SMALL_MIB, Step, asked_mib
from foldwise.sheet import AnyCase
from foldwise.systems.base import AnySettings, System
from foldwise.training.attempts import Attempts

# A training's memory stops growing here, at two and a half times the forecast.
MOST_KILLED = 3
# Cases that a part's job prepares at once: the threads of its rule.
PART_THREADS = 4
# Cases that one job scores.
SCORED = 50


class Jobs(Generic[AnySettings, AnyCase]):
    """Memory of an experiment's jobs."""

    def __init__(
        self,
        system: System[AnySettings, AnyCase],
        settings: AnySettings,
        counts: Path,
        parts: Parts[AnyCase],
        checked: Checked | None,
    ) -> None:
        """Keep the experiment.

        Args:
            system: of the experiment.
            settings: completed by the plan, if one exists.
            counts: JSON file with the stored sizes of networks.
            parts: how the preparation is divided.
            checked: facts about its data; None in a job's own Snakemake, which needs no memory requests.
        """
        self._system, self._settings, self._counts, self._parts = system, settings, counts, parts
        self._checked = checked

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """Case → its size, in the form of the system's footprint."""
        known = self._checked.sizes if self._checked else {}
        typical = self._system.footprint.typical
        return {name: known.get(name, typical) for name in self._parts.preparation.cases}

    @cached_property
    def task(self) -> dict[str, Any]:
        """What is learnt, as the index will store it."""
        assert self._checked is not None, "only the user's own call has checked the data"
        return self._system.task(self._settings, self._checked)

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB, for `mem_mb`; each retry adds half as much again.

        Args:
            stage: name of the rule.
            which: the case or the model.
            attempt: number of the try, from 1.
        """
        return asked_mib(stage, self.peak(stage, which), attempt)

    def peak(self, stage: str, which: str) -> float:
        """The expected peak of a job, in MiB."""
        footprint = self._system.footprint
        if stage in ("score", "export"):
            return footprint.scored_mib([*self.sizes.values()], self._settings)
        if stage in SMALL_MIB:
            return SMALL_MIB[stage] + (footprint.check_mib([*self.sizes.values()]) if stage == "check" else 0)
        if stage in self._parts.preparation.stages:
            return footprint.case_mib(stage, self.sizes[which], self._settings)
        sizes = list(self.sizes.values())
        return footprint.model_mib(stage, self._settings, which, sizes, self.step(which))

    def step(self, model: str) -> Step:
        """The size of a training step, which determines a model's memory; empty in a job's own Snakemake."""
        footprint = self._system.footprint
        if self._checked is None:
            return Step(0, 0, 0, 0)
        counted = footprint.counted(self._settings, model)
        if isinstance(counted, Step):
            return counted
        return remembered(self._system, counted, self.task, self._counts)

    def training_mib(self, model: str, state: str) -> int:
        """Memory of a training in MiB: more after each time that it was killed, up to a limit.

        Args:
            model: name of the model.
            state: folder of the training's state.
        """
        killed = min(MOST_KILLED, Attempts(Path(state) / "attempts.jsonl", 1).killed)
        return self.mib("train", model, killed + 1)

    def part_mib(self, folder: str, name: str, attempt: int) -> int:
        """Memory of a part's job in MiB: that of the largest stage, for as many cases as run at once.

        Cases that share processes share a network, too.
        """
        cases, prepared = self._parts.cases(name), self._parts.preparation
        settings, peak = self.filling(folder), self._system.footprint.case_mib

        def needed(stage: str) -> int:
            largest = max(peak(stage, self.sizes[case.name], settings) for case in cases)
            alone = prepared.stages[stage].neural and prepared.together
            return asked_mib(stage, largest, attempt) * (1 if alone else min(PART_THREADS, len(cases)))

        return max(map(needed, self._parts.stages(folder)))

    def filling(self, folder: str) -> AnySettings:
        """The settings of a job that fills a folder: for stored features with their encoder alone."""
        encoding = self._parts.preparation.encodings.get(folder)
        return self._settings.model_copy(update={"models": {folder: encoding}} if encoding else {})
