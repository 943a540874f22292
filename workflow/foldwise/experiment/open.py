"""From a configuration to an experiment: settings and sheet are read and validated in every call."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Generic

from foldwise.check import Checked
from foldwise.experiment.depends import Depends
from foldwise.experiment.jobs import SCORED, Jobs
from foldwise.experiment.parts import Parts, divided, part_of
from foldwise.experiment.past import Past
from foldwise.experiment.paths import ENSEMBLE, Paths
from foldwise.experiment.preparation import Preparation
from foldwise.experiment.times import Times
from foldwise.experiment.trial import remembered, try_file
from foldwise.files import CaseError, files_in
from foldwise.index import check_file
from foldwise.plan import is_planned
from foldwise.settings import validate
from foldwise.sheet import AnyCase, Sheet
from foldwise.store import Memory
from foldwise.systems import system_of
from foldwise.systems.base import AnySettings, System
from foldwise.systems.new import NewCases


@dataclass(frozen=True)
class Opened(Generic[AnySettings, AnyCase]):
    """An experiment as the rules use it.

    Attributes:
        system: the kind of experiment.
        settings: as given in the configuration.
        complete: the same, completed by the plan, if one exists already.
        sheet: its cases; in a job that prepares a part, those of the part.
        checked: facts about its data; None in a job's own Snakemake.
        paths: names of its files.
        preparation: how its cases are prepared.
        parts: how they are divided among jobs.
        memory: what is known of sources and outputs from earlier calls; empty in a job's own Snakemake.
    """

    system: System[AnySettings, AnyCase]
    settings: AnySettings
    complete: AnySettings
    sheet: Sheet[AnyCase]
    checked: Checked | None
    paths: Paths
    preparation: Preparation[AnyCase]
    parts: Parts[AnyCase]
    memory: Memory

    @cached_property
    def jobs(self) -> Jobs[AnySettings, AnyCase]:
        """How much memory its jobs request."""
        return Jobs(self.system, self.complete, Path(self.paths.counts), self.parts, self.checked)

    @cached_property
    def times(self) -> Times[AnySettings, AnyCase]:
        """How long its jobs may take."""
        folders = [Path(place) / "benchmarks" for place in (self.paths.experiment, self.preparation.data)]
        past = Past(folders, Path(self.paths.experiment))
        return Times(self.system, self.complete, self.parts, self.jobs, past, lambda: len(self.new_cases))

    @cached_property
    def depends(self) -> Depends:
        """What depends on its settings."""
        return Depends(self.system, self.settings, self.preparation)

    @cached_property
    def cases(self) -> dict[str, AnyCase]:
        """All cases by name."""
        return {case.name: case for case in self.sheet.cases}

    @cached_property
    def training(self) -> list[AnyCase]:
        """The labelled cases of the cross-validation."""
        return [case for case in self.sheet.cases if case.trains]

    @cached_property
    def others(self) -> list[AnyCase]:
        """The fixed test set and the unlabelled cases."""
        return [case for case in self.sheet.cases if not case.trains]

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        return range(self.settings.split.folds)

    @property
    def places(self) -> list[str]:
        """Folders of a model's predictions: of the folds, and of the ensemble if there are other cases."""
        return [*(f"fold{fold}" for fold in self.folds), *([ENSEMBLE] if self.others else [])]

    def trained_on(self, model: str, fold: str) -> list[str]:
        """Files of cases, or the folder of features, on which a fold's model is trained and tested."""
        pattern = self.preparation.inputs(model)
        if pattern in self.preparation.made:
            return self.parts.ready(self.training, pattern)
        return [str(Path(pattern.format(case="", fold=fold)).parent)]

    def frames_of(self, model: str) -> list[str]:
        """Files that the stored features of a model would be computed from."""
        return self.parts.ready(self.training, self.preparation.unencoded(model))

    def further(self, model: str) -> list[str]:
        """Tables and records of a model's further tests."""
        return [
            f"{self.paths.fold}/{name}.{suffix}".format(model=model, fold=fold)
            for name in self.settings.further_tests
            for fold in self.folds
            for suffix in ("csv", "json")
        ]

    def scores(self, model: str, place: str, share: str = "predictions") -> list[str]:
        """Folders of the scores of a folder of predictions, in a fold or in the ensemble."""
        counts = len(self.others), ceil(len(self.training) / len(self.folds))
        parts = max(1, ceil(counts[place != ENSEMBLE] / SCORED))
        values = {"model": model, "place": place, "share": share, "parts": parts}
        return [self.paths.scores.format(**values, part=part) for part in range(parts)]

    def shares(self, place: str) -> list[str]:
        """Folders of predictions of a fold or of the ensemble; validation cases are predicted to choose."""
        chooses = place != ENSEMBLE and self.settings.chooses
        return ["predictions", *(["validation"] if chooses else [])]

    def held_out_scores(self, model: str) -> list[str]:
        """Folders of the scores of all held-out cases."""
        return [path for fold in self.folds for path in self.scores(model, f"fold{fold}")]

    def choosing(self, model: str, place: str) -> list[str]:
        """Folders of the scores that choose for a fold (its validation cases), or for the ensemble."""
        if place == ENSEMBLE:
            return self.held_out_scores(model)
        return [path for share in self.shares(place)[1:] for path in self.scores(model, place, share)]

    def weights(self, model: str) -> list[str]:
        """Files of pretrained weights of a model."""
        return [name for path in self.system.weights(self.settings, model) for name in files_in(path)]

    @cached_property
    def new_cases(self) -> list[Any]:
        """New cases, their files, and their values of the sheet, as plain values."""
        found = self.read_new_cases().entries if self.settings.predict else []
        return [[entry.case, entry.files, entry.facts] for entry in found]

    def read_new_cases(self, task: Mapping[str, Any] | None = None) -> NewCases:
        """New cases, which are prepared as the models' training cases.

        Args:
            task: what the models learn, if cases that they cannot predict are to be refused.

        Raises:
            CaseError: nothing to predict, errors in the sheet, or cases that the models cannot predict.
        """
        assert self.settings.predict is not None
        kept = self.system.kept(self.settings, next(iter(self.settings.models)))
        kept["images_fps"] = self.settings.predict.images_fps
        return self.system.new_cases(self.settings.predict.source, task, kept)

    def prediction_parts(self, pattern: str) -> list[str]:
        """Outputs of the parts of a prediction of new cases, for every model."""
        if self.settings.predict is None:
            raise CaseError("predict: no cases given; add `--config predict=<sample sheet or folder>`")
        parts = self.settings.predict.parts
        return [
            pattern.format(model=model, part=part, parts=parts)
            for model in self.settings.models
            for part in range(parts)
        ]


