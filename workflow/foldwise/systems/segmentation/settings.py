"""Settings of segmentation experiments."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foldwise.section import Section, affects
from foldwise.settings import Model as AnyModel
from foldwise.settings import Name, Named, OneOrMore
from foldwise.volumes.settings import (
    Augmentation,
    Data,
    Evaluate,
    Export,
    Intensity,
    Sampling,
    VolumeExperiment,
    Voxels,
)

__all__ = ["Data", "Evaluate", "Export", "Model", "Plan", "Settings"]


class Inference(Section):
    """Sliding-window prediction."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5,
        description="Overlap of neighbouring windows, as a share of their size.",
        json_schema_extra=affects("train", "predict"),
    )
    batch: int = Field(
        2,
        ge=1,
        description="Windows per forward pass.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    weighting: Literal["gaussian", "constant"] = Field(
        "gaussian",
        description="Weight of a window's voxels where windows overlap; gaussian: σ is an eighth of the "
        "window.",
        json_schema_extra=affects("train", "predict"),
    )
    mirror: bool = Field(
        False,
        description="Average over the mirror images along every axis (8 times the work in 3-D).",
        json_schema_extra=affects("train", "predict"),
    )


class Model(AnyModel):
    """One model of an experiment; it is trained once per fold."""

    network: Named = Field(
        Named.model_validate({"name": "BasicUNet", "features": [16, 32, 64, 128, 256, 16]}),
        description="A class of monai.networks.nets, torchvision.models or foldwise.networks, looked up in "
        "this order, and its arguments; channels and classes are filled in.",
        json_schema_extra=affects("train", "predict", "memory", "plan"),
    )
    loss: OneOrMore[Named] | None = Field(
        None,
        description="A class of monai.losses or torch.nn and its arguments, e.g. `{name: DiceFocalLoss}`; "
        "the losses of a list are added. null: Dice and cross entropy (for regions, Dice and binary cross "
        "entropy).",
        json_schema_extra=affects("train", "memory"),
    )
    dimensions: Literal["3d", "slab", "2.5d", "2d"] = Field(
        "3d",
        description="3d: patches as given. slab: whole slices, as many as `patch` has along `slice_axis`. "
        "2d: single slices, in patches of the given size within the slice. 2.5d: the same, with `slices` "
        "neighbouring slices as channels.",
        json_schema_extra=affects("train", "predict", "memory", "plan"),
    )
    slice_axis: Literal["x", "y", "z"] = Field(
        "z",
        description="Axis across slices (RAS; z: axial).",
        json_schema_extra=affects("train", "predict", "memory", "plan"),
    )
    slices: int = Field(
        3,
        ge=1,
        description="Number of slices of a 2.5d input, odd; the middle one is segmented.",
        json_schema_extra=affects("train", "predict", "memory", "plan"),
    )
    patch: Voxels = Field(
        (96, 96, 96),
        description="Size of the training patch, and of the window in prediction. Voxels.",
        json_schema_extra=affects("train", "predict", "memory", "plan"),
    )
    intensity: OneOrMore[Intensity] = Field(
        [Intensity()], description="Grey values; a list: one entry per channel."
    )
    sampling: Sampling = Field(Sampling(), description="Patch centres.")
    augmentation: Augmentation | None = Field(Augmentation(), description="Augmentation; null: none.")
    inference: Inference = Field(Inference(), description="Prediction.")

    @model_validator(mode="after")
    def _odd(self) -> Model:
        if self.dimensions == "2.5d" and self.slices % 2 == 0:
            raise ValueError("slices must be odd: the middle one is segmented")
        return self


# GPU memory of a plan by name. GiB.
PRESETS_GIB = {"small": 4.0, "medium": 11.0, "large": 24.0}


class Plan(Section):
    """Spacing, patch, batch, network and grey values from the training cases (rule `plan`).

    Values set in the experiment override the plan.
    """

    memory: Literal["small", "medium", "large"] | Annotated[float, Field(gt=0)] = Field(
        "medium",
        description="GPU memory available to training: small is 4, medium 11, large 24; or a number. GiB.",
        json_schema_extra=affects("plan", "memory"),
    )
    ct: bool | None = Field(
        None,
        description="Whether the first channel is a CT in HU; null: decided from its values.",
        json_schema_extra=affects("plan"),
    )

    @property
    def gib(self) -> float:
        """GPU memory available to training, in GiB."""
        return PRESETS_GIB[self.memory] if isinstance(self.memory, str) else self.memory


class Settings(VolumeExperiment):
    """A segmentation experiment."""

    system: Literal["segmentation"] = Field(
        "segmentation", description="The kind of experiment.", json_schema_extra=affects("index", "report")
    )
    plan: Plan | None = Field(
        None,
        description="Derive all values that are not set from the training cases; null: use the defaults.",
    )
    models: dict[Name, Model] = Field(
        {"unet": Model()}, min_length=1, description="Model name → its settings."
    )
    evaluate: Evaluate = Field(Evaluate(), description="Scores.")
    export: Export = Field(Export(), description="Exported files.")

    @property
    def chooses(self) -> bool:
        """Whether there is post-processing to choose."""
        return bool(self.evaluate.postprocess)

    @model_validator(mode="after")
    def _known_classes(self) -> Settings:
        for name, model in self.models.items():
            if unknown := set(model.sampling.label_weights) - {*self.data.targets().classes, "background"}:
                raise ValueError(
                    f"models.{name}.sampling.label_weights lists {', '.join(sorted(unknown))}, "
                    f"which are not classes of data.labels"
                )
        return self
