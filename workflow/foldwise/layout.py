"""Where everything of an experiment lies: the paths that rules share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from foldwise.files import short_hash
from foldwise.settings import Settings, dump
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
        self.settings = settings
        self.sheet = sheet
        self.data = f"{settings.results}/data/{data.sheet.stem}-{short_hash(source)}"
        self.lungs = f"{self.data}/lungs"
        self.crops = f"{self.data}/crop-{short_hash(crop, 4)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.experiment = f"{settings.results}/{settings.experiment}"
        self.fold = f"{self.experiment}/{{model}}/fold{{fold}}"
        self.ensemble = f"{self.experiment}/{{model}}/ensemble"
        self.state = f"{self.experiment}/state/{{model}}"

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

    def per_case(self, cases: list[Case], pattern: str) -> list[str]:
        """A pattern's path for each case."""
        return [pattern.format(case=case.name) for case in cases]

    def crop_inputs(self, name: str) -> dict[str, str | list[str]]:
        """Inputs of a case's crop: its sources, the mask to crop to, and the weight map."""
        made = sources(self.cases[name])
        if self.settings.prepare.lung_mask is not None:
            made.setdefault("weight", f"{self.lungs}/{name}.mask.nii.gz")
        if (kind := self.settings.prepare.crop.to) != "none":
            made["inside"] = f"{self.lungs}/{name}.{'mask' if kind == 'lungs' else kind}.nii.gz"
        return made

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        size = {"network": True, "patch": True, "inference": True, "sampling": True}
        training = {"batch": True, "accumulate": True}
        per_model: Any = {name: {**size, "training": training} for name in self.settings.models}
        return self.settings.model_dump_json(
            include={
                "experiment": True,
                "system": True,
                "data": True,
                "prepare": True,
                "cache": True,
                "split": True,
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
