"""Every setting of an experiment: its type, default, unit and meaning. Settings are defined nowhere else."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from foldwise.files import CaseError
from foldwise.targets import Targets

Triple = tuple[float, float, float]
Voxels = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Share = Annotated[float, Field(ge=0, le=1)]
Postprocess = Literal["largest_foreground", "largest_component", "fill_holes"]
# Names become folders and wildcards of the workflow.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """A group of settings; an unknown key is an error, and values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(BaseModel):
    """A class of a library by name; every other key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="Name of the class, looked up in the allowed namespaces.")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        # YAML 1.1 reads 1e-4 as text, and no class takes a number as text.
        if not isinstance(values, dict):
            return values
        return {k: float(v) if _is_number(v) else v for k, v in values.items()}

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return dict(self.model_extra or {})


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


Item = TypeVar("Item")
# A list that may be written without its brackets where it has one item.
OneOrMore = Annotated[
    list[Item], BeforeValidator(_as_list, json_schema_input_type=Item | list[Item]), Field(min_length=1)
]


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value))


class Data(Section):
    """Which cases there are and what their labels mean."""

    sheet: Path = Field(description="Sample sheet (CSV or TSV), one case a row.")
    folder: Path | None = Field(
        None,
        description="Folder from which relative paths of the sheet start; default: the sheet's.",
    )
    labels: dict[Name, Annotated[int, Field(ge=1)]] = Field(
        {"tumour": 1}, min_length=1, description="Class name → its voxel value in the label files."
    )

    regions: dict[Name, Annotated[list[Name], Field(min_length=1)]] = Field(
        {},
        description="Overlapping regions → their classes, e.g. `{whole: [oedema, core], core: [core]}`: "
        "nested "
        "or disjoint, each with an output of its own (sigmoid). Empty: the classes themselves (soft-max).",
    )

    @model_validator(mode="after")
    def _regions(self) -> Data:
        self.targets()
        return self

    def targets(self) -> Targets:
        """What is learnt, predicted and scored."""
        try:
            return Targets(dict(self.labels), {name: tuple(c) for name, c in self.regions.items()})
        except CaseError as error:
            raise ValueError(str(error)) from None

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        if len(set(labels.values())) != len(labels):
            raise ValueError("two classes share one voxel value")
        return labels


class LungMask(Section):
    """Lungs found in a CT in HU, without a network."""

    air_hu: float = Field(-320, description="Voxels below this are air or lung. HU.")
    closing_mm: float = Field(
        10, ge=0, description="Radius of the closing that keeps vessels and pleural tumours in. mm."
    )
    max_missed: Share = Field(
        0.05,
        description="A case fails when more than this share of its labelled voxels lies outside the region.",
    )


class Crop(Section):
    """The box that is kept of every scan, and what happens outside the anatomy."""

    to: Literal["region", "lungs", "nonzero", "none"] = Field(
        "region",
        description="What the box encloses: the thoracic region, the lungs alone, voxels that are not 0 in "
        "any "
        "channel (MR without its skull), or the whole scan.",
    )
    margin_mm: float = Field(10, ge=0, description="Margin round the box on every side. mm.")
    outside: Literal["keep", "zero", "mean"] = Field(
        "keep",
        description="Voxels outside `to`: kept, set to 0, or set to the mean of those outside.",
    )


class Prepare(Section):
    """From source files to cropped volumes."""

    lung_mask: LungMask | None = Field(None, description="Find the lungs first (CT in HU only).")
    crop: Crop = Field(Crop(to="none"), description="The crop.")

    @model_validator(mode="after")
    def _mask_for_crop(self) -> Prepare:
        if self.crop.to in ("region", "lungs") and self.lung_mask is None:
            raise ValueError(f"crop.to: {self.crop.to} needs lung_mask, e.g. `lung_mask: {{}}`")
        return self


class Cache(Section):
    """The HDF5 file of a case."""

    spacing: Triple | None = Field(
        None, description="Resample to this voxel size (x, y, z; RAS axes); null keeps it. mm."
    )
    shape: Voxels | None = Field(
        None, description="Resample every case to this shape instead (whole volumes as patches). Voxels."
    )
    chunk: Voxels = Field((32, 32, 32), description="Chunk of the stored arrays. Voxels.")
    max_foreground: int = Field(
        20000, ge=1, description="Foreground coordinates kept per class (drawn evenly if more)."
    )

    @field_validator("spacing")
    @classmethod
    def _positive(cls, spacing: Triple | None) -> Triple | None:
        if spacing is not None and min(spacing) <= 0:
            raise ValueError("a voxel size must be positive")
        return spacing

    @model_validator(mode="after")
    def _one_grid(self) -> Cache:
        if self.spacing is not None and self.shape is not None:
            raise ValueError("set spacing or shape, not both")
        return self


class Split(Section):
    """Cross-validation by patient."""

    folds: int = Field(5, ge=2, description="Number of folds.")
    validation: Share = Field(
        0.2,
        description="Share of a fold's training patients that chooses the best epoch and the "
        "post-processing; held-out cases choose nothing. 0: the last epoch is used.",
    )
    seed: int = Field(0, ge=0, description="Seed of the assignment.")
    file: Path | None = Field(
        None,
        description="A splits.json of your own instead: a list of folds, each with `test` "
        "and, if wanted, `validation` and `train` case names.",
    )


class Sampling(Section):
    """Where training patches are centred: a mixture of three samplers, given as fractions."""

    label: Share = Field(0.8, description="Fraction centred on a voxel of a drawn class.")
    uniform: Share = Field(0.2, description="Fraction centred anywhere.")
    weighted: Share = Field(
        0.0,
        description="Fraction centred in proportion to the weight map (sheet column `weight`, "
        "else the lung mask).",
    )
    label_weights: dict[Name, Annotated[float, Field(ge=0)]] = Field(
        {}, description="Relative weight of a class in the label sampler; default: equal."
    )
    overhang: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.5,
        description="Largest share of a patch, per side, beyond the border of a volume larger than it; 0.5: "
        "any "
        "voxel can be the very centre, 0: patches stay inside. A volume smaller than the patch is centred "
        "in it.",
    )

    @model_validator(mode="after")
    def _sum(self) -> Sampling:
        if abs(self.label + self.uniform + self.weighted - 1) > 1e-6:
            raise ValueError("label + uniform + weighted must be 1")
        return self


class Augmentation(Section):
    """Random changes of training patches, drawn per sample on the training device."""

    flip: bool = Field(True, description="Mirror along each axis, each with probability 0.5.")
    rotate_deg: float = Field(15, ge=0, le=180, description="Largest rotation about each axis. °.")
    scale: Share = Field(0.15, description="Largest relative zoom, in or out.")
    affine_probability: Share = Field(0.3, description="Share of samples rotated and zoomed.")
    noise: float = Field(0.1, ge=0, description="Largest std of noise, in normalised units.")
    gamma: Share = Field(0.3, description="Largest relative change of the grey curve's exponent.")
    brightness: float = Field(0.1, ge=0, description="Largest shift, in normalised units.")
    contrast: Share = Field(0.15, description="Largest relative change of contrast.")
    intensity_probability: Share = Field(0.3, description="Share of samples, per intensity change.")


class Intensity(Section):
    """How grey values become network inputs."""

    clip: tuple[float, float] | Literal["percentiles"] | None = Field(
        (-1000, 600),
        description="Values outside are clipped: two numbers (HU for CT), the case's own percentiles 0.5 "
        "and 99.5, "
        "or null.",
    )
    scale: Literal["window", "zscore", "zscore_nonzero"] | tuple[float, float] = Field(
        "window",
        description="The clip window mapped to [-1, 1]; the case's own z-score, over all voxels or over "
        "those that "
        "are not 0 (which stay 0); or a given mean and standard deviation.",
    )

    @model_validator(mode="after")
    def _sensible(self) -> Intensity:
        if isinstance(self.clip, tuple) and self.clip[0] >= self.clip[1]:
            raise ValueError("the window's lower end must lie below its upper end")
        if self.scale == "window" and not isinstance(self.clip, tuple):
            raise ValueError("scale: window needs a clip of two numbers; or use `scale: zscore`")
        if isinstance(self.scale, tuple) and self.scale[1] <= 0:
            raise ValueError("a standard deviation must be positive")
        return self


class Training(Section):
    """The loop."""

    epochs: int = Field(300, ge=1, description="Epochs at most.")
    steps_per_epoch: int | None = Field(
        100, ge=1, description="Optimiser steps per epoch; null: as many as see every training case once."
    )
    batch: int = Field(2, ge=1, description="Samples per forward pass.")
    accumulate: int = Field(1, ge=1, description="Forward passes per optimiser step.")
    amp: Literal["auto", "off", "16-mixed", "bf16-mixed"] = Field(
        "auto", description="Mixed precision; auto: 16-mixed on a GPU, off on a CPU."
    )
    clip_gradient: float | None = Field(12, gt=0, description="Largest gradient norm.")
    validate_every: int = Field(5, ge=1, description="Epochs between validations.")
    patience: int | None = Field(
        None, ge=1, description="Stop after this many validations without a better score."
    )
    keep: Literal["best", "last"] = Field(
        "best", description="The model that is tested: of the best validation, or of the last epoch."
    )
    save_every: int | None = Field(
        None, ge=1, description="Also keep the model of every n-th epoch, in state/…/models. Epochs."
    )
    save_last: int | None = Field(None, ge=1, description="Also keep the models of the last n epochs there.")
    examples: int = Field(
        1, ge=0, description="Training samples, augmented, written as NIfTI to state/…/examples to look at."
    )


class Inference(Section):
    """Sliding-window prediction."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="Overlap of windows.")
    batch: int = Field(2, ge=1, description="Windows per forward pass.")
    weighting: Literal["gaussian", "constant"] = Field(
        "gaussian", description="Weight of a window's voxels where windows overlap (Gaussian: σ an eighth)."
    )
    mirror: bool = Field(
        False, description="Average over the mirror images along every axis (8 times the work in 3-D)."
    )


