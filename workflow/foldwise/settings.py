"""Settings: reading them, and those of a model and its training that all systems share.

Those of an experiment are in experiment/settings.py. A system adds its own in systems/<name>/settings.py
(for volumes see volumes/settings.py). A setting's type, default, unit and meaning are defined there and
nowhere else.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from foldwise.files import CaseError
from foldwise.section import Section, affects
from foldwise.texts import parse_yaml, read_values

Share = Annotated[float, Field(ge=0, le=1)]
# Names become folders and wildcards of the workflow.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Named(BaseModel):
    """A library class by name; every other key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        description="Name of the class, looked up in the allowed namespaces; with its library as prefix, in "
        "that library only (monai:resnet50, torchvision:resnet50)."
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        # YAML 1.1 reads 1e-4 as text, and no class accepts a number as text.
        if not isinstance(values, dict):
            return values
        plain = {k: float(v) if _is_number(v) else v for k, v in values.items()}
        for key, value in plain.items():
            try:
                json.dumps(value, allow_nan=False, default=str)
            except ValueError:
                raise ValueError(f"{key}: numbers must be finite (got {value})") from None
        return plain

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return dict(self.model_extra or {})

    @property
    def plain(self) -> str:
        """The name without the library."""
        return self.name.rpartition(":")[2]


def as_list(value: Any) -> Any:
    """A list with the value, unless it is a list already."""
    return value if isinstance(value, list) or value is None else [value]


Item = TypeVar("Item")
# A list; with a single item, the brackets may be omitted.
OneOrMore = Annotated[
    list[Item], BeforeValidator(as_list, json_schema_input_type=Item | list[Item]), Field(min_length=1)
]


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value))


class Validation(Section):
    """How the epochs of a training are compared on the validation cases."""

    samples: int = Field(
        32,
        ge=0,
        description="Samples of the validation cases (patches, clips, windows) that are evaluated after "
        "every epoch, for the curve: `val_loss` in log.csv, and for segmentation `patch_dice`. They are "
        "always the same ones, without augmentation. The Dice of patches is not that of whole volumes. 0: "
        "none.",
        json_schema_extra=affects("train"),
    )
    cases: int | None = Field(
        20,
        ge=0,
        description="Maximum number of cases that a validation predicts whole (see `validate_every`): always "
        "the same ones, chosen once by the seed to represent the classes, patients and amounts of all; more "
        "if there are more classes. null: all; 0: none.",
        json_schema_extra=affects("train"),
    )
    best: Literal["cases", "samples", "val_loss"] = Field(
        "cases",
        description="What chooses the best epoch. cases: the score of whole cases. samples: the score of the "
        "samples (segmentation: `patch_dice`, else the loss). val_loss: the lowest loss of the samples.",
        json_schema_extra=affects("train"),
    )
    watch: Literal["best", "val_loss"] = Field(
        "best",
        description="What `patience` and ReduceLROnPlateau watch. best: the score that chooses the best "
        "epoch. val_loss: the loss of the samples.",
        json_schema_extra=affects("train"),
    )

    @model_validator(mode="after")
    def _measured(self) -> Validation:
        if self.best == "cases" and self.cases == 0:
            raise ValueError("best: cases needs cases: set `cases`, or choose by `samples` or `val_loss`")
        if self.samples == 0 and (self.best != "cases" or self.watch == "val_loss"):
            wanted = f"best: {self.best}" if self.best != "cases" else "watch: val_loss"
            raise ValueError(f"{wanted} needs samples: set `samples` to 1 or more")
        return self


