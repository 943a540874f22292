"""The folders of a clip experiment, the inputs of its preparation, and the memory of its jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from foldwise import layout
from foldwise.files import short_hash
from foldwise.forecast import SMALL_MIB, Step, asked_mib, try_regions
from foldwise.layout import PREPARING
from foldwise.settings import as_json, dump, validate
from foldwise.sheet import Sheet
from foldwise.systems.clips.check import CheckedClips, check
from foldwise.systems.clips.forecast import case_mib, count, model_mib
from foldwise.systems.clips.settings import FROZEN, Model, Prepare, Settings
from foldwise.systems.clips.sheet import ClipCase, class_names, class_sentences, read_sheet
from foldwise.video.decode import VideoInfo

# A video whose header was not read.
TYPICAL = VideoInfo(frames=300, fps=25, height=720, width=960, duration_s=12)


def open_experiment(config: dict[str, Any], main: bool) -> Layout:
    """Read the settings and the sheet; in the user's own call also look at headers.

    Raises:
        CaseError: everything that is wrong.
    """
    settings = validate(Settings, config, origin="config")
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings) if main else None
    if checked:
        checked.refuse(settings.data.sheet)
    return Layout(settings, sheet, checked)


class Layout(layout.Layout[Settings, ClipCase]):
    """Caches, regions and features, keyed by what made them."""

    def __init__(self, settings: Settings, sheet: Sheet[ClipCase], checked: CheckedClips | None) -> None:
        """Keep what was checked; None in a job's own Snakemake, which needs the memory of no job."""
        super().__init__(settings, sheet)
        data, finder = settings.data, settings.prepare.regions
        source = [str(data.sheet), str(data.folder)]
        cache = [source, dump(settings.cache)]
        regions = [cache, dump(finder)]
        self.data = f"{settings.results}/data/{data.sheet.stem}-{short_hash(source)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.regions = f"{self.data}/regions-{short_hash(regions, 4)}"
        self.encoded = f"{self.data}/features-{{encoded}}"
        # The index is made from the sheet; it names the caches.
        self.indexed = self.cached
        if data.update_labels:
            self.index = f"{self.experiment}/index-updated.pkl"
        self.checked = checked
        self.stages = ["clip_cache", *(["roi"] if finder else [])]
        featured = any(model.features for model in settings.models.values())
        self.preparation = (*self.stages, *(["clip_features"] if featured else []))
        self.neural = featured or (finder is not None and finder.method == "medsam")
        self._feature_keys = {
            name: short_hash([regions if model.input != "whole" else cache, dump(_encoding(model))])
            for name, model in settings.models.items()
            if model.features is not None
        }

    @cached_property
    def training_rows(self) -> str:
        """A hash of the rows and the classes that the index is made from."""
        rows = [[c.name, c.group, c.label, [str(path) for path in c.files]] for c in self.training]
        data = self.settings.data
        return short_hash([rows, class_names(data), class_sentences(data)])

    @property
    def made(self) -> list[str]:
        """Patterns of the caches, the files of regions, and the features."""
        regions = [f"{self.regions}/{{case}}.h5"] if self.settings.prepare.regions else []
        features = [self.inputs(model) for model in self._feature_keys]
        return list(dict.fromkeys([self.cached, *regions, *features]))

    @property
    def noticed(self) -> list[str]:
        """What was found of the cases' regions."""
        if self.settings.prepare.regions is None:
            return []
        return self.ready(self.sheet.cases, f"{self.regions}/{{case}}.json")

    @property
    def models(self) -> Sequence[str]:
        """Names of the models."""
        return list(self.settings.models)

    def mib(self, stage: str, which: str = "", attempt: int = 1) -> int:
        """Memory of a job in MiB; a retry gets half as much again."""
        if stage in SMALL_MIB:
            peak = SMALL_MIB[stage]
        elif stage == "clip_features":
            peak = max(model_mib(stage, self.settings.models[m], self.step(m)) for m in self._feature_keys)
        elif stage in ("clip_cache", "roi"):
            videos = self.checked.videos if self.checked else {}
            peak = case_mib(stage, videos.get(which, TYPICAL), self.settings)
        else:
            peak = model_mib(stage, self.settings.models[which], self.step(which))
        return asked_mib(stage, peak, attempt)

    def step(self, model: str) -> Step:
        """What a step of the model holds; nothing in a job's own Snakemake."""
        if self.checked is None:
            return Step(0, 0, 0, 0)
        return count(self.settings.models[model], self.task, Path(self.counts))

    @property
    def task(self) -> dict[str, Any]:
        """What is learnt, as the index will have it."""
        return {"classes": class_names(self.settings.data), "sentences": class_sentences(self.settings.data)}

    def try_model(self, model: str) -> None:
        """Try a model."""
        count(self.settings.models[model], self.task, Path(self.counts), trying=True)

    def try_preparation(self) -> None:
        """Read MedSAM's weights, where there are any."""
        regions = self.settings.prepare.regions
        if regions is not None and regions.weights is not None:
            try_regions(regions.weights, Path(self.counts))

    def before_features(self, model: str) -> str:
        """Pattern of what a model's clips are drawn from: the caches, or the files of regions."""
        whole = self.settings.models[model].input == "whole"
        return self.cached if whole else f"{self.regions}/{{case}}.h5"

    def inputs(self, model: str) -> str:
        """Pattern of the files of cases that a model works on."""
        if model in self._feature_keys:
            return self.encoded.replace("{encoded}", self._feature_keys[model]) + "/{case}.h5"
        return self.before_features(model)

    @property
    def part_settings(self) -> str:
        """What preparation depends on, as JSON: nothing else shall make it look at its files again."""
        models = {name: _encoding(self.settings.models[name]) for name in self._feature_keys}
        kept = {key: getattr(self.settings, key) for key in PREPARING}
        kept["data"] = kept["data"].model_copy(update={"update_labels": False})
        values = {"experiment": "part", **kept, **({"models": models} if models else {})}
        return as_json(Settings.model_construct(set(values), **values), given=True)

    def encoder(self, encoded: str) -> str:
        """A model whose features have a key; those of equal keys are equal."""
        return next(model for model, key in self._feature_keys.items() if key == encoded)

    def encoded_from(self, encoded: str, case: str) -> str:
        """The file that a case's features of a key are made from."""
        return self.before_features(self.encoder(encoded)).format(case=case)

    def encoding(self, encoded: str) -> Model:
        """What makes the features of a key."""
        return _encoding(self.settings.models[self.encoder(encoded)])

    def pretrained(self, model: str) -> list[str]:
        """Files of weights that a model starts from."""
        settings = self.settings.models[model]
        made = [str(settings.pretrained.file)] if settings.pretrained else []
        if settings.network.plain in FROZEN:
            made += folder_files(settings.network.arguments["weights"])
        return made

    def roi_inputs(self, name: str) -> dict[str, str | list[str]]:
        """Inputs of a case's region: its frames, a given mask, and the network's weights."""
        regions, case = self.settings.prepare.regions, self.cases[name]
        made: dict[str, str | list[str]] = {"cache": self.cached.format(case=name)}
        if case.mask is not None:
            made["mask"] = str(case.mask)
        if regions is not None and regions.weights is not None:
            made["weights"] = folder_files(regions.weights)
        return made

    def prepared(self, model: str) -> str:
        """How a new clip is prepared; regions for those models alone that see them."""
        settings = self.settings
        prepare = Prepare() if settings.models[model].input == "whole" else settings.prepare
        return json.dumps({"cache": dump(settings.cache), "prepare": dump(prepare)}, sort_keys=True)

    @property
    def check_settings(self) -> str:
        """The settings that data are checked against and that drive memory, as JSON."""
        model: Any = {
            **dict.fromkeys(("network", "input", "clip", "features", "pretrained"), True),
            "training": {"batch": True, "accumulate": True, "amp": True},
        }
        whole = dict.fromkeys(("experiment", "results", "system", "data", "prepare", "cache", "split"), True)
        return self.settings.model_dump_json(
            include={**whole, "models": dict.fromkeys(self.settings.models, model)}
        )


def folder_files(path: str | Path) -> list[str]:
    """The files of a folder of weights, whose change is then seen; or the file itself."""
    path = Path(path)
    return sorted(str(p) for p in path.iterdir() if p.is_file()) if path.is_dir() else [str(path)]


def _encoding(model: Model) -> Model:
    """A model with only what decides on its features; all else as by default."""
    network = {"name": model.network.plain}
    network |= {k: v for k, v in model.network.arguments.items() if k in ("weights", "blocks")}
    return Model.model_validate(
        {
            "network": network,
            "input": model.input,
            "margin": model.margin,
            "clip": dump(model.clip),
            "features": dump(model.features),
        }
    )