class Pretrained(Section):
    """Weights to start from; nothing in the file is executed."""

    file: Path = Field(description="A model.pt of Foldwise, or a file with a state dict.")
    minimum: Share = Field(
        0.5, description="Training refuses to start when a smaller share of the network's weights is found."
    )


class Model(Section):
    """One model of an experiment; it is trained once per fold."""

    network: Named = Field(
        Named.model_validate({"name": "BasicUNet", "features": [16, 32, 64, 128, 256, 16]}),
        description="From monai.networks.nets, torchvision.models or foldwise.networks; channels "
        "and classes are filled in.",
    )
    loss: OneOrMore[Named] | None = Field(
        None,
        description="From monai.losses or torch.nn, e.g. DiceFocalLoss; a list is summed. null: Dice and "
        "cross "
        "entropy (for regions, Dice and binary cross entropy).",
    )
    optimiser: Named = Field(
        Named.model_validate({"name": "AdamW", "lr": 1e-3}), description="From torch.optim."
    )
    scheduler: Named | None = Field(
        Named(name="PolynomialLR"),
        description="From torch.optim.lr_scheduler, stepped once per epoch; the number of epochs "
        "is filled in where the class asks for it; ReduceLROnPlateau watches the training loss.",
    )
    pretrained: Pretrained | None = Field(None, description="Weights to start from.")
    dimensions: Literal["3d", "slab", "2.5d", "2d"] = Field(
        "3d",
        description="3d: patches as given. slab: whole slices, as many as `patch` has along `slice_axis`. "
        "2d: "
        "single slices, in patches as given in the plane. 2.5d: these with `slices` neighbours as channels.",
    )
    slice_axis: Literal["x", "y", "z"] = Field("z", description="Axis across slices (RAS; z: axial).")
    slices: int = Field(3, ge=1, description="Slices of a 2.5d input, odd; the middle one is segmented.")
    patch: Voxels = Field((96, 96, 96), description="Training patch and window. Voxels.")
    intensity: OneOrMore[Intensity] = Field(
        [Intensity()], description="Grey values; a list: one entry per channel."
    )
    sampling: Sampling = Field(Sampling(), description="Patch centres.")
    augmentation: Augmentation | None = Field(Augmentation(), description="Augmentation; null: none.")
    training: Training = Field(Training(), description="The loop.")
    inference: Inference = Field(Inference(), description="Prediction.")

    @model_validator(mode="after")
    def _odd(self) -> Model:
        if self.dimensions == "2.5d" and self.slices % 2 == 0:
            raise ValueError("slices must be odd: the middle one is segmented")
        return self