def open_experiment(config: Mapping[str, Any], *, main: bool, parts: int | None = None) -> Opened[Any, Any]:
    """Read the settings and the sheet; in the user's own call also check the files that they name.

    Args:
        config: plain values.
        main: whether this is the user's own call and not a job's.
        parts: number of jobs that share the preparation of cases.

    Raises:
        CaseError: all problems.
    """
    system: System[Any, Any] = system_of(str(config.get("system", "segmentation")))
    settings = validate(system.settings, dict(config), origin="config")
    sheet = system.read_sheet(settings.data)
    if settings.part is not None:
        sheet = part_of(sheet, settings.part)
    preparation, paths = system.preparation(settings, sheet), Paths.of(settings)
    memory = Memory(Path(paths.known) if main and settings.part is None else None)
    checked = None
    if main:
        checked = system.check(settings, sheet, deep=False, memory=memory)
        memory.save()
        checked.refuse(settings.data.sheet)
    training = [case for case in sheet.cases if case.trains]
    whole = settings.part is None
    divide = divided(preparation, paths, training, parts, main) if whole else Parts(preparation)
    plan = None if preparation.plan is None else Path(preparation.plan)
    complete = system.complete(settings, plan)
    return Opened(system, settings, complete, sheet, checked, paths, preparation, divide, memory)


def try_all(opened: Opened[Any, Any]) -> None:
    """Refuse settings, and files named in them, that a job would refuse.

    Raises:
        CaseError: all problems, one line each.
    """
    system, settings = opened.system, opened.settings
    counts = Path(opened.paths.counts)
    problems: list[str] = []

    def attempt(prefix: str, check: Callable[[], Any]) -> None:
        try:
            check()
        except CaseError as error:
            problems.extend(f"{prefix}{line}" for line in str(error).splitlines())

    groups = {case.name: case.group for case in opened.training}
    attempt("split.file: ", functools.partial(check_file, settings.split, groups))
    if settings.predict is not None:
        attempt("predict: ", functools.partial(_show_new, opened))
    for path, check in system.preparation_weights(settings).items():
        attempt("prepare: ", functools.partial(try_file, path, check, counts))
    plan = None if opened.preparation.plan is None else Path(opened.preparation.plan)
    for name in settings.models:
        model, whole = system.tried(opened.complete, name), plan is None or is_planned(plan, name)
        trying = functools.partial(
            remembered, system, model, opened.jobs.task, counts, trying=True, whole=whole
        )
        attempt(f"models.{name}: ", trying)
    if problems:
        raise CaseError("the experiment cannot be run; nothing was started\n  " + "\n  ".join(problems))


def _show_new(opened: Opened[Any, Any]) -> None:
    """Print how new cases are understood, also in a dry run."""
    for line in opened.read_new_cases(opened.jobs.task).lines:
        print(f"predict: {opened.settings.predict.source}: {line}", file=sys.stderr)
