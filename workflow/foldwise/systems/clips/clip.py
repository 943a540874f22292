"""Settings of the part of a video that a network sees, and of its augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foldwise.section import Section, affects
from foldwise.settings import Share

Three = tuple[float, float, float]


class RandAugment(Section):
    """Random changes of grey values and shape (Cubuk et al. 2020), the same for all frames of a clip."""

    operations: int = Field(
        2,
        ge=1,
        description="Number of changes, applied one after another.",
        json_schema_extra=affects("train", "features"),
    )
    magnitude: int = Field(
        7,
        ge=0,
        le=30,
        description="Strength of the changes, 0 to 30.",
        json_schema_extra=affects("train", "features"),
    )


class Clip(Section):
    """The part of a video that the network sees."""

    frames: int = Field(
        8,
        ge=1,
        description="Number of frames of a clip.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    every: int | Literal["segments"] = Field(
        16,
        description="Step between frames, from a random start; or `segments`: the video is divided into as "
        "many equal parts as there are frames, and one frame is drawn from each. Frames of the cache.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    size: int = Field(
        224,
        ge=16,
        description="Edge of the square that the network sees. Pixels.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    area: tuple[Share, Share] = Field(
        (0.08, 1.0),
        description="Smallest and largest share of a training frame that a random resized crop keeps.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    mirror: bool = Field(
        True,
        description="Mirror training clips left to right with probability 0.5.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    rand_augment: RandAugment | None = Field(RandAugment(), description="Augmentation; null: none.")
    mean: Three | None = Field(
        None,
        description="Means of values 0 to 1; null: those of `encoder`, or CLIP's.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    std: Three | None = Field(
        None,
        description="Standard deviations of values 0 to 1; null: those of `encoder`, or CLIP's.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    spatial_views: Literal[1, 3] = Field(
        1,
        description="Number of squares along the longer side whose predictions are averaged in testing: 1 or "
        "3.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    temporal_views: int = Field(
        3,
        ge=1,
        description="Number of clips over the video whose predictions are averaged in testing.",
        json_schema_extra=affects("train", "predict", "features"),
    )

    @model_validator(mode="after")
    def _sensible(self) -> Clip:
        if not 0 < self.area[0] <= self.area[1]:
            raise ValueError("area: the first share must be above 0 and not above the second")
        if isinstance(self.every, int) and self.every < 1:
            raise ValueError("every: set a step of at least 1 frame, or `segments`")
        return self
