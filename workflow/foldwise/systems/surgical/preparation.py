"""How videos are prepared: frame caches, and features of frozen encoders and of trained backbones."""

from __future__ import annotations

from foldwise.experiment.preparation import Asked, CaseStage, Inputs
from foldwise.files import short_hash
from foldwise.section import values_for
from foldwise.settings import as_json
from foldwise.sheet import Sheet
from foldwise.systems.encoded import EncodedPreparation
from foldwise.systems.surgical.settings import Model, Settings
from foldwise.systems.surgical.sheet import SurgicalCase
from foldwise.video.encoders import takes_clips


class SurgicalPreparation(EncodedPreparation[SurgicalCase]):
    """Frame caches and encoders' features, keyed by their settings, and backbones' by model and fold.

    Attributes:
        banks: pattern of the folder of a fold's features.
        backbones: models whose backbones provide features to others.
    """

    def __init__(self, settings: Settings, sheet: Sheet[SurgicalCase]) -> None:
        """Name the folders."""
        data = values_for(settings.data, "cache")
        folder = f"{settings.results}/data/{settings.data.sheet.stem}-{short_hash(data)}"
        super().__init__(sheet, settings.system, folder)
        self._data, self._cache = settings.data, settings.cache
        cache = values_for(settings.cache, "cache")
        self.caches = f"{self.data}/frames-{short_hash(cache, 4)}"
        self.stages = {
            "frames": CaseStage("cache", (self.cached,), _sources, lambda case: [self.frames_asked(case)])
        }
        encoded = {name: model for name, model in settings.models.items() if model.encoder is not None}
        self.stages |= self.encodes({name: (cache, encoding_of(model)) for name, model in encoded.items()})
        self.banks = f"{settings.results}/{settings.experiment}/{{model}}/fold{{fold}}/features"
        self._sources = {name: model.features for name, model in settings.models.items()}
        self.backbones = sorted({source for source in self._sources.values() if source})

    def inputs(self, model: str) -> str:
        """The caches, an encoder's features, or those of another model."""
        source = self._sources[model]
        return f"{self.bank(source)}/{{case}}.h5" if source else super().inputs(model)

    def bank(self, model: str) -> str | None:
        """Pattern of the folder of a backbone's features."""
        return self.banks.replace("{model}", model) if model in self.backbones else None

    def sources(self, name: str) -> Inputs:
        """A case's source files as named inputs of a rule."""
        return _sources(self.cases[name])

    def frames_asked(self, name: str) -> Asked:
        """What the rule `frames` asks for a case."""
        sources, cache = _sources(self.cases[name]), self.cached.format(case=name)
        settings = {"settings": as_json(self._cache), "data": as_json(self._data)}
        log = f"{self.data}/logs/frames/{name}.log"
        return Asked(
            {"case": name, **sources, **settings, "cache": cache},
            [path for path in sources.values() if isinstance(path, str)],
            [cache],
            log,
        )


def encoding_of(model: Model) -> Model:
    """A model with only the settings that determine its features; all others at their defaults."""
    assert model.encoder is not None, "its features are those of an encoder"
    kept = values_for(model, "features")
    # Features of single frames serve both modes.
    alone = () if takes_clips(model.encoder) else ("mode", "every")
    return Model.model_validate({key: value for key, value in kept.items() if key not in alone})


def _sources(case: SurgicalCase) -> Inputs:
    named = {"video": case.video, "phases": case.phases, "tools": case.tools}
    return {kind: str(path) for kind, path in named.items() if path is not None}
