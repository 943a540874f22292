"""How clips are prepared: caches, regions, and the features of frozen networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foldwise.experiment.preparation import Asked, CaseStage, Inputs
from foldwise.files import files_in, short_hash
from foldwise.section import values_for
from foldwise.settings import as_json
from foldwise.sheet import Sheet
from foldwise.systems.clips.settings import ENCODING, HEADS, Model, Settings
from foldwise.systems.clips.sheet import ClipCase
from foldwise.systems.encoded import EncodedPreparation


class ClipPreparation(EncodedPreparation[ClipCase]):
    """Caches, regions and features, keyed by their settings.

    Attributes:
        regions: folder of the files of regions.
    """

    # The start of a job takes longer than a short clip.
    many = 20

    def __init__(self, settings: Settings, sheet: Sheet[ClipCase]) -> None:
        """Name the folders."""
        data = values_for(settings.data, "cache")
        folder = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(data)}"
        super().__init__(sheet, settings.system, folder)
        self._models, self._finder, self._cache = settings.models, settings.prepare.regions, settings.cache
        self._images_fps = settings.data.images_fps
        cache = [data, values_for(settings.cache, "cache")]
        regions = [cache, values_for(settings.prepare, "regions")]
        self.caches = f"{self.data}/cache-{short_hash(cache, 4)}"
        self.regions = f"{self.data}/regions-{short_hash(regions, 4)}"
        neural = self._finder is not None and self._finder.weights is not None
        self.stages = {
            "clip_cache": CaseStage(
                "cache",
                (self.cached,),
                lambda c: [str(c.video), c.label, c.group],
                lambda c: [self.cache_asked(c)],
            )
        }
        if self._finder:
            found = (f"{self.regions}/{{case}}.json", f"{self.regions}/{{case}}.h5")
            given: Callable[[ClipCase], Any] = lambda c: [c.box, c.mask and str(c.mask)]  # noqa: E731
            self.stages["roi"] = CaseStage("regions", found, given, lambda c: [self.roi_asked(c)], neural)
        self.stages |= self.encodes(
            {
                name: (regions if model.input != "whole" else cache, encoding_of(model))
                for name, model in settings.models.items()
                if model.features is not None
            }
        )

    @property
    def made(self) -> Sequence[str]:
        """Patterns of the caches, the files of regions, and the features."""
        cache, *features = super().made
        return [cache, *([f"{self.regions}/{{case}}.h5"] if self._finder else []), *features]

    @property
    def noticed(self) -> str | None:
        """Facts about the cases' regions."""
        return f"{self.regions}/{{case}}.json" if self._finder else None

    def frames(self, model: str) -> str | None:
        """Folder of the files of regions, if a model's clips are from these and not from the caches."""
        return None if self.unencoded(model) == self.cached else self.regions

    def cache_asked(self, name: str) -> Asked:
        """What the rule `clip_cache` asks for a case."""
        case, cache = self.cases[name], self.cached.format(case=name)
        values = {"case": name, "video": case.video, "images_fps": self._images_fps, "label": case.label}
        values |= {"group": case.group, "settings": as_json(self._cache), "cache": cache}
        log = f"{self.data}/logs/clip_cache/{name}.log"
        return Asked(values, [str(case.video)], [cache], log)

    def roi_asked(self, name: str) -> Asked:
        """What the rule `roi` asks for a case."""
        assert self._finder is not None, "regions are requested"
        inputs = self.roi_inputs(name)
        outputs = {"regions": f"{self.regions}/{name}.h5", "facts": f"{self.regions}/{name}.json"}
        values: dict[str, Any] = {"case": name, "cache": inputs["cache"], "box": self.cases[name].box}
        values |= {"mask": inputs.get("mask"), "also": inputs.get("weights")}
        log = f"{self.data}/logs/roi/{name}.log"
        return Asked(
            {**values, "settings": as_json(self._finder), **outputs},
            [path for each in inputs.values() for path in ([each] if isinstance(each, str) else each)],
            [*outputs.values()],
            log,
        )

    def roi_inputs(self, name: str) -> Inputs:
        """Inputs of a case's region: its frames, a given mask, and the network's weights."""
        case = self.cases[name]
        inputs: Inputs = {"cache": self.cached.format(case=name)}
        if case.mask is not None:
            inputs["mask"] = str(case.mask)
        if self._finder is not None and self._finder.weights is not None:
            inputs["weights"] = files_in(self._finder.weights)
        return inputs

    def unencoded(self, model: str) -> str:
        """Pattern of the files from which a model's clips are drawn: the caches, or the files of regions."""
        whole = self._models[model].input == "whole"
        return self.cached if whole else f"{self.regions}/{{case}}.h5"


def encoding_of(model: Model) -> Model:
    """A model with only the settings that determine its features; all others at their defaults."""
    # Whatever reads an encoder, its features are the same.
    network = {"name": model.network.plain if model.encoder is None else HEADS[0]}
    network |= {} if model.encoder else {k: v for k, v in model.network.arguments.items() if k in ENCODING}
    kept = values_for(model, "features")
    return Model.model_validate({**kept, "network": network})
