"""Settings that systems of volumes share: data, preparation, cache, patches, scores, files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from foldwise.files import CaseError
from foldwise.settings import Experiment, Name, Section, Share, as_list
from foldwise.volumes.targets import LARGEST_LABEL, MOST_CLASSES, Targets

Triple = tuple[float, float, float]
Voxels = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Postprocess = Literal["largest_foreground", "largest_component", "fill_holes"]


def _of_pairs(value: Any) -> Any:
    """A mapping from what `_as_pairs` makes; anything else stays, and is refused as no mapping."""
    if not isinstance(value, list):
        return value
    pairs = [one for one in value if isinstance(one, list) and len(one) == 2 and isinstance(one[0], str)]
    mapping = dict(pairs)
    return mapping if len(mapping) == len(value) else value


def _as_pairs(value: dict[str, Any]) -> list[Any]:
    return [[name, it] for name, it in value.items()]


# A mapping whose order has a meaning. In JSON it is a list of pairs, since keys are sorted on their way to a
# stage or into a hash.
Ordered = (BeforeValidator(_of_pairs), PlainSerializer(_as_pairs, when_used="json"))


class Data(Section):
    """Which cases there are and what their labels mean."""

    sheet: Path = Field(description="Sample sheet (CSV or TSV), one case a row.")
    folder: Path | None = Field(
        None,
        description="Folder from which relative paths of the sheet start; default: the sheet's.",
    )
    labels: Annotated[dict[Name, Annotated[int, Field(ge=1, le=LARGEST_LABEL)]], *Ordered] = Field(
        {"tumour": 1},
        min_length=1,
        max_length=MOST_CLASSES,
        description="Class name → its voxel value in the label files.",
    )

    regions: Annotated[dict[Name, Annotated[list[Name], Field(min_length=1)]], *Ordered] = Field(
        {},
        description="Overlapping regions → their classes, e.g. `{whole: [oedema, core], core: [core]}`: "
        "nested or disjoint, each with an output of its own (sigmoid). Empty: the classes themselves "
        "(soft-max).",
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
        classes: dict[int, str] = {}
        for name, value in labels.items():
            if (other := classes.setdefault(value, name)) != name:
                raise ValueError(f"classes {other} and {name} share the voxel value {value}")
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
        "any channel (MR without its skull), or the whole scan.",
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
        "any voxel can be the very centre, 0: patches stay inside. A volume smaller than the patch is "
        "centred in it.",
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
        "and 99.5, or null.",
    )
    scale: Literal["window", "zscore", "zscore_nonzero"] | tuple[float, float] = Field(
        "window",
        description="The clip window mapped to [-1, 1]; the case's own z-score, over all voxels or over "
        "those that are not 0 (which stay 0); or a given mean and standard deviation.",
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


class Evaluate(Section):
    """Scores."""

    tolerance_mm: float = Field(2, ge=0, description="Tolerance of the surface Dice. mm.")
    empty: Literal["leave_out", "brats"] = Field(
        "leave_out",
        description="Truth and prediction both empty: left out of the means and counted; or, as BraTS has "
        "it, Dice 1 and HD95 0. Only one empty: Dice 0, and HD95 the scan's diagonal; or, as BraTS has it, "
        "373.13 mm.",
    )
    postprocess: Annotated[
        list[Postprocess], BeforeValidator(as_list, json_schema_input_type=Postprocess | list[Postprocess])
    ] = Field(
        [],
        description="Steps tried in this order; each is kept only if it raises the mean Dice (of the fold's "
        "validation cases; for new cases, of the whole cross-validation).",
    )


class Export(Section):
    """Files for the user."""

    probabilities: bool = Field(False, description="Also write <case>_<class>_probability.nii.gz, 0 to 1.")
    dicom_seg: bool = Field(False, description="Also write <case>.dcm, a DICOM-SEG, where the scan is DICOM.")


class VolumeExperiment(Experiment):
    """What every experiment on volumes has."""

    data: Data = Field(description="Cases and labels.")
    prepare: Prepare = Field(Prepare(), description="Masks and crops.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
