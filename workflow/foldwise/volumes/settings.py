"""Settings shared by volume systems: data, preparation, cache, patches, scores, files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    field_validator,
    model_validator,
)

from foldwise.experiment import settings
from foldwise.experiment.settings import Experiment
from foldwise.files import CaseError
from foldwise.section import Section, affects
from foldwise.settings import Name, Share, as_list
from foldwise.volumes.targets import IGNORE, LARGEST_LABEL, MOST_CLASSES, Targets

Triple = tuple[float, float, float]
Voxels = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
# Columns of the sheet that have a meaning.
MEANT = ("case", "group", "split", "image", "label", "weight")
# Default labels.
TUMOUR = {"tumour": 1}
# A step of post-processing: its name, or for the one with a number a mapping from its name to a volume in mL.
Millilitres = Annotated[float, Field(gt=0)]
Step = Annotated[
    Annotated[Literal["largest_foreground", "largest_component", "fill_holes"], Tag("name")]
    | Annotated[dict[Literal["remove_below_ml"], Millilitres], Field(min_length=1), Tag("number")],
    Discriminator(lambda value: "number" if isinstance(value, dict) else "name"),
]
Steps = Annotated[list[Step], BeforeValidator(as_list, json_schema_input_type=Step | list[Step])]


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


class Data(settings.Data):
    """The cases and the meaning of their labels."""

    region_column: str | None = Field(
        None,
        description="Column of the sheet with a mask of each case; filled in from prepare.region.column.",
        json_schema_extra=affects(),
    )

    labels: Annotated[dict[Name, Annotated[int, Field(ge=1, le=LARGEST_LABEL)]], *Ordered] = Field(
        TUMOUR,
        min_length=1,
        max_length=MOST_CLASSES,
        description="Class name → its voxel value in the label files. The name `ignore` is not a class: "
        "voxels with its value are excluded from losses, samplers, choices and scores. Segments in a file of "
        "3D Slicer (.seg.nrrd) are found by their names, or else by their values.",
        json_schema_extra=affects("crop", "cache", "index", "plan", "memory"),
    )

    regions: Annotated[dict[Name, Annotated[list[Name], Field(min_length=1)]], *Ordered] = Field(
        {},
        description="Overlapping regions → their classes, e.g. `{whole: [oedema, core], core: [core]}`: "
        "nested or disjoint, each with its own output (sigmoid). Empty: the classes themselves (softmax).",
        json_schema_extra=affects("index", "plan", "memory"),
    )

    @model_validator(mode="after")
    def _regions(self) -> Data:
        self.targets()
        return self

    def targets(self) -> Targets:
        """What is learnt, predicted and scored."""
        try:
            return Targets.of(self.labels, self.regions)
        except CaseError as error:
            raise ValueError(str(error)) from None

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        classes: dict[int, str] = {}
        if set(labels) == {IGNORE}:
            raise ValueError(f"no class besides `{IGNORE}`")
        for name, value in labels.items():
            if name.lower() == IGNORE != name:
                raise ValueError(f"class {name}: for voxels that count nowhere, write `{IGNORE}`")
            if (other := classes.setdefault(value, name)) != name:
                raise ValueError(f"classes {other} and {name} share the voxel value {value}")
        return labels


class LungMask(Section):
    """Lungs found in a CT in HU, without a network."""

    air_hu: float = Field(
        -320, description="Voxels below this are air or lung. HU.", json_schema_extra=affects("lungs")
    )
    closing_mm: float = Field(
        10,
        ge=0,
        description="Radius of the morphological closing that includes vessels and pleural tumours. mm.",
        json_schema_extra=affects("lungs"),
    )
    max_missed: Share = Field(
        0.05,
        description="A case fails if more than this share of its labelled voxels lies outside the region.",
        json_schema_extra=affects("lungs"),
    )
    implausible: Literal["error", "warn"] = Field(
        "error",
        description="What happens to a case whose mask is probably not a pair of lungs, judged by the "
        "trachea, the bones and the share of the body (an abdomen, a scan that is upside down). error: the "
        "case fails. warn: it is used, with a warning. Lungs cut off by the scan, or possibly filled with "
        "fluid, are only warned about.",
        json_schema_extra=affects("lungs"),
    )


class Region(Section):
    """A mask of the anatomy from files, for any organ and kind of image."""

    column: str = Field(
        description="Column of the sheet with a mask of each case on the grid of its image, e.g. `lung`.",
        json_schema_extra=affects("crop", "check"),
    )
    values: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="Values of a label map that make up the region, e.g. [10, 11, 12, 13, 14] for the lobes "
        "of TotalSegmentator; null: all values except 0.",
        json_schema_extra=affects("crop"),
    )
    max_missed: Share = Field(
        0.05,
        description="A case fails if more than this share of its labelled voxels lies outside the region.",
        json_schema_extra=affects("crop"),
    )

    @field_validator("column")
    @classmethod
    def _own(cls, column: str) -> str:
        if column in MEANT or column.startswith("image"):
            raise ValueError(
                f"the column `{column}` has another meaning; give the masks a column of their own"
            )
        return column


class Crop(Section):
    """The box kept from every scan, and the treatment of voxels outside the anatomy."""

    to: Literal["region", "lungs", "nonzero", "none"] = Field(
        "region",
        description="What the box encloses. region: the thoracic region of `lung_mask`, or the mask of "
        "`region`. lungs: only the lungs. nonzero: voxels that are not 0 in any channel (skull-stripped MR). "
        "none: the whole scan.",
        json_schema_extra=affects("crop"),
    )
    margin_mm: float = Field(
        10, ge=0, description="Margin of the box on every side. mm.", json_schema_extra=affects("crop")
    )
    outside: Literal["keep", "zero", "mean", "air"] = Field(
        "keep",
        description="Voxels outside `to` are kept (keep), or set to 0 (zero), to the mean of the voxels "
        "outside (mean), or to -1000 HU (air, CT only).",
        json_schema_extra=affects("crop"),
    )


class Prepare(Section):
    """From source files to cropped volumes."""

    lung_mask: LungMask | None = Field(None, description="Find the lungs first (CT in HU only).")
    region: Region | None = Field(None, description="Read a mask from a file instead.")
    crop: Crop = Field(Crop(to="none"), description="The crop. If this section is left out: `to: none`.")

    @model_validator(mode="after")
    def _mask_for_crop(self) -> Prepare:
        to = self.crop.to
        if self.lung_mask is not None and self.region is not None:
            raise ValueError("set lung_mask, which finds the lungs, or region, which reads a mask; not both")
        if to == "lungs" and self.lung_mask is None:
            raise ValueError("crop.to: lungs needs lung_mask, e.g. `lung_mask: {}`")
        if to == "region" and self.lung_mask is None and self.region is None:
            raise ValueError(
                "crop.to: region needs lung_mask, e.g. `lung_mask: {}`, or a mask from a file, e.g. "
                "`region: {column: lung}`"
            )
        return self


class Cache(Section):
    """The HDF5 file of a case."""

    spacing: Triple | None = Field(
        None,
        description="Resample to this voxel size (x, y, z; RAS axes); null: keep each scan's own. mm.",
        json_schema_extra=affects("cache", "plan", "memory"),
    )
    shape: Voxels | None = Field(
        None,
        description="Resize every case to this shape instead, so that a patch is a whole volume. Voxels.",
        json_schema_extra=affects("cache", "plan", "memory"),
    )
    chunk: Voxels = Field(
        (32, 32, 32), description="Chunk of the stored arrays. Voxels.", json_schema_extra=affects("cache")
    )
    max_foreground: int = Field(
        20000,
        ge=1,
        description="Maximum number of foreground coordinates kept per class (drawn evenly if more).",
        json_schema_extra=affects("cache"),
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
    """Centres of training patches: a mixture of samplers, given as fractions."""

    label: Share = Field(
        0.8, description="Fraction centred on a voxel of a drawn class.", json_schema_extra=affects("train")
    )
    uniform: Share = Field(
        0.2,
        description="Fraction centred anywhere, except on voxels to ignore.",
        json_schema_extra=affects("train"),
    )
    weighted: Share = Field(
        0.0,
        description="Fraction centred in proportion to the weight map (sheet column `weight`, "
        "else the region).",
        json_schema_extra=affects("train", "check"),
    )
    centre: Share = Field(
        0.0,
        description="Fraction centred on a lesion (connected component) of a drawn class, each with the same "
        "probability, so that small ones get as many patches as large ones.",
        json_schema_extra=affects("train"),
    )
    label_weights: dict[Name, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Relative weight of a class in the samplers `label` and `centre`; default: equal.",
        json_schema_extra=affects("train"),
    )
    overhang: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.5,
        description="Maximum share of a patch, per side, beyond the border of a larger volume; 0.5: "
        "any voxel can be the centre; 0: patches stay inside. A volume smaller than the patch is "
        "centred in it.",
        json_schema_extra=affects("train"),
    )

    @model_validator(mode="after")
    def _sum(self) -> Sampling:
        if abs(self.label + self.uniform + self.weighted + self.centre - 1) > 1e-6:
            raise ValueError("label + uniform + weighted + centre must be 1")
        return self


class Augmentation(Section):
    """Random changes of training patches, drawn per sample on the training device."""

    flip: bool = Field(
        True,
        description="Mirror along each axis, each with probability 0.5.",
        json_schema_extra=affects("train"),
    )
    rotate_deg: float = Field(
        15,
        ge=0,
        le=180,
        description="Largest rotation about each axis. °.",
        json_schema_extra=affects("train"),
    )
    scale: Share = Field(
        0.15, description="Largest relative zoom, in or out.", json_schema_extra=affects("train")
    )
    affine_probability: Share = Field(
        0.3, description="Share of samples rotated and zoomed.", json_schema_extra=affects("train")
    )
    noise: float = Field(
        0.1,
        ge=0,
        description="Largest standard deviation of noise, in normalised units.",
        json_schema_extra=affects("train"),
    )
    gamma: Share = Field(
        0.3,
        description="Largest relative change of the exponent of the gamma curve.",
        json_schema_extra=affects("train"),
    )
    brightness: float = Field(
        0.1, ge=0, description="Largest shift, in normalised units.", json_schema_extra=affects("train")
    )
    contrast: Share = Field(
        0.15, description="Largest relative change of contrast.", json_schema_extra=affects("train")
    )
    intensity_probability: Share = Field(
        0.3, description="Share of samples, per intensity change.", json_schema_extra=affects("train")
    )


class Intensity(Section):
    """Conversion of grey values to network inputs."""

    clip: tuple[float, float] | Literal["percentiles"] | None = Field(
        (-1000, 600),
        description="Values outside are clipped: two numbers (HU for CT); `percentiles`: the case's 0.5th "
        "and 99.5th; or null: no clipping.",
        json_schema_extra=affects("train", "predict", "plan"),
    )
    scale: Literal["window", "zscore", "zscore_nonzero"] | tuple[float, float] = Field(
        "window",
        description="window: the clip window is mapped to [-1, 1]. zscore: the case's z-score over all "
        "voxels. zscore_nonzero: over voxels that are not 0 (0 stays 0). Two numbers: a mean and a standard "
        "deviation.",
        json_schema_extra=affects("train", "predict", "plan"),
    )

    @model_validator(mode="after")
    def _sensible(self) -> Intensity:
        if isinstance(self.clip, tuple) and self.clip[0] >= self.clip[1]:
            raise ValueError("the window's lower end must be below its upper end")
        if self.scale == "window" and not isinstance(self.clip, tuple):
            raise ValueError("scale: window needs a clip of two numbers; or use `scale: zscore`")
        if isinstance(self.scale, tuple) and self.scale[1] <= 0:
            raise ValueError("a standard deviation must be positive")
        return self


class Evaluate(Section):
    """Scores."""

    tolerance_mm: float = Field(
        2, ge=0, description="Tolerance of the surface Dice. mm.", json_schema_extra=affects("score")
    )
    empty: Literal["leave_out", "brats"] = Field(
        "leave_out",
        description="leave_out: if truth and prediction are both empty, the case is left out of the means "
        "and counted; if only one is empty, Dice is 0 and HD95 the scan's diagonal. brats: the convention of "
        "BraTS, Dice 1 and HD95 0 if both are empty, Dice 0 and HD95 373.13 mm if one is.",
        json_schema_extra=affects("score"),
    )
    postprocess: Steps = Field(
        [],
        description="Post-processing steps, tried in this order; each is kept only if it raises the mean "
        "Dice (of the fold's validation cases; for new cases, of the whole cross-validation). "
        "largest_foreground: keep the largest component of all classes together. largest_component: of each "
        "class or region. fill_holes: fill enclosed holes. `{remove_below_ml: 0.5}`: remove components "
        "smaller than 0.5 ml of each class or region.",
        json_schema_extra=affects("choose", "score"),
    )


class Export(Section):
    """Files for the user."""

    probabilities: bool = Field(
        False,
        description="Also write <case>_<class>_probability.nii.gz, 0 to 1.",
        json_schema_extra=affects("export"),
    )
    dicom_seg: bool = Field(
        False,
        description="Also write <case>.dcm, a DICOM Segmentation, if the scan is DICOM.",
        json_schema_extra=affects("export"),
    )
    measurements: bool = Field(
        False,
        description="Also write measurements.csv: volume, grey values, lesions, longest axial diameter and "
        "centroid of each case's classes; the images are read again.",
        json_schema_extra=affects("export"),
    )


class VolumeExperiment(Experiment):
    """The common part of all experiments on volumes."""

    data: Data = Field(description="Cases and labels.")
    prepare: Prepare = Field(Prepare(), description="Masks and crops.")
    cache: Cache = Field(Cache(), description="The HDF5 cache.")
    keep_crops: bool = Field(
        False,
        # What lies beside, not what it holds: a change reruns nothing.
        exclude=True,
        description="Crops also contain their images, for inspection or because the sources are slow to "
        "read; they take as much space as the sources. Otherwise the cache reads its box from the sources "
        "again. Applies to cases cropped from now on.",
        json_schema_extra=affects(),
    )

    @model_validator(mode="before")
    @classmethod
    def _column_of_region(cls, values: Any) -> Any:
        """Let whoever reads the sheet know the column of the masks."""
        try:
            column = values["prepare"]["region"]["column"]
            return {**values, "data": {"region_column": column, **values["data"]}}
        except (KeyError, TypeError):  # none, or of a wrong type: found by the fields
            return values

    @model_validator(mode="after")
    def _outside_of_something(self) -> VolumeExperiment:
        crop = self.prepare.crop
        if crop.to == "none" and crop.outside != "keep":  # models of earlier versions may have this
            raise ValueError(f"prepare.crop.outside: {crop.outside} needs crop.to: outside of what?")
        return self

    @model_validator(mode="after")
    def _one_column(self) -> VolumeExperiment:
        region = self.prepare.region
        if self.data.region_column != (region and region.column):
            raise ValueError("set prepare.region.column; data.region_column is filled in from it")
        return self