class Training(Section):
    """The training loop."""

    epochs: int = Field(
        300, ge=1, description="Maximum number of epochs.", json_schema_extra=affects("train")
    )
    steps_per_epoch: int | None = Field(
        100,
        ge=1,
        description="Optimiser steps per epoch; null: enough to use every training case once.",
        json_schema_extra=affects("train"),
    )
    batch: int = Field(
        2, ge=1, description="Samples per forward pass.", json_schema_extra=affects("train", "memory", "plan")
    )
    gpus: int = Field(
        1,
        ge=1,
        description="GPUs that share the samples of every batch, within one job; without a GPU, as many "
        "processes. A different number restarts training.",
        json_schema_extra=affects("train", "memory"),
    )
    accumulate: int = Field(
        1, ge=1, description="Forward passes per optimiser step.", json_schema_extra=affects("train")
    )
    amp: Literal["auto", "off", "16-mixed", "bf16-mixed"] = Field(
        "auto",
        description="Mixed precision; auto: 16-mixed on a GPU, off on a CPU.",
        json_schema_extra=affects("train", "predict", "memory"),
    )
    clip_gradient: float | None = Field(
        12,
        gt=0,
        description="Gradients are scaled down to this norm; null: never.",
        json_schema_extra=affects("train"),
    )
    validate_every: int = Field(
        5, ge=1, description="Epochs between validations of whole cases.", json_schema_extra=affects("train")
    )
    validation: Validation = Field(
        Validation(), description="What a validation measures, and what that decides."
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many validations without improvement; samples are validated after every "
        "epoch (see `validation.watch`). null: never.",
        json_schema_extra=affects("train"),
    )
    extend: Literal["exact", "follow"] = Field(
        "exact",
        description="When training continues from its last state after `epochs` was raised. exact: only if "
        "the result equals that of a training with that many epochs from the start, which holds without a "
        "scheduler and with StepLR, MultiStepLR, ExponentialLR, ConstantLR and ReduceLROnPlateau; with "
        "PolynomialLR, CosineAnnealingLR, OneCycleLR and others whose length is the number of epochs, "
        "training starts from the beginning. follow: always; the learning rate follows the new schedule from "
        "there on.",
        json_schema_extra=affects("train"),
        # The default changes no training, so it is not a part of any.
        exclude_if=lambda value: value == "exact",
    )
    schedule_by: Literal["epoch", "step"] = Field(
        "epoch",
        description="What the scheduler and `warmup` count. epoch: the learning rate changes after every "
        "epoch. step: after every optimiser step, so a schedule's lengths (T_max, step_size, milestones, …) "
        "are in steps, and those filled in are those of all epochs. ReduceLROnPlateau follows validations in "
        "both cases.",
        json_schema_extra=affects("train"),
        exclude_if=lambda value: value == "epoch",
    )
    warmup: int = Field(
        0,
        ge=0,
        description="Epochs or steps (`schedule_by`) in which the learning rate rises linearly to the "
        "schedule's first one; the schedule begins after them, and its length is what is left of the "
        "training. 0: none.",
        json_schema_extra=affects("train"),
        exclude_if=lambda value: value == 0,
    )
    warmup_from: Share = Field(
        0.01,
        description="Share of that learning rate with which `warmup` starts. At 0 the first step learns "
        "nothing, so it needs `schedule_by: step`.",
        json_schema_extra=affects("train"),
        exclude_if=lambda value: value == 0.01,
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="The model to test. best: that of the best validation. last: that of the last epoch.",
        json_schema_extra=affects("train"),
    )
    save_every: int | None = Field(
        None,
        ge=1,
        description="Also keep the model of every n-th epoch, in state/…/models. Epochs.",
        json_schema_extra=affects(),
    )
    save_last: int | None = Field(
        None,
        ge=1,
        description="Also keep the models of the last n epochs in state/…/models.",
        json_schema_extra=affects(),
    )
    examples: int = Field(
        1,
        ge=0,
        description="Number of augmented training samples to write to state/…/examples for inspection.",
        json_schema_extra=affects(),
    )
    kept: int = Field(
        2,
        ge=0,
        description="How many of a fold's finished trainings with other settings or data are kept in "
        "state/…, the newest first, so that changing these back finds them. The newest unfinished one is "
        "kept as well.",
        json_schema_extra=affects(),
    )

    keep_state: bool | Literal["auto"] = Field(
        "auto",
        description="Whether a finished training keeps its whole state (with AdamW, three times the weights) "
        "in addition to the best weights. Without it, the model stays, but changing `epochs`, `patience` or "
        "`keep` later trains from the beginning. auto: kept if a longer training could continue from it, "
        "because its learning rate does not depend on the number of epochs (see `extend`) or `patience` "
        "ended it. Otherwise true or false.",
        json_schema_extra=affects(),
    )

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        if self.batch % self.gpus:
            raise ValueError(
                f"batch {self.batch} is not a multiple of gpus: {self.gpus}; set a multiple of it"
            )
        if self.schedule_by == "epoch" and self.warmup and self.warmup_from == 0:
            raise ValueError(
                "with `schedule_by: epoch` and `warmup_from: 0`, the first epoch would learn nothing; set "
                "`warmup_from` above 0, or `schedule_by: step`"
            )
        return self


class Pretrained(Section):
    """Weights to start from; nothing in the file is executed."""

    file: Path = Field(
        description="A model.pt of Foldwise, or a file with a state dict.", json_schema_extra=affects("train")
    )
    minimum: Share = Field(
        0.5,
        description="Smallest share of the network's weights that the file must contain; otherwise training "
        "does not start.",
        json_schema_extra=affects("train"),
    )


