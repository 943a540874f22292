"""The folders of a surgical experiment, and the memory of its jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from foldwise import layout
from foldwise.files import short_hash
from foldwise.forecast import SMALL_MIB, asked_mib
from foldwise.settings import as_json, dump, validate
from foldwise.sheet import Sheet
from foldwise.systems.surgical.check import check
from foldwise.systems.surgical.forecast import count, frames_mib, model_mib
from foldwise.systems.surgical.settings import BACKBONE, Settings
from foldwise.systems.surgical.sheet import Case, read_sheet


def open_experiment(config: dict[str, Any], main: bool) -> Layout:
    """Read the settings and the sheet; in the user's own call also look at videos and annotations.

    Raises:
        CaseError: everything that is wrong.
    """
    settings = validate(Settings, config, origin="config")
    sheet = read_sheet(settings.data)
    if main:
        check(sheet, settings, deep=False).refuse(settings.data.sheet)
    return Layout(settings, sheet, main)


class Layout(layout.Layout[Settings, Case]):
    """Frame caches, keyed by what made them, and banks of features by model and fold."""

    def __init__(self, settings: Settings, sheet: Sheet[Case], main: bool = False) -> None:
        """Name the folders; only the user's own call needs the memory of jobs."""
        super().__init__(settings, sheet)
        self.main = main
        self.data = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(dump(settings.data))}"
        self.caches = f"{self.data}/frames-{short_hash(dump(settings.cache), 4)}"
        self.indexed = self.cached
        self.preparation = ("frames",)

    @property
    def models(self) -> Sequence[str]:
        """Names of the models."""
        return list(self.settings.models)

    @property
    def backbones(self) -> list[str]:
        """Models whose backbones give features to others."""
        return sorted({model.features for model in self.settings.models.values() if model.features})

    def inputs(self, model: str) -> str:
        """Pattern of the files that a model works on: the caches, or the features of another model."""
        source = self.settings.models[model].features
        return self.bank.replace("{model}", source) + "/{case}.h5" if source else self.cached

    @property
    def bank(self) -> str:
        """Pattern of the folder of a fold's features."""
        return f"{self.fold}/features"

    def trained_on(self, model: str, fold: str) -> list[str]:
        """Files, or the folder of features, that a fold's model is trained and tested on."""
        source = self.settings.models[model].features
        if source is None:
            return super().trained_on(model, fold)
        return [self.bank.format(model=source, fold=fold)]

    def sources(self, name: str) -> dict[str, str]:
        """A case's source files as named inputs of a rule."""
        case = self.cases[name]
        named = {"video": case.video, "phases": case.phases, "tools": case.tools}
        return {kind: str(path) for kind, path in named.items() if path is not None}

    @property
    def part_models(self) -> dict[str, set[str]]:
        """What must fit the names of the data, and the frames."""
        return {name: {"kind", "crop", "features"} for name in self.settings.models}

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB; a retry gets half as much again."""
        if stage in SMALL_MIB:
            peak: float = SMALL_MIB[stage]
        elif stage == "frames" or not self.main:
            peak = frames_mib()
        else:
            peak = model_mib(stage, self.settings, self.settings.models[which], Path(self.counts))
        return asked_mib(stage, ceil(peak), attempt)

    def try_model(self, model: str) -> None:
        """Try a model; a temporal one with the backbone whose features it gets."""
        chosen, data = self.settings.models[model], self.settings.data
        if chosen.features is not None:
            source = self.settings.models[chosen.features]
            chosen = chosen.model_copy(update={name: getattr(source, name) for name in BACKBONE})
        task = {"phases": list(data.phases), "tools": list(data.tools)}
        count(chosen, task, Path(self.counts), trying=True)

    def prepared(self, model: str) -> str:
        """How a new video is prepared."""
        sections = {"data": dump(self.settings.data), "cache": dump(self.settings.cache)}
        return json.dumps(sections, sort_keys=True)

    def pretrained(self, model: str) -> list[str]:
        """The file of weights that a model starts from, if there is one."""
        settings = self.settings.models[model].pretrained
        return [str(settings.file)] if settings else []

    @property
    def check_settings(self) -> str:
        """The settings that the data are checked against, as JSON."""
        return as_json(self.settings)
