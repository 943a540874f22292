"""Settings of an interactive model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from foldwise.section import Section, affects
from foldwise.settings import Model as AnyModel
from foldwise.settings import Name, OneOrMore, Share
from foldwise.systems.interactive.kinds import Kind, Loss, Mode, Protocol
from foldwise.volumes.settings import Augmentation, Data, Intensity, VolumeExperiment

__all__ = ["Data", "Evaluate", "Export", "Model", "Settings"]

# Object numbers are stored in a byte.
MOST_OBJECTS = 255


class Trunk(Section):
    """The ResNet backbone of both networks."""

    name: Literal["resnet18", "resnet34", "resnet50"] = Field(
        "resnet50",
        description="From torchvision.models.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    weights: Path | None = Field(
        None,
        description="File with a state dict of torchvision, e.g. trained on ImageNet; every trunk of the "
        "model starts from it, and batch normalisation keeps its statistics. null: random weights.",
        json_schema_extra=affects("train", "memory"),
    )
    keys: int = Field(
        128,
        ge=1,
        description="Channels of a memory's keys.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    values: int = Field(
        512,
        ge=1,
        description="Channels of a memory's values.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    width: int = Field(
        256,
        ge=4,
        multiple_of=4,
        description="Channels of the memory network's decoder.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    hint_width: int = Field(
        256,
        ge=4,
        multiple_of=4,
        description="Channels of the hint network's feature pyramid.",
        json_schema_extra=affects("train", "predict", "memory"),
    )


class Frames(Section):
    """The slices of a training sample."""

    count: int = Field(
        3,
        ge=2,
        description="Number of slices of a sample, including the reference.",
        json_schema_extra=affects("train", "memory"),
    )
    first_skip: int = Field(
        3,
        ge=1,
        description="Largest step from slice to slice at the start.",
        json_schema_extra=affects("train"),
    )
    last_skip: int = Field(
        5, ge=1, description="Largest step at the end.", json_schema_extra=affects("train")
    )
    grow_every: int = Field(
        20,
        ge=1,
        description="Epochs after which the largest step grows by one.",
        json_schema_extra=affects("train"),
    )

    @model_validator(mode="after")
    def _grows(self) -> Frames:
        if self.last_skip < self.first_skip:
            raise ValueError("last_skip must not be below first_skip")
        return self


class Memory(Section):
    """The memory of segmented slices."""

    mode: Mode = Field(
        "recurrent",
        description="What the memory holds of a segmented slice in training. mask: its truth. recurrent: its "
        "own soft prediction. threshold: its prediction if that is good, otherwise its truth.",
        json_schema_extra=affects("train", "memory"),
    )
    iou_threshold: Share = Field(
        0.65,
        description="Mode `threshold`: a prediction is good if its soft IoU is above this.",
        json_schema_extra=affects("train"),
    )
    capacity: int = Field(
        8,
        ge=4,
        description="Maximum number of slices in memory while segmenting a volume; the log gives the bytes.",
        json_schema_extra=affects("train", "predict", "memory"),
    )


class Model(AnyModel):
    """One model of an experiment: a hint network and a memory network, trained together once per fold."""

    trunk: Trunk = Field(Trunk(), description="Networks.")
    size: int = Field(
        512,
        ge=32,
        multiple_of=16,
        description="Edge of the square that slices are resized to. Pixels.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    slice_axis: Literal["x", "y", "z"] = Field(
        "z",
        description="Axis across slices (RAS; z: axial).",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    frames: Frames = Field(Frames(), description="Training samples.")
    memory: Memory = Field(Memory(), description="The memory.")
    hints: OneOrMore[Kind] = Field(
        ["hybrid"],
        description="Kinds of hints to train on, drawn with equal probability; points: inside the object; "
        "line: its longest diameter on the slice, as in RECIST; hybrid: any of the others.",
        json_schema_extra=affects("train"),
    )
    loss: Loss = Field(
        "both",
        description="Loss of the memory network: cross entropy (ce), Lovász-softmax (iou), or both.",
        json_schema_extra=affects("train"),
    )
    intensity: OneOrMore[Intensity] = Field(
        [Intensity(clip="percentiles", scale="zscore")],
        description="Grey values, per volume; a list: one entry per channel. If left out: "
        "`{clip: percentiles, scale: zscore}`.",
    )
    augmentation: Augmentation | None = Field(
        Augmentation(), description="Random changes, the same for all slices of a sample; null: none."
    )
    validation_rounds: int = Field(
        2,
        ge=1,
        description="Number of rounds of the simulated user (predicted choice) in validation, which chooses "
        "the best epoch.",
        json_schema_extra=affects("train"),
    )

    @model_validator(mode="after")
    def _several(self) -> Model:
        if self.training.batch // self.training.gpus < 2:
            raise ValueError(
                "training.batch must be 2 or more for each GPU: batch normalisation needs several samples"
            )
        return self


class Evaluate(Section):
    """Sessions with a simulated user."""

    rounds: int = Field(
        3,
        ge=1,
        description="Number of rounds of a session; the first one is on the start slice.",
        json_schema_extra=affects("predict", "score"),
    )
    hints: OneOrMore[Kind] = Field(
        ["extreme", "box", "points", "scribble", "line", "hybrid"],
        description="Kinds of hints, one session each; as in `models`.",
        json_schema_extra=affects("predict", "score"),
    )
    compare: bool = Field(
        True,
        description="Also run sessions with slices chosen by the truth (oracle) and at random, to "
        "compare with the predicted choice. Their rows are labelled accordingly; they are not exported.",
        json_schema_extra=affects("predict", "score"),
    )
    protocol: Protocol | None = Field(
        None,
        description="Also run sessions by a published protocol. segfm3d: the CVPR 2025 challenge on "
        "interactive 3-D segmentation, a box and five clicks; null: none.",
        json_schema_extra=affects("predict", "score"),
    )
    baseline: bool = Field(
        True,
        description="Also run sessions with the engine `classical`, which needs no training, for comparison.",
        json_schema_extra=affects("predict", "score"),
    )
    export: Kind = Field(
        "scribble",
        description="The kind of hints whose last masks are exported.",
        json_schema_extra=affects("predict", "export"),
    )
    tolerance_mm: Annotated[float, Field(ge=0)] = Field(
        2, description="Tolerance of the surface Dice. mm.", json_schema_extra=affects("score")
    )

    @model_validator(mode="after")
    def _exported(self) -> Evaluate:
        if self.export not in self.hints:
            raise ValueError(f"export: {self.export} is not one of the hints")
        return self


class Export(Section):
    """Files for the user: <case>.nii.gz and <case>_quality.csv."""


class Settings(VolumeExperiment):
    """An experiment of interactive segmentation."""

    system: Literal["interactive"] = Field(
        "interactive", description="The kind of experiment.", json_schema_extra=affects("index", "report")
    )
    models: dict[Name, Model] = Field(
        {"vmn": Model()}, min_length=1, description="Model name → its settings."
    )
    evaluate: Evaluate = Field(Evaluate(), description="Sessions and scores.")
    export: Export = Field(Export(), description="Exported files.")

    @model_validator(mode="after")
    def _apart(self) -> Settings:
        targets = self.data.targets()
        if targets.ignore is not None:
            raise ValueError(
                "data.labels.ignore: an interactive experiment cannot leave voxels out, since its user marks "
                "whole slices; use the system segmentation"
            )
        if (targets.membership.sum(0) > 1).any():
            raise ValueError(
                "data.regions overlap; the objects of an interactive experiment must not overlap"
            )
        if len(targets.names) > MOST_OBJECTS:
            raise ValueError(
                f"{len(targets.names)} objects; an interactive experiment has at most {MOST_OBJECTS}: name "
                f"fewer, or combine classes in data.regions"
            )
        return self