class Evaluate(Section):
    """Scores."""

    tolerance_mm: float = Field(2, ge=0, description="Tolerance of the surface Dice. mm.")
    empty: Literal["leave_out", "brats"] = Field(
        "leave_out",
        description="Truth and prediction both empty: left out of the means and counted; or, as BraTS has "
        "it, Dice 1 "
        "and HD95 0. Only one empty: Dice 0, and HD95 the scan's diagonal; or, as BraTS has it, 373.13 mm.",
    )
    postprocess: Annotated[
        list[Postprocess], BeforeValidator(_as_list, json_schema_input_type=Postprocess | list[Postprocess])
    ] = Field(
        [],
        description="Steps tried in this order; each is kept only if it raises the mean Dice (of the fold's "
        "validation cases; for new cases, of the whole cross-validation).",
    )


class Export(Section):
    """Files for the user."""

    probabilities: bool = Field(False, description="Also write <case>_<class>_probability.nii.gz, 0 to 1.")
    dicom_seg: bool = Field(False, description="Also write <case>.dcm, a DICOM-SEG, where the scan is DICOM.")


class Plan(Section):
    """Spacing, patch, batch, network and grey values from the training cases (rule `plan`).

    What the experiment sets itself is left alone.
    """

    memory: Literal["small", "medium", "large"] | Annotated[float, Field(gt=0)] = Field(
        "medium",
        description="GPU memory that training may take: small 4, medium 11, large 24, or a number. GiB.",
    )
    ct: bool | None = Field(
        None, description="Whether the first channel is a CT in HU; null: if its values say so."
    )


