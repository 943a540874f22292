"""The folders of prepared volumes, and the inputs of their preparation: shared by systems of volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from foldwise import layout
from foldwise.files import short_hash
from foldwise.settings import dump
from foldwise.sheet import Sheet
from foldwise.volumes.check import Checked
from foldwise.volumes.forecast import Size
from foldwise.volumes.settings import VolumeExperiment
from foldwise.volumes.sheet import Case

AnyExperiment = TypeVar("AnyExperiment", bound=VolumeExperiment)
# A header not made yet (the demo's) or not readable: what a clinical chest CT has.
TYPICAL = Size(shape=(512, 512, 300), spacing=(0.8, 0.8, 1), channels=1, labelled=True)
PHANTOMS = Path("results/phantom")


class VolumeLayout(layout.Layout[AnyExperiment, Case]):
    """Lungs, crops and caches, keyed by what made them.

    Attributes:
        lungs: folder of lung masks.
        crops: folder of cropped cases.
        sizes: case → what its header says.
    """

    def __init__(self, settings: AnyExperiment, sheet: Sheet[Case], checked: Checked | None) -> None:
        """Keep what was checked; None in a job's own Snakemake, which needs the memory of no job."""
        super().__init__(settings, sheet)
        data, prepare = settings.data, settings.prepare
        source = [str(data.sheet), str(data.folder), dump(prepare.lung_mask)]
        crop = [source, dump(prepare.crop), list(data.labels.items())]
        if max(data.labels.values()) > 255:
            crop.append("wide")  # earlier versions wrapped such values; what they made is not used again
        self.data = f"{settings.results}/data/{data.sheet.stem}-{short_hash(source)}"
        self.lungs = f"{self.data}/lungs"
        self.crops = f"{self.data}/crop-{short_hash(crop, 4)}"
        self.caches = f"{self.data}/cache-{short_hash([crop, *self.cache_key], 4)}"
        self.indexed = f"{self.crops}/{{case}}"
        lungs = ("lung_mask",) if prepare.lung_mask is not None else ()
        self.preparation = (*lungs, "crop", "cache")
        self.checked = checked
        self.sizes = {case.name: self._size(case) for case in self.sheet.cases}

    @property
    def cache_key(self) -> list[Any]:
        """What decides about the caches, beside the crop."""
        return [dump(self.settings.cache)]

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

    def prepared(self, model: str) -> str:
        """How a new scan is prepared."""
        settings = self.settings
        return json.dumps(
            {"prepare": dump(settings.prepare), "cache": dump(settings.cache, given=self.plan is not None)},
            sort_keys=True,
        )

    def _size(self, case: Case) -> Size:
        return (self.checked.size(case) if self.checked else None) or TYPICAL


def is_phantom(path: Path) -> bool:
    """Whether the demo makes a file itself."""
    return PHANTOMS in path.parents
