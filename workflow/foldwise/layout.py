"""Where everything of an experiment lies: the paths that rules share."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from foldwise.files import CaseError, short_hash
from foldwise.planning import complete
from foldwise.settings import Settings, as_json, dump
from foldwise.sheet import Case, Sheet


class Layout:
    """Paths as patterns with the wildcards {case}, {model} and {fold}, and the cases by their part.

    Prepared data lie in a folder named after the sheet and a hash of the settings that made them, so that
    experiments that agree on those share the files, and another crop or cache never overwrites one.
    """

    def __init__(self, settings: Settings, sheet: Sheet) -> None:
        """Name the folders."""
        data, prepare = settings.data, settings.prepare
        source = [str(data.sheet), str(data.folder), dump(prepare.lung_mask)]
        crop = [source, dump(prepare.crop), list(data.labels.items())]
        cache = [crop, dump(settings.cache)]
        if settings.plan is not None:
            # What a plan decides is known only later, and an experiment has one of its own.
            cache = [crop, dump(settings.cache, given=True), settings.experiment, dump(settings.plan)]
        self.settings = settings
        self.sheet = sheet
        self.data = f"{settings.results}/data/{data.sheet.stem}-{short_hash(source)}"
        self.lungs = f"{self.data}/lungs"
        self.crops = f"{self.data}/crop-{short_hash(crop, 4)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.experiment = f"{settings.results}/{settings.experiment}"
        self.plan = f"{self.experiment}/plan.yaml" if settings.plan is not None else None
        self.fold = f"{self.experiment}/{{model}}/fold{{fold}}"
        self.ensemble = f"{self.experiment}/{{model}}/ensemble"
        self.state = f"{self.experiment}/state/{{model}}"
        self.counts = f"{self.experiment}/state/forecast.json"
        self.predicted = f"{self.experiment}/{{model}}/predicted"
        if settings.predict is not None:
            self.predicted += f"-{settings.predict.source.stem}"

    @cached_property
    def planned(self) -> Settings:
        """The settings, completed by the plan if it is made already."""
        if self.plan is None or not Path(self.plan).exists():
            return self.settings
        return complete(self.settings, Path(self.plan))

    @cached_property
    def cases(self) -> dict[str, Case]:
        """All cases by name."""
        return {case.name: case for case in self.sheet.cases}

    @cached_property
    def training(self) -> list[Case]:
        """The labelled cases of the cross-validation."""
        return [case for case in self.sheet.cases if case.trains]

    @cached_property
    def others(self) -> list[Case]:
        """The fixed test set and the unlabelled cases."""
        return [case for case in self.sheet.cases if not case.trains]

    @property
    def folds(self) -> range:
        """Numbers of the folds."""
        return range(self.settings.split.folds)

    @cached_property
    def training_rows(self) -> str:
        """A hash of the rows that the index is made from; other rows of the sheet do not move it."""
        return short_hash([[c.name, c.group, [str(f) for f in c.files]] for c in self.training])

    def given(self, section: BaseModel) -> str:
        """A section for a stage as JSON: without the defaults where a plan is to fill the gaps."""
        return as_json(section, given=self.plan is not None)

    @property
    def given_models(self) -> str:
        """What the experiment sets of each model, as JSON."""
        return json.dumps({name: dump(model, given=True) for name, model in self.settings.models.items()})

    def pretrained(self, model: str) -> list[str]:
        """The file of weights that a model starts from, if there is one."""
        settings = self.settings.models[model].pretrained
        return [str(settings.file)] if settings else []

    def prediction_parts(self, pattern: str) -> list[str]:
        """What the parts of a prediction of new scans leave behind, for every model."""
        if self.settings.predict is None:
            raise CaseError("predict: which scans? Give `--config predict=<sample sheet or folder>`")
        parts = self.settings.predict.parts
        return [
            pattern.format(model=model, part=part, parts=parts)
            for model in self.settings.models
            for part in range(parts)
        ]

    def per_case(self, cases: list[Case], pattern: str) -> list[str]:
        """A pattern's path for each case."""
        return [pattern.format(case=case.name) for case in cases]

    def crop_inputs(self, name: str) -> dict[str, str | list[str]]:
        """Inputs of a case's crop: its sources, the mask to crop to, and the weight map."""
        made = sources(self.cases[name])
        if self.settings.prepare.lung_mask is not None:
            made.setdefault("weight", f"{self.lungs}/{name}.mask.nii.gz")
        if (kind := self.settings.prepare.crop.to) in ("lungs", "region"):
            made["inside"] = f"{self.lungs}/{name}.{'mask' if kind == 'lungs' else kind}.nii.gz"
        return made

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        heavy = ("network", "dimensions", "slice_axis", "slices", "patch", "inference", "sampling", "loss")
        training = {"batch": True, "accumulate": True, "amp": True}
        per_model: Any = {
            name: {**dict.fromkeys(heavy, True), "training": training} for name in self.settings.models
        }
        return self.settings.model_dump_json(
            include={
                "experiment": True,
                "system": True,
                "data": True,
                "prepare": True,
                "cache": True,
                "split": True,
                "plan": True,
                "models": per_model,
            }
        )


def sources(case: Case) -> dict[str, str | list[str]]:
    """A case's source files as named inputs of a rule."""
    made: dict[str, str | list[str]] = {"images": [str(path) for path in case.images]}
    if case.label is not None:
        made["label"] = str(case.label)
    if case.weight is not None:
        made["weight"] = str(case.weight)
    return made


def option(flag: str, path: str | Path | None) -> str:
    """`--flag path` for a shell line, or nothing."""
    return "" if not path else f"--{flag} {path}"
