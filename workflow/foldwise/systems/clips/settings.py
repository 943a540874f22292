"""Settings of clip classification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from foldwise.experiment import settings
from foldwise.experiment.settings import Experiment, FurtherTest
from foldwise.section import Section, affects
from foldwise.settings import Model as AnyModel
from foldwise.settings import Name, Named, Share, Training, Validation
from foldwise.systems.clips.clip import Clip, Three
from foldwise.systems.clips.robustness import Perturb
from foldwise.video.damage import ON_DAMAGE, OnDamage
from foldwise.video.encoders import ENCODER, refuse_encoder, weights_of
from foldwise.video.pixels import INTERPOLATION, Interpolation

# Networks whose weights are a folder and stay as they are.
FROZEN = ("EVL", "ZeroShotCLIP")
# Arguments of EVL that determine its features.
ENCODING = ("weights", "blocks", "pool", "attention")
# Networks on the tokens of `encoder`.
HEADS = ("AttentiveProbe", "EVLDecoder", "AttentionMIL")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Most whole clips of a validation.
CASES = 200


class Data(settings.Data):
    """The clips and the meaning of their classes."""

    classes: Annotated[list[Name], Field(min_length=2)] | Path = Field(
        description="Names of the classes, in the order of their numbers from 0; or a JSON file with such a "
        "list (`data_class_mapping.json`). The sheet's labels are names or numbers.",
        json_schema_extra=affects("index"),
    )
    sentences: list[str] | Path | None = Field(
        None,
        description="A sentence per class for ZeroShotCLIP, in the same order; or a text file with one per "
        "line (`data_classes.txt`).",
        json_schema_extra=affects("index"),
    )
    images_fps: float | None = Field(
        None,
        gt=0,
        description="Images per second of videos that are folders of numbered images; these need it.",
        json_schema_extra=affects("cache"),
    )
    update_labels: bool = Field(
        False,
        description="Train only on the cases whose new region was accepted, with the new masks "
        "(index-updated.pkl); the others stay in validation and test, with the region that was found, and "
        "scores are given with and without them. The old index is kept.",
        json_schema_extra=affects("index"),
    )

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str] | Path) -> list[str] | Path:
        if isinstance(classes, list) and len(set(classes)) != len(classes):
            raise ValueError("a class is listed twice")
        return classes


class Regions(Section):
    """The object of interest in every frame (rule `roi`)."""

    method: Literal["medsam", "sam2_video", "edgetam_video", "threshold", "fan"] = Field(
        "threshold",
        description="medsam: the network, prompted with a box in key frames. sam2_video, edgetam_video: a "
        "network that follows the object through the clip, from the given masks, or from the box in the "
        "first frame. threshold: the largest bright component in the box. fan: the image area of the "
        "scanner, without the text and rulers around it.",
        json_schema_extra=affects("regions", "memory"),
    )
    weights: Path | None = Field(
        None,
        description="MedSAM's checkpoint (.pth), or a folder with a SamModel of transformers; for sam2_video "
        "and edgetam_video, a folder with a Sam2VideoModel or an EdgeTamVideoModel (safetensors).",
        json_schema_extra=affects("regions", "check"),
    )
    batch: int = Field(
        4,
        ge=1,
        description="Key frames that MedSAM takes at once on a GPU; on a CPU, it takes one after another.",
        json_schema_extra=affects(),
    )
    key_every: int = Field(
        8,
        ge=1,
        description="The region is searched in every n-th frame and interpolated in between (not by "
        "sam2_video and edgetam_video). Frames.",
        json_schema_extra=affects("regions", "memory"),
    )
    agreement: Share = Field(
        0.5,
        description="Cases whose new region has a smaller IoU with the given mask need review.",
        json_schema_extra=affects("regions"),
    )
    smallest: Share = Field(
        0.005,
        description="A region with a smaller share of the frame counts as missing; the case needs review.",
        json_schema_extra=affects("regions"),
    )

    @model_validator(mode="after")
    def _weights(self) -> Regions:
        neural = self.method not in ("threshold", "fan")
        if neural != (self.weights is not None):
            raise ValueError(
                "`weights` is required for medsam, sam2_video and edgetam_video, and not allowed for the "
                "other methods"
            )
        return self


class Prepare(Section):
    """Preparation before training."""

    regions: Regions | None = Field(None, description="Find regions.")


class Cache(Section):
    """The HDF5 file of a clip."""

    size: int | None = Field(
        256,
        ge=16,
        description="Shorter side to which larger frames are reduced; null: never. Pixels.",
        json_schema_extra=affects("cache", "memory"),
    )
    fps: float | None = Field(
        None,
        gt=0,
        description="Keep this many frames per second; null: all.",
        json_schema_extra=affects("cache", "memory"),
    )
    encoding: Literal["jpeg", "raw"] = Field(
        "jpeg",
        description="jpeg: small. raw: exact values, compressed without loss.",
        json_schema_extra=affects("cache", "memory"),
    )
    quality: int = Field(90, ge=1, le=100, description="JPEG quality.", json_schema_extra=affects("cache"))
    interpolation: Interpolation = Field(
        "bilinear", description=INTERPOLATION, json_schema_extra=affects("cache")
    )
    on_damage: OnDamage = Field("refuse", description=ON_DAMAGE, json_schema_extra=affects("cache"))


class Features(Section):
    """A frozen network's features, stored once per case (rule `encode`)."""

    views: int = Field(
        4,
        ge=1,
        description="Number of augmented training clips stored per case; each epoch draws one.",
        json_schema_extra=affects("train", "features"),
    )
    precision: Literal["float16", "int8"] = Field(
        "float16",
        description="int8 takes half the space: each token, and each patch's attention to a frame, is stored "
        "in whole numbers from -127 to 127 with its own scale.",
        json_schema_extra=affects("train", "features"),
    )


