"""Settings of surgical experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from foldwise.experiment import settings
from foldwise.experiment.settings import Experiment
from foldwise.metrics.video import CHOLEC80_PHASES
from foldwise.section import Section, affects
from foldwise.settings import Model as AnyModel
from foldwise.settings import Name, Named, Share, Training
from foldwise.video.damage import ON_DAMAGE, OnDamage
from foldwise.video.encoders import ENCODER, refuse_encoder, takes_clips, weights_of
from foldwise.video.pixels import INTERPOLATION, Interpolation

Pixels = Annotated[int, Field(ge=1)]
Triple = tuple[float, float, float]
# Settings that a temporal model takes over from the model that provides its features.
BACKBONE = ("backbone", "crop", "mean", "std")
# Settings that a kind does not use.
MAPPED = ("correlation", "correlation_form", "steps")
UNUSED = {
    "tool": ("head", "hidden", "phase_weights", *MAPPED),
    "phase": ("head", "tool_weights", *MAPPED),
    "mtrcnet": ("head", *MAPPED),
    "mtrcnet_cl": ("head",),
    "temporal": ("window", "augmentation", "backbone_lr", "hidden", "tool_weights", *MAPPED),
}
MEAN, STD = (0.3456, 0.2281, 0.2233), (0.2528, 0.2135, 0.2104)
CHOLEC80_TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")


class Data(settings.Data):
    """The videos and their annotations."""

    phases: list[Name] = Field(
        list(CHOLEC80_PHASES),
        max_length=127,
        description="Names of the phases, in the order of their numbers.",
        json_schema_extra=affects("cache", "index"),
    )
    tools: list[Name] = Field(
        list(CHOLEC80_TOOLS),
        description="Names of the tools, in the order of the annotation's columns.",
        json_schema_extra=affects("cache", "index"),
    )
    annotation_fps: Literal["auto"] | Annotated[float, Field(gt=0)] | None = Field(
        "auto",
        description="Frames per second that the annotation's column Frame counts; null: the frames of the "
        "video itself, or the numbers of the images. auto: found for each video, from the rates at which "
        "its annotation ends with it.",
        json_schema_extra=affects("cache", "index"),
    )
    images_fps: float | None = Field(
        None,
        gt=0,
        description="Images per second of videos that are folders of numbered images; these need it.",
        json_schema_extra=affects("cache", "index"),
    )
    first_image: int = Field(
        0, ge=0, description="Number of the image at time 0.", json_schema_extra=affects("cache", "index")
    )

    @model_validator(mode="after")
    def _distinct(self) -> Data:
        for names in (self.phases, self.tools):
            if len(set(names)) != len(names):
                raise ValueError("a phase or a tool is listed twice")
        if not self.phases and not self.tools:
            raise ValueError("list phases, tools or both; otherwise nothing can be learnt")
        return self


class Cache(Section):
    """The frames kept from a video."""

    fps: float | None = Field(
        1,
        gt=0,
        description="Frames kept per second, nearest by time stamp; null: all.",
        json_schema_extra=affects("cache"),
    )
    longest_step: float | None = Field(
        None,
        gt=0,
        description="Frames further apart than this are not neighbours: windows do not cross such a gap. "
        "Seconds; null: one and a half steps at fps (or of a video with fewer frames), or of the median step "
        "if all frames are kept.",
        json_schema_extra=affects("cache"),
    )
    size: tuple[Pixels, Pixels] = Field(
        (250, 250),
        description="Height and width of a frame. Pixels.",
        json_schema_extra=affects("cache", "memory"),
    )
    cut_border: bool = Field(
        True,
        description="First crop the black border around the endoscope's image.",
        json_schema_extra=affects("cache"),
    )
    encoding: Literal["jpeg", "raw"] = Field(
        "jpeg",
        description="jpeg: about a tenth of the disk space; raw: exact (Blosc2-LZ4).",
        json_schema_extra=affects("cache"),
    )
    quality: int = Field(95, ge=1, le=100, description="JPEG quality.", json_schema_extra=affects("cache"))
    interpolation: Interpolation = Field(
        "bilinear", description=INTERPOLATION, json_schema_extra=affects("cache")
    )
    on_damage: OnDamage = Field("refuse", description=ON_DAMAGE, json_schema_extra=affects("cache"))

    @model_validator(mode="after")
    def _neighbours(self) -> Cache:
        if self.fps and self.longest_step and self.longest_step < 1 / self.fps:
            raise ValueError("longest_step is less than a step at fps, so no frame would have a neighbour")
        return self


class Augmentation(Section):
    """Random changes of training windows, the same for all frames of a window."""

    flip: bool = Field(
        True, description="Mirror half of the windows left to right.", json_schema_extra=affects("train")
    )
    brightness: Share = Field(
        0.2, description="Largest relative change of brightness.", json_schema_extra=affects("train")
    )
    contrast: Share = Field(
        0.2, description="Largest relative change of contrast.", json_schema_extra=affects("train")
    )
    saturation: Share = Field(
        0.2, description="Largest relative change of saturation.", json_schema_extra=affects("train")
    )


class Model(AnyModel):
    """One model of an experiment; it is trained once per fold."""

    kind: Literal["tool", "phase", "mtrcnet", "mtrcnet_cl", "temporal"] = Field(
        "mtrcnet",
        description="tool: a linear layer per frame. phase: an LSTM over the window. mtrcnet: both on one "
        "backbone. mtrcnet_cl: with the correlation loss, in three steps. temporal: phases from a network "
        "over a whole video's features, of another model or of a frozen encoder.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    backbone: Named = Field(
        Named(name="resnet50"),
        description="A classifier of torchvision.models, foldwise.networks or monai.networks.nets (in 2-D), "
        "looked up in this order; its last layer is removed.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    features: Name | None = Field(
        None,
        description="temporal: the model whose backbone provides the features, or set `encoder`.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    encoder: Named | None = Field(
        None,
        description="temporal: "
        + ENCODER.format(what="frames, or the clip around each,")
        + " Its frames are `crop`, its clips `frames` (its own number by default).",
        json_schema_extra=affects("train", "predict", "features", "memory"),
        exclude_if=lambda value: value is None,
    )
    every: int = Field(
        1,
        ge=1,
        description="Step between the frames of a clip for an encoder of clips. Frames of the cache.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    head: Named = Field(
        Named(name="TeCNO"),
        description="temporal: TeCNO, GRU, DiagonalSSM (a state-space network) or TransSVNet, and its "
        "arguments.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    mode: Literal["online", "offline"] = Field(
        "online",
        description="temporal. online: what is predicted for a frame depends on earlier frames alone, as "
        "during an operation. offline: on the whole video. Their scores are not comparable.",
        json_schema_extra=affects("train", "predict", "features", "export"),
    )
    window: int = Field(
        10,
        ge=1,
        description="Number of consecutive frames of a sample, all from one video.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    crop: tuple[Pixels, Pixels] = Field(
        (224, 224),
        description="Height and width of the crop from a frame, at the same place in all frames of a window. "
        "Pixels.",
        json_schema_extra=affects("train", "predict", "features", "memory"),
    )
    mean: Triple | None = Field(
        None,
        description="Subtracted from red, green, blue (0 to 1); null: that of `encoder`, or of operations.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    std: Triple | None = Field(
        None,
        description="Divisor after the subtraction; null: likewise.",
        json_schema_extra=affects("train", "predict", "features"),
    )
    hidden: int = Field(
        512, ge=1, description="Width of the LSTM.", json_schema_extra=affects("train", "predict", "memory")
    )
    backbone_lr: float = Field(
        0.1,
        ge=0,
        description="Learning rate of the backbone, as a share of the optimiser's; 0: it is frozen.",
        json_schema_extra=affects("train"),
    )
    phase_weights: Literal["balanced", "none"] | list[NonNegativeFloat] = Field(
        "balanced",
        description="Weights of the phases in the cross entropy; balanced: median frequency divided by "
        "frequency, in the fold's training videos; or a number per phase.",
        json_schema_extra=affects("train"),
    )
    tool_weights: Literal["balanced", "none"] | list[NonNegativeFloat] = Field(
        "none",
        description="Weights of a tool's presence; balanced: the number of frames without it divided by that "
        "of frames with it, in the fold's training videos, at most 10; or a number per tool.",
        json_schema_extra=affects("train"),
    )
    correlation: float = Field(
        1, ge=0, description="mtrcnet_cl: weight of the correlation loss.", json_schema_extra=affects("train")
    )
    correlation_form: Literal["kl", "released"] = Field(
        "kl",
        description="mtrcnet_cl. kl: the Kullback-Leibler divergence of Bernoulli variables. released: what "
        "the authors' released code computes instead, the absolute value of Σ q (log q − p).",
        json_schema_extra=affects("train"),
    )
    steps: tuple[Share, Share] = Field(
        (0.4, 0.2),
        description="mtrcnet_cl: shares of the epochs in which both branches learn without correlation, then "
        "only the mapping; in the rest, everything except the mapping learns, with correlation.",
        json_schema_extra=affects("train"),
    )
    augmentation: Augmentation | None = Field(Augmentation(), description="Augmentation; null: none.")
    batch_frames: int = Field(
        64,
        ge=1,
        description="Frames per forward pass in prediction.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    annotation_fps: float | None = Field(
        None,
        gt=0,
        description="Filled in by training: the rate at which rows are numbered for videos without "
        "annotation, that of the training videos; null: their own frames.",
        json_schema_extra=affects("train"),
    )
    training: Training = Field(
        Training(epochs=25, steps_per_epoch=None, batch=8, validate_every=1),
        description="Training loop; a sample is a window (temporal: a video). Defaults: 25 epochs, batches "
        "of 8 (temporal: 1), validated every epoch, and steps_per_epoch null: every sample once.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if isinstance(values, dict) and (values.get("kind") == "tecno" or "temporal" in values):
            raise ValueError(
                "`kind: tecno` is now `kind: temporal`, and its section `temporal` is now `head`, e.g. "
                "`head: {name: TeCNO, layers: 8}`"
            )
        # A partly set loop keeps the other defaults of this system.
        if isinstance(values, dict) and isinstance(values.get("training"), dict | None):
            own: dict[str, Any] = {"epochs": 25, "steps_per_epoch": None, "batch": 8, "validate_every": 1}
            if values.get("kind") == "temporal":
                own["batch"] = 1
            values = {**values, "training": {**own, **(values.get("training") or {})}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        given = [name for name in ("features", "encoder") if getattr(self, name) is not None]
        if len(given) != (self.kind == "temporal"):
            raise ValueError(
                "`kind: temporal` builds on the model that `features` names, or on an `encoder`; set one of "
                f"them with it, and none with other kinds (got {self.kind}, {' and '.join(given) or 'none'})"
            )
        if self.every != 1 and not (self.encoder and takes_clips(self.encoder)):
            raise ValueError("`every` is for an encoder of clips; remove it")
        if self.kind == "temporal":
            self._refuse_temporal()
        elif self.mode == "offline":
            raise ValueError(f"`mode: offline` is for kind: temporal; {self.kind} sees earlier frames alone")
        if self.kind == "mtrcnet_cl":
            if self.training.patience is not None:
                raise ValueError("patience would end mtrcnet_cl before its third step; remove it")
            if self.training.validation.best != "cases":
                raise ValueError(
                    "training.validation.best: mtrcnet_cl needs `cases`, since samples do not show whether "
                    "its third step is done"
                )
            if self.training.epochs < 3 or sum(self.steps) >= 1:
                raise ValueError(
                    "mtrcnet_cl has three steps: set 3 or more epochs, and shares with a sum below 1"
                )
        return self

    def _refuse_temporal(self) -> None:
        if self.training.batch != 1:
            raise ValueError("temporal learns from one video at a time: set training.batch: 1, or accumulate")
        if "mode" in self.head.arguments:
            raise ValueError("head: set `mode` beside `head`, not in it")
        if self.encoder is not None:
            refuse_encoder(self.encoder, size="crop")
            if self.crop[0] != self.crop[1]:
                raise ValueError(f"crop: an encoder takes squares (got {self.crop[0]}×{self.crop[1]})")

    @property
    def frozen_weights(self) -> Path | None:
        """File or folder of the encoder's weights."""
        return None if self.encoder is None else weights_of(self.encoder)

    @property
    def normalisation(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation; those of an encoder were filled in."""
        assert self.encoder is None or (self.mean and self.std), "filled in where it is loaded"
        return self.mean or MEAN, self.std or STD


class Evaluate(Section):
    """Scores."""

    threshold: Share = Field(
        0.5,
        description="A tool counts as present if its probability reaches this.",
        json_schema_extra=affects("score", "export"),
    )


class Export(Section):
    """Files for the user."""

    ribbons: bool = Field(
        True, description="A picture per video: truth over prediction.", json_schema_extra=affects("export")
    )


class Settings(Experiment):
    """A surgical experiment."""

    system: Literal["surgical"] = Field(
        "surgical", description="The kind of experiment.", json_schema_extra=affects("index", "report")
    )
    data: Data = Field(description="Videos and annotations.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
    models: dict[Name, Model] = Field(
        {"mtrcnet": Model()}, min_length=1, description="Model name → its settings."
    )
    evaluate: Evaluate = Field(Evaluate(), description="Scores.")
    export: Export = Field(Export(), description="Exported files.")

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        height, width = self.cache.size
        # A job that prepares frames gets no models; the default one need not fit.
        for name, model in self.models.items() if self.part is None else ():
            if model.kind != "tool" and not self.data.phases:
                raise ValueError(f"models.{name} learns phases, but data.phases is empty")
            if model.kind in ("tool", "mtrcnet", "mtrcnet_cl") and not self.data.tools:
                raise ValueError(f"models.{name} learns tools, but data.tools is empty")
            if model.features is not None:
                source = self.models.get(model.features)
                if source is None or source.kind == "temporal":
                    raise ValueError(
                        f"models.{name}.features: {model.features} is not a model with a backbone"
                    )
                for key in (*BACKBONE, "pretrained"):
                    if _asks(model, key) and getattr(model, key) != getattr(source, key):
                        where = f"the backbone is that of {model.features}; remove it, or set it there"
                        raise ValueError(f"models.{name}.{key}: {where}")
            elif model.crop[0] > height or model.crop[1] > width:
                raise ValueError(f"models.{name}.crop is larger than the frames of cache.size")
            for weights, names in (
                (model.phase_weights, self.data.phases),
                (model.tool_weights, self.data.tools),
            ):
                if isinstance(weights, list) and len(weights) != len(names):
                    raise ValueError(f"models.{name}: {len(weights)} weights for {len(names)} names")
            for key in (*UNUSED[model.kind], *(["backbone"] if model.encoder else ())):
                if _asks(model, key):
                    raise ValueError(f"models.{name}.{key} has no effect with kind: {model.kind}; remove it")
        return self


def _asks(model: Model, key: str) -> bool:
    """Whether a setting asks for something, and not for its default or for nothing."""
    value, default = getattr(model, key), Model.model_fields[key].get_default()
    return bool(value) and value != default
