"""Settings of an experiment that all systems share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from foldwise.section import Section, Work, affects
from foldwise.settings import Model, Name, Share

# What jobs with a network compute on.
Device = Literal["auto", "gpu", "cpu"]


class Data(Section):
    """The cases; a system adds what is learnt from them."""

    sheet: Path = Field(
        description="Sample sheet (CSV or TSV), one case per row.",
        json_schema_extra=affects("lungs", "cache", "index"),
    )
    folder: Path | None = Field(
        None,
        description="Base folder for relative paths in the sheet; default: the sheet's folder.",
        json_schema_extra=affects("lungs", "cache", "index"),
    )

    @property
    def root(self) -> Path:
        """Base folder for relative paths in the sheet."""
        return self.sheet.parent if self.folder is None else self.folder


class Split(Section):
    """Cross-validation by patient."""

    folds: int = Field(
        5,
        ge=1,
        description="Number of folds; 1 only with `file`.",
        json_schema_extra=affects("index"),
    )
    validation: Share = Field(
        0.2,
        description="Share of a fold's training patients used to choose the best epoch and the "
        "post-processing; held-out cases are never used for this. It contains every class that at least two "
        "training patients have. 0: the last epoch is used.",
        json_schema_extra=affects("index"),
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the assignment of patients to folds.",
        json_schema_extra=affects("index"),
    )
    file: Path | None = Field(
        None,
        description="Your own splits.json, e.g. a copy of another experiment's: a list of folds, "
        "each with `test` and optionally `validation` and `train` case names; without `train`, the rest "
        "trains.",
        json_schema_extra=affects("index"),
    )
    others: Literal["train", "leave out"] | None = Field(
        None,
        description="What happens to cases that a fold of `file` does not name, e.g. new ones. train: they "
        "are added to its training share. leave out: they are not used. null: they are an error.",
        json_schema_extra=affects("index"),
    )

    @model_validator(mode="after")
    def _needs_file(self) -> Split:
        if self.file is None and self.folds == 1:
            raise ValueError("a single fold needs `file`; otherwise set 2 or more")
        if self.file is None and self.others is not None:
            raise ValueError("`others` needs `file`")
        return self


class Predict(Section):
    """New scans for a finished experiment (target `predict`)."""

    source: Path = Field(
        description="A sample sheet, a folder of scans or videos, or one of them.",
        json_schema_extra=affects(),
    )
    parts: int = Field(
        1, ge=1, description="Number of jobs that share the scans.", json_schema_extra=affects()
    )
    images_fps: float | None = Field(
        None,
        gt=0,
        description="Images per second of new videos that are folders of images; default: as in training.",
        json_schema_extra=affects(),
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str | Path) else value


class FurtherTest(NamedTuple):
    """A rule of a system's own that tests each model and fold once more.

    Attributes:
        work: the settings that it depends on.
        passes: how often it predicts each held-out case.
    """

    work: Work
    passes: int


class Experiment(Section):
    """What every experiment has; a system adds its data, preparation, models, scores and exported files."""

    system: str = Field(description="The kind of experiment.", json_schema_extra=affects("index", "report"))
    experiment: Name = Field(
        description="The experiment's name; outputs are written to results/<experiment>.",
        json_schema_extra=affects(),
    )
    results: Path = Field(
        Path("results"), description="Folder of all outputs, e.g. on scratch.", json_schema_extra=affects()
    )
    seed: int = Field(0, ge=0, description="Seed of training.", json_schema_extra=affects("train"))
    data: Data = Field(description="Cases and what is learnt from them.")
    models: Mapping[Name, Model] = Field(description="Model name → its settings.")
    evaluate: Section = Field(description="Scores.")
    export: Section = Field(description="Exported files.")
    split: Split = Field(Split(), description="Cross-validation.")
    predict: Predict | None = Field(None, description="New cases; a path is enough: it is the `source`.")
    device: Device = Field(
        "auto",
        # Where jobs compute, as a profile: a change reruns nothing.
        exclude=True,
        description="What jobs with a network compute on. auto: their GPU, or the CPU where there is none; a "
        "job that has a GPU but cannot use it, e.g. because the driver is too old for PyTorch, stops and "
        "says what to do. gpu: a GPU; a job without one stops. cpu: the CPU; no GPU is used.",
        json_schema_extra=affects(),
    )
    stage_caches: bool = Field(
        False,
        # How jobs read, not what they compute: no stage receives it, so a change reruns nothing.
        exclude=True,
        description="Training reads copies of the caches on the node's own disk ($SLURM_TMPDIR, else "
        "$TMPDIR) if there is room; jobs of a node share them.",
        json_schema_extra=affects(),
    )
    verify: Literal["changed", "always"] = Field(
        "changed",
        exclude=True,
        description="When the content of a source is read again to find out whether it changed. changed: if "
        "its size or times differ from the recorded ones. always: in every call.",
        json_schema_extra=affects(),
    )
    versions: Literal["rerun", "keep"] = Field(
        "rerun",
        exclude=True,
        description="Results made with another minor version of a library that changes numbers, e.g. torch, "
        "are made again (rerun) or kept (keep).",
        json_schema_extra=affects(),
    )
    part: str | None = Field(
        None,
        description="Part of the cases that this call processes; set by the jobs that prepare parts.",
        json_schema_extra=affects(),
    )

    @field_validator("results")
    @classmethod
    def _without_wildcards(cls, path: Path) -> Path:
        if held := set(str(path)) & {"{", "}"}:
            raise ValueError(f"contains {min(held)!r}, which Snakemake would replace; rename it")
        return path

    @property
    def chooses(self) -> bool:
        """Whether validation cases choose anything, e.g. post-processing, so that they are predicted, too."""
        return False

    @property
    def further_tests(self) -> Mapping[str, FurtherTest]:
        """Names of rules that test the models once more; each writes fold<n>/<name>.csv and <name>.json."""
        return {}