class Model(Section):
    """Settings that training needs for any model; a system adds the network, the loss and the inputs."""

    optimiser: Named = Field(
        Named.model_validate({"name": "AdamW", "lr": 1e-3}),
        description="A class of torch.optim and its arguments.",
        json_schema_extra=affects("train"),
    )
    scheduler: Named | None = Field(
        Named(name="PolynomialLR"),
        description="A class of torch.optim.lr_scheduler and its arguments, stepped once per epoch, or per "
        "optimiser step (see `training.schedule_by`); the number of epochs or steps is filled in as the "
        "length if the class has one (see `training.extend`). Before it, the rate may rise "
        "(`training.warmup`). "
        "ReduceLROnPlateau watches 1 − the validation score, or `val_loss` (see `training.validation`). "
        "null: a constant rate.",
        json_schema_extra=affects("train"),
    )
    pretrained: Pretrained | None = Field(None, description="Weights to start from.")
    labels: float = Field(
        1,
        gt=0,
        le=1,
        description="Share of each fold's training patients that the model learns from, to measure how much "
        "labelled data it needs: their number is rounded, every class of the training patients is among "
        "them, and the patients of a smaller share are among those of a larger one. Validation and test "
        "cases are the same for every share. `seed` decides which patients.",
        json_schema_extra=affects("train"),
        exclude_if=lambda value: value == 1,
    )
    training: Training = Field(Training(), description="The training loop.")


AnySection = TypeVar("AnySection", bound=BaseModel)
FILES = (".yaml", ".yml", ".json")


def dump(section: BaseModel | None, given: bool = False) -> Any:
    """A section as plain JSON values; `given`: only values that were set, without the defaults."""
    return None if section is None else section.model_dump(mode="json", exclude_unset=given)


def as_json(section: BaseModel | None, given: bool = False) -> str:
    """A section as one line of JSON: the form in which a rule passes it to its stage."""
    return json.dumps(dump(section, given), sort_keys=True)


def validate(kind: type[AnySection], values: Any, origin: str = "settings") -> AnySection:
    """Build a section from plain values.

    Raises:
        CaseError: one line for every wrong key or value, with its path and the nearest known name.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [(_location(problem), problem) for problem in error.errors()]
        # Of a value that may also be a path, what else is wrong says more than that it is no path.
        others = [".".join([*where, ""]) for where, problem in found if problem["type"] != "path_type"]
        lines = [
            _explain(kind, where, problem)
            for where, problem in found
            if problem["type"] != "path_type" or not any(o.startswith(".".join([*where, ""])) for o in others)
        ]
        raise CaseError(f"{origin}: {len(lines)} problem(s)\n  " + "\n  ".join(lines)) from None


def parse(kind: type[AnySection], text: str, origin: str = "settings") -> AnySection:
    """Build a section from the name of a YAML or JSON file, or from YAML or JSON text with this origin.

    Raises:
        CaseError: it is not readable, or its keys or values are wrong.
    """
    return validate(kind, parse_values(text, origin), origin=text if text.endswith(FILES) else origin)


def parse_values(text: str, origin: str = "settings") -> Any:
    """Plain values from the name of a YAML or JSON file, or from YAML or JSON text with this origin.

    Raises:
        CaseError: they are not readable, or a key is given twice.
    """
    return read_values(Path(text)) if text.endswith(FILES) else parse_yaml(text, origin)


def _location(problem: Any) -> list[str]:
    """Keys and numbers that lead to a problem, without pydantic's names of types, such as `list[str]`."""
    return [str(part) for part in problem["loc"] if not re.match(r"[\w-]+\[", str(part))]


def _explain(kind: type[BaseModel], location: list[str], problem: Any) -> str:
    path = ".".join(location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    # For a whole section, the message itself names the keys.
    got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    if problem["type"] == "string_pattern_mismatch":
        allowed = "only letters, digits, `_`, `.` and `-`, the first of them a letter or digit"
        return f"{path}: a name has {allowed}{got}"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')}{got}"


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields at `path`, found by walking the JSON schema."""
    schema = kind.model_json_schema(mode="serialization")  # in which a list is always a list
    here = schema
    for part in path:
        if part.isdigit():
            continue  # `here` describes all items of a list
        members = [
            here.get("additionalProperties", {}),
            *here.get("patternProperties", {}).values(),
        ]
        here = here.get("properties", {}).get(part) or members[-1]
        for option in here.get("anyOf", []):
            here = option if "$ref" in option or "items" in option else here
        here = here.get("items", here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rsplit("/", 1)[-1]]
    return list(here.get("properties", {}))
