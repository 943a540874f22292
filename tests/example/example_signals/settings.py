"""Settings: every field declares what it affects, which determines reruns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foldwise import settings
from foldwise.experiment import settings as experiment
from foldwise.section import Section, affects
from foldwise.settings import Name, Training


class Data(experiment.Data):
    """The signals, and the names of their classes."""

    classes: list[Name] = Field(
        min_length=2,
        description="Names of the classes, as in the sheet's column `label`.",
        json_schema_extra=affects("cache", "index"),
    )


class Cache(Section):
    """The stored form of a signal."""

    length: int = Field(
        64,
        ge=2,
        description="Signals are resampled to this length. Samples.",
        json_schema_extra=affects("cache", "memory"),
    )


class Model(settings.Model):
    """One hidden layer."""

    hidden: int = Field(
        8, ge=1, description="Width of the layer.", json_schema_extra=affects("train", "predict", "memory")
    )
    noise: float = Field(
        0.1, ge=0, description="Standard deviation of added noise.", json_schema_extra=affects("train")
    )
    training: Training = Field(
        Training(epochs=4, steps_per_epoch=None, validate_every=1), description="The training loop."
    )


class Evaluate(Section):
    """Scores; no settings."""


class Export(Section):
    """Files; no settings."""


class Settings(experiment.Experiment):
    """An experiment on signals."""

    system: Literal["signals"] = Field(
        description="The kind of experiment.", json_schema_extra=affects("index", "report")
    )
    data: Data = Field(description="Signals and classes.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
    models: dict[Name, Model] = Field({"layer": Model()}, description="Model name → its settings.")
    evaluate: Evaluate = Field(Evaluate(), description="Scores.")
    export: Export = Field(Export(), description="Exported files.")
