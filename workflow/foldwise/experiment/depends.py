"""The settings that a rule depends on, for its `params`: only a change of these runs it again.

Everything is computed from the declarations of the settings' fields (section.py). It is the same in the
user's call and in its jobs, so it must not use anything that only the user's call knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from foldwise.experiment.preparation import Preparation
from foldwise.experiment.settings import Experiment
from foldwise.files import short_hash
from foldwise.section import Work, values_for
from foldwise.settings import dump
from foldwise.sheet import Case
from foldwise.systems.base import System

PREPARING: tuple[Work, ...] = ("lungs", "crop", "cache", "regions", "features")


class Depends:
    """What depends on the settings of an experiment, as JSON."""

    def __init__(
        self,
        system: System[Any, Any],
        settings: Experiment,
        preparation: Preparation[Any],
        values_for: Callable[..., dict[str, Any]] = values_for,
    ) -> None:
        """Keep the experiment; `values_for` chooses the values of a section that affect some work."""
        self._values_for = values_for
        self._system, self._settings, self._preparation = system, settings, preparation
        # Values that a plan may fill in are not defaults.
        self._given = preparation.plan is not None
        self._known: dict[tuple[Work, ...], dict[str, Any]] = {}

    def case(self, stage: str, case: str) -> str:
        """The settings and the values of the sheet that a stage of a case's preparation depends on."""
        described = self._preparation.stages[stage]
        given = described.given(self._preparation.cases[case])
        return _json({"of": [case], "settings": self._values(described.work), "sheet": given})

    def rows(self, cases: Sequence[Case], names: Sequence[str]) -> str:
        """A hash of the values of the sheet that some stages of some cases' preparation depend on."""
        stages = [self._preparation.stages[name] for name in names]
        return short_hash([[case.name, *(stage.given(case) for stage in stages)] for case in cases], 16)

    def of(self, wildcards: Iterable[str], *work: Work, **more: Any) -> str:
        """The settings that affect any of `work`, without those of models.

        Args:
            wildcards: of the job, so that no output is taken for that of another job.
            work: what the job does.
            more: further values, by their names.
        """
        return _json({"of": [*wildcards], "settings": self._values(*work), **more})

    def on_models(self, *work: Work) -> dict[str, Any]:
        """The settings of all models that affect any of `work`, as given."""
        models = self._settings.models.items()
        return {name: self._values_for(model, *work, given=True) for name, model in models}

    def training(self, model: str, fold: str) -> str:
        """Everything that a training depends on, apart from its files."""
        settings = self._settings
        own = self._values_for(settings.models[model], "train", given=self._given)
        kept = self._system.kept(settings, model)
        return _json({"of": [model, fold], "model": own, "seed": settings.seed, "prepared": kept})

    def kept(self, model: str) -> str:
        """The sections stored in a model's file: how a new case is prepared."""
        return _json(self._system.kept(self._settings, model))

    def plan(self) -> str:
        """The settings that planning uses."""
        return self.of((), "plan", models=self.on_models("plan", "memory"))

    def index(self) -> str:
        """What the index depends on: settings, the rows of training cases, and the caches that it names."""
        caches = Path(self._preparation.caches).relative_to(self._settings.results)
        return self.of((), "index", rows=self._rows_of(training=True), caches=str(caches))

    def ensemble(self, model: str) -> str:
        """What predictions of the cases outside the cross-validation depend on."""
        return self.of([model], "index", "predict", rows=self._rows_of(training=False))

    def check(self) -> str:
        """The settings that checks use, and those that determine memory."""
        values = self._values_for(self._settings, *PREPARING, "plan", "index", "check", "memory")
        # Their jobs are part of the forecast.
        return _json(values | dict.fromkeys(self._settings.further_tests, True))

    def report(self) -> str:
        """All settings, since the report shows them; but not where it is."""
        return _json({key: value for key, value in dump(self._settings).items() if key != "results"})

    def part(self, folder: str) -> str:
        """The settings of a job that prepares a part of the cases, and no others.

        Args:
            folder: name of the folder that it fills; of stored features, these have an encoder.
        """
        settings, planned = self._settings, self._preparation.plan is not None
        work: tuple[Work, ...] = (*PREPARING, "index", *(("plan", "memory") if planned else ()))
        values = self._values_for(settings, *work, given=True)
        values.pop("split", None)
        if not planned:
            encoding = self._preparation.encodings.get(folder)
            models = {folder: self._values_for(encoding, "features", given=True)} if encoding else {}
            values = {key: value for key, value in {**values, "models": models}.items() if value != {}}
        whole = {"results": str(settings.results), "system": settings.system}
        # With a plan, which lies in the experiment's folder, the caches belong to the experiment.
        return _json({**values, **whole, "experiment": settings.experiment if planned else "part"})

    def part_settings(self, folder: str) -> str:
        """The settings that such a job gets: these, and those that no output depends on, e.g. `versions`."""
        fields = type(self._settings).model_fields.items()
        others = {name: getattr(self._settings, name) for name, field in fields if field.exclude}
        return _json({**json.loads(self.part(folder)), **others})

    def _values(self, *work: Work) -> dict[str, Any]:
        """The settings that affect any of `work`, without those of models; thousands of cases ask."""
        if work not in self._known:
            values = self._values_for(self._settings, *work, given=self._given)
            self._known[work] = {key: value for key, value in values.items() if key != "models"}
        return self._known[work]

    def _rows_of(self, training: bool) -> str:
        cases = [case for case in self._preparation.cases.values() if case.trains == training]
        return short_hash(self._system.rows_of(self._settings, cases))


def _json(values: Any) -> str:
    return json.dumps(values, sort_keys=True)
