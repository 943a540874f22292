"""Preparation with features of frozen networks, which are stored once for all folds (rule `encode`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from foldwise.experiment.preparation import Asked, CaseStage, Preparation
from foldwise.files import files_in, short_hash
from foldwise.section import Section
from foldwise.settings import as_json, dump
from foldwise.sheet import AnyCase, Sheet


class Encoding(Protocol):
    """Settings of a model, of which only those that determine its features differ from the defaults."""

    @property
    def frozen_weights(self) -> Path | None:
        """File or folder of the frozen network's weights."""


class EncodedPreparation(Preparation[AnyCase]):
    """Preparation whose last stage may store features; models with equal ones share them.

    Attributes:
        encoded: pattern of the folder of stored features, with the wildcard {encoded}.
    """

    def __init__(self, sheet: Sheet[AnyCase], system: str, data: str) -> None:
        """Keep the cases, the system's name and the folder of prepared data."""
        super().__init__(sheet)
        self.data, self._system = data, system
        self.encoded = f"{data}/features-{{encoded}}"
        self.encodings: dict[str, Any] = {}
        self._keys: dict[str, str] = {}

    def encodes(self, encodings: Mapping[str, tuple[Any, Section]]) -> dict[str, CaseStage[AnyCase]]:
        """Take the models with stored features, and return the stage that stores them, if there are any.

        Args:
            encodings: model → what determines its frames or clips, as plain values, and its settings as
                `Encoding`.
        """
        for name, (source, model) in encodings.items():
            self._keys[name] = key = short_hash([source, dump(model)])
            self.encodings[Path(self.encoded.format(encoded=key)).name] = model
        if not encodings:
            return {}
        keys = dict.fromkeys(self._keys.values())
        stage = CaseStage[AnyCase](
            "features",
            tuple(f"{self.encoded.format(encoded=key)}/{{case}}.h5" for key in keys),
            asked=lambda case: [self.encode_asked(key, case) for key in keys],
            neural=True,
        )
        return {"encode": stage}

    @property
    def made(self) -> Sequence[str]:
        """Patterns of the caches and the features."""
        return [self.cached, *(self.stages["encode"].outputs if self.encodings else ())]

    def inputs(self, model: str) -> str:
        """Features, or the files that they would be computed from."""
        if model in self._keys:
            return f"{self.encoded.format(encoded=self._keys[model])}/{{case}}.h5"
        return self.unencoded(model)

    def unencoded(self, model: str) -> str:
        """Pattern of the files from which a model's frames or clips are read."""
        return self.cached

    def encoder(self, encoded: str) -> str:
        """A model whose features have a key; equal keys mean equal features."""
        return next(model for model, key in self._keys.items() if key == encoded)

    def encoded_from(self, encoded: str, case: str) -> str:
        """The file from which a case's features of a key are computed."""
        return self.unencoded(self.encoder(encoded)).format(case=case)

    def encode_asked(self, encoded: str, name: str) -> Asked:
        """What the rule `encode` asks for a case and a key."""
        source, folder = self.encoded_from(encoded, name), self.encoded.format(encoded=encoded)
        model, features = self.encodings[Path(folder).name], f"{folder}/{name}.h5"
        assert model.frozen_weights is not None, "its features are stored"
        weights = files_in(model.frozen_weights)
        values = {"source": source, "also": weights, "settings": as_json(model), "features": features}
        log = f"{self.data}/logs/encode/{encoded}_{name}.log"
        return Asked({"system": self._system, **values}, [source, *weights], [features], log)
