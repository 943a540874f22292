"""The folders of a segmentation experiment, the inputs of its preparation, and the memory of its jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from foldwise import layout
from foldwise.files import short_hash
from foldwise.forecast import SMALL_MIB, Step, asked_mib
from foldwise.settings import dump, validate
from foldwise.sheet import Sheet
from foldwise.systems.segmentation.check import check
from foldwise.systems.segmentation.forecast import count, model_mib
from foldwise.systems.segmentation.planning import complete
from foldwise.systems.segmentation.settings import Settings
from foldwise.volumes.check import Checked
from foldwise.volumes.forecast import Size, case_mib
from foldwise.volumes.sheet import Case, read_sheet

# A header not made yet (the demo's) or not readable: what a clinical chest CT has.
TYPICAL = Size(shape=(512, 512, 300), spacing=(0.8, 0.8, 1), channels=1, labelled=True)
PHANTOMS = Path("results/phantom")


def open_experiment(config: dict[str, Any], main: bool) -> Layout:
    """Read the settings and the sheet; in the user's own call also look at headers and networks.

    Raises:
        CaseError: everything that is wrong.
    """
    settings = validate(Settings, config, origin="config")
    sheet = read_sheet(settings.data)
    checked = check(sheet, settings, labels=False, produced=_is_phantom) if main else None
    if checked:
        checked.refuse(settings.data.sheet)
    made = Layout(settings, sheet, checked)
    for model in settings.models if main else ():
        # Also tells of a network that cannot be made, or cannot take its patches.
        made.step(model)
    return made


class Layout(layout.Layout[Settings, Case]):
    """Lungs, crops and caches, keyed by what made them."""

    def __init__(self, settings: Settings, sheet: Sheet[Case], checked: Checked | None) -> None:
        """Keep what was checked; None in a job's own Snakemake, which needs the memory of no job."""
        super().__init__(settings, sheet)
        data, prepare = settings.data, settings.prepare
        source = [str(data.sheet), str(data.folder), dump(prepare.lung_mask)]
        crop = [source, dump(prepare.crop), list(data.labels.items())]
        cache = [crop, dump(settings.cache)]
        if settings.plan is not None:
            # What a plan decides is known only later, and an experiment has one of its own.
            cache = [crop, dump(settings.cache, given=True), settings.experiment, dump(settings.plan)]
            self.plan = f"{self.experiment}/plan.yaml"
        self.data = f"{settings.results}/data/{data.sheet.stem}-{short_hash(source)}"
        self.lungs = f"{self.data}/lungs"
        self.crops = f"{self.data}/crop-{short_hash(crop, 4)}"
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.indexed = f"{self.crops}/{{case}}"
        lungs = ("lung_mask",) if prepare.lung_mask is not None else ()
        self.preparation = (*lungs, "crop", "cache")
        self.checked = checked
        self.sizes = {case.name: self._size(case) for case in self.sheet.cases}

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
        if self.checked is None or (self.plan and not Path(self.plan).exists()):
            return Step(0, 0, 0, 0) if self.checked is None else None
        channels = next(iter(self.sizes.values())).channels
        task = {"targets": self.settings.data.targets().as_dict(), "channels": channels}
        return count(self.planned.models[model], task, Path(self.counts))

    def sources(self, name: str) -> dict[str, str | list[str]]:
        """A case's source files as named inputs of a rule."""
        case = self.cases[name]
        made: dict[str, str | list[str]] = {"images": [str(path) for path in case.images]}
        if case.label is not None:
            made["label"] = str(case.label)
        if case.weight is not None:
            made["weight"] = str(case.weight)
        return made

    def crop_inputs(self, name: str) -> dict[str, str | list[str]]:
        """Inputs of a case's crop: its sources, the mask to crop to, and the weight map."""
        made = self.sources(name)
        if self.settings.prepare.lung_mask is not None:
            made.setdefault("weight", f"{self.lungs}/{name}.mask.nii.gz")
        if (kind := self.settings.prepare.crop.to) in ("lungs", "region"):
            made["inside"] = f"{self.lungs}/{name}.{'mask' if kind == 'lungs' else kind}.nii.gz"
        return made

    @property
    def prepared(self) -> str:
        """How a new scan is prepared."""
        settings = self.settings
        return json.dumps(
            {"prepare": dump(settings.prepare), "cache": dump(settings.cache, given=self.plan is not None)},
            sort_keys=True,
        )

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
        training = {"batch": True, "accumulate": True, "amp": True}
        per_model: Any = {
            name: {**dict.fromkeys(heavy, True), "training": training} for name in self.settings.models
        }
        whole = dict.fromkeys(("experiment", "system", "data", "prepare", "cache", "split", "plan"), True)
        return self.settings.model_dump_json(include={**whole, "models": per_model})

    def _size(self, case: Case) -> Size:
        return (self.checked.size(case) if self.checked else None) or TYPICAL


def _is_phantom(path: Path) -> bool:
    return PHANTOMS in path.parents