class Model(AnyModel):
    """One model of an experiment; it is trained once per fold."""

    network: Named = Field(
        Named.model_validate({"name": "r2plus1d_18"}),
        description="A class of torchvision.models.video (r2plus1d_18, mvit_v2_s, swin3d_t, s3d, …), "
        "monai.networks.nets, or Foldwise: FrameAverage (`network`: a 2-D network of torchvision.models or "
        "monai.networks.nets for each frame), EVL and ZeroShotCLIP (`weights`: a CLIP folder), "
        "AttentiveProbe, EVLDecoder and AttentionMIL (on `encoder`). Classes, frames and sizes are filled "
        "in.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    encoder: Named | None = Field(
        None,
        description=ENCODER.format(what="clips, or their frames,")
        + " `network` is AttentiveProbe, EVLDecoder or AttentionMIL. Its frames are clip.size, its clips "
        "clip.frames.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
        exclude_if=lambda value: value is None,
    )
    loss: Named = Field(
        Named(name="CrossEntropyLoss"),
        description="A class of torch.nn and its arguments.",
        json_schema_extra=affects("train", "memory"),
    )
    class_weights: Literal["balanced"] | dict[Name, float] | None = Field(
        None,
        description="Weights of the classes in the loss; balanced: by the counts in the fold's training "
        "cases; or a number per class, by name; null: equal.",
        json_schema_extra=affects("train"),
    )
    input: Literal["whole", "crop", "blank", "channel"] = Field(
        "whole",
        description="whole: the whole frame. crop: cropped to the region. blank: its background blanked. "
        "channel: the region as a fourth channel. All except whole need prepare.regions; frames of cases "
        "without a region are used whole.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    margin: Share = Field(
        0.05,
        description="Margin of `crop`, as a share of the region's longer edge.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    clip: Clip = Field(Clip(), description="Frames and views.")
    features: Features | None = Field(
        None, description="Store the features of EVL's frozen network or of `encoder`."
    )
    bag: int = Field(
        8,
        ge=1,
        description="Clips in a training item of AttentionMIL, all of one patient: drawn if the patient has "
        "more, repeated with other views if it has fewer.",
        json_schema_extra=affects("train"),
    )
    training: Training = Field(
        Training(validation=Validation(cases=CASES)),
        description=f"The training loop. By default a validation predicts at most {CASES} whole clips, since "
        "a clip has a single class.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        # A partly set loop keeps the other default of this system.
        training = values.get("training", {}) if isinstance(values, dict) else None
        if isinstance(training, dict) and isinstance(given := training.get("validation", {}), dict):
            values = {**values, "training": {**training, "validation": {"cases": CASES, **given}}}
        return values

    @model_validator(mode="after")
    def _fits(self) -> Model:
        name = self.network.plain
        if self.encoder is not None:
            refuse_encoder(self.encoder, size="clip.size", frames="clip.frames")
        if (self.encoder is not None) != (name in HEADS):
            raise ValueError(
                f"`encoder` and a network on it belong together: {', '.join(HEADS)} (got {name}, encoder "
                f"{self.encoder.name if self.encoder else 'null'})"
            )
        if name in FROZEN and "weights" not in self.network.arguments:
            raise ValueError(f"{name} needs `weights`, a folder of CLIP weights")
        if self.features is not None and (self.frozen_weights is None or name == "ZeroShotCLIP"):
            raise ValueError(f"features can only be stored for EVL or an `encoder`; {name} has none")
        if self.by_patient and self.features is None:
            raise ValueError(f"{name} learns from stored features; set them, e.g. `features: {{views: 4}}`")
        if self.input == "channel" and self.frozen_weights is not None:
            raise ValueError(f"{name} is frozen and cannot learn a fourth channel; use crop or blank")
        if self.input == "channel" and self.clip.rand_augment is not None:
            raise ValueError(
                "RandAugment would move the frames but not the region; set clip.rand_augment: null"
            )
        return self

    @property
    def by_patient(self) -> bool:
        """Whether the network learns from bags of a patient's clips."""
        return self.network.plain == "AttentionMIL"

    @property
    def frozen_weights(self) -> Path | None:
        """File or folder of the weights that never learn."""
        if self.encoder is not None:
            return weights_of(self.encoder)
        return Path(self.network.arguments["weights"]) if self.network.plain in FROZEN else None

    @property
    def normalisation(self) -> tuple[Three, Three]:
        """Mean and standard deviation; those of an encoder were filled in."""
        assert self.encoder is None or (self.clip.mean and self.clip.std), "filled in where it is loaded"
        return self.clip.mean or CLIP_MEAN, self.clip.std or CLIP_STD


class Evaluate(Section):
    """Scores, and tests of robustness."""

    perturb: Perturb | None = Field(
        None,
        description="Predict held-out clips again with changed frames, for a table of the report and "
        "fold<n>/perturb.csv; `{}`: with the default strengths. null: do not.",
        exclude_if=lambda value: value is None,
    )


class Export(Section):
    """Files for the user."""

    views: bool = Field(
        False, description="Also write the probabilities of each view.", json_schema_extra=affects("export")
    )


class Settings(Experiment):
    """An experiment."""

    system: Literal["clips"] = Field(
        description="The kind of experiment.", json_schema_extra=affects("index", "report")
    )
    data: Data = Field(description="Clips and classes.")
    prepare: Prepare = Field(Prepare(), description="Regions.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
    models: dict[Name, Model] = Field(
        {"r2plus1d": Model()}, min_length=1, description="Model name → its settings."
    )
    evaluate: Evaluate = Field(Evaluate(), description="Scores, and tests of robustness.")
    export: Export = Field(Export(), description="Exported files.")

    @model_validator(mode="after")
    def _regions(self) -> Settings:
        wanting = [name for name, model in self.models.items() if model.input != "whole"]
        if self.prepare.regions is None and (wanting or self.data.update_labels):
            what = f"models.{wanting[0]}.input" if wanting else "data.update_labels"
            raise ValueError(f"{what} needs regions: set prepare.regions, e.g. `regions: {{method: fan}}`")
        blind = [name for name, model in self.models.items() if model.network.plain == "ZeroShotCLIP"]
        if blind and self.data.sentences is None:
            raise ValueError(f"models.{blind[0]} needs data.sentences")
        return self

    @property
    def further_tests(self) -> Mapping[str, FurtherTest]:
        """Predictions of clips with changed frames."""
        if (perturb := self.evaluate.perturb) is None:
            return {}
        listed = (perturb.attenuation, perturb.shadow, perturb.speckle, perturb.gain)
        return {"perturb": FurtherTest("perturb", 1 + sum(map(len, listed)))}