class Predict(Section):
    """New scans for a finished experiment (target `predict`)."""

    source: Path = Field(description="A sample sheet, or a folder of scans.")
    parts: int = Field(1, ge=1, description="Jobs among which the scans are divided.")

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str | Path) else value


class Settings(Section):
    """An experiment."""

    experiment: Name = Field(description="Its name; outputs lie in results/<experiment>.")
    results: Path = Field(Path("results"), description="Folder of all outputs, e.g. on scratch.")
    system: Literal["segmentation"] = Field("segmentation", description="The family.")
    seed: int = Field(0, ge=0, description="Seed of training.")
    data: Data = Field(description="Cases and labels.")
    prepare: Prepare = Field(Prepare(), description="Masks and crops.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
    split: Split = Field(Split(), description="Cross-validation.")
    plan: Plan | None = Field(None, description="Plan the rest from the training cases.")
    models: dict[Name, Model] = Field(
        {"unet": Model()}, min_length=1, description="Model name → its settings."
    )
    evaluate: Evaluate = Field(Evaluate(), description="Scores.")
    export: Export = Field(Export(), description="Exported files.")
    predict: Predict | None = Field(None, description="New scans; a path alone will do.")

    @model_validator(mode="after")
    def _known_classes(self) -> Settings:
        for name, model in self.models.items():
            if unknown := set(model.sampling.label_weights) - {*self.data.labels, "background"}:
                raise ValueError(
                    f"models.{name}.sampling.label_weights names {', '.join(sorted(unknown))}, "
                    f"which data.labels does not"
                )
        return self


AnySection = TypeVar("AnySection", bound=BaseModel)
FILES = (".yaml", ".yml", ".json")


def dump(section: BaseModel | None, given: bool = False) -> Any:
    """A section as plain JSON values; `given`: only what was set, without the defaults."""
    return None if section is None else section.model_dump(mode="json", exclude_unset=given)


def as_json(section: BaseModel | None, given: bool = False) -> str:
    """A section as one line of JSON: how a rule hands it to its stage."""
    return json.dumps(dump(section, given), sort_keys=True)


def validate(kind: type[AnySection], values: Any, origin: str = "settings") -> AnySection:
    """Build a section from plain values.

    Raises:
        CaseError: one line for every wrong key or value, with its path and the nearest known name.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise CaseError(f"{origin}: {len(lines)} problem(s)\n  " + "\n  ".join(lines)) from None


def parse(kind: type[AnySection], text: str) -> AnySection:
    """Build a section from a YAML or JSON file's name, or from such text itself."""
    return validate(kind, parse_values(text), origin=text if text.endswith(FILES) else "settings")


def parse_values(text: str) -> Any:
    """Plain values from a YAML or JSON file's name, or from such text itself."""
    return yaml.safe_load(Path(text).read_text(encoding="utf-8") if text.endswith(FILES) else text)


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields at `path`, found by walking the JSON schema."""
    schema = kind.model_json_schema()
    here = schema
    for part in path:
        members = [
            here.get("additionalProperties", {}),
            *here.get("patternProperties", {}).values(),
        ]
        here = here.get("properties", {}).get(part) or members[-1]
        for option in here.get("anyOf", []):
            here = option if "$ref" in option else here
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rsplit("/", 1)[-1]]
    return list(here.get("properties", {}))
