"""Import a configuration of 3DUnetCNN (JSON): a sample sheet, an experiment, and notes on what was left out.

  foldwise import unet3d-config brats2020_config.json --sheet data/brats.csv

Paths in the configuration are taken relative to `--root` (default: the configuration's folder).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from foldwise.command import run
from foldwise.files import CaseError, read_json
from foldwise.importers.arguments import Config, ExperimentName, Force, Import, Sheet, SkipBroken, script
from foldwise.importers.sheets import Dataset, Row, clean, conclude, label_value, publish
from foldwise.settings import validate

# Defaults of 3DUnetCNN for values missing from a configuration.
FOLDS, SEED = 5, 25
# Filled in by this workflow from the data.
OURS = {"in_channels", "out_channels", "spatial_dims", "n_outputs", "n_features"}
OUTPUT_ACTIVATIONS = {"sigmoid", "softmax", "to_onehot_y"}


def _bare(found: Any) -> Any:
    bare = found[0] if isinstance(found, list) and len(found) == 1 else found
    return {} if bare is None else bare


def _with_name(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values.get("name"), str) or not values["name"]:
        raise ValueError("expected the name of a class under `name`")
    return values


_Section = Annotated[dict[str, Any], BeforeValidator(_bare)]
# A class by name, with its arguments.
_Class = Annotated[dict[str, Any], AfterValidator(_with_name)]
_Count = Annotated[int, Field(gt=0)]


class _Case(BaseModel):
    """A case in a list of files."""

    image: str | Annotated[list[str], Field(min_length=1)]
    label: str | None = None


class _Config:
    """A configuration from which keys are taken; keys that are never taken are reported."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = dict(values)
        self.path = path
        self.parts: list[_Config] = []

    def take(self, key: str, kind: Any = Any, default: Any = None) -> Any:
        """Take a value of a kind, as pydantic understands it.

        Raises:
            CaseError: it is of another kind.
        """
        value = self.values.pop(key, default)
        try:
            return TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, (f"{self.path}{key}", *problem["loc"])))
            text = problem["msg"].removeprefix("Value error, ")
            raise CaseError(f"{where}: {text} (got {str(problem['input'])[:80]!r})") from None

    def section(self, key: str) -> _Config:
        """Take a section, which shipped examples wrap in a list with one item."""
        part = _Config(self.take(key, _Section), f"{self.path}{key}.")
        self.parts.append(part)
        return part

    def rest(self) -> list[str]:
        own = [f"{self.path}{key}: {json.dumps(value)[:60]}" for key, value in self.values.items()]
        return own + [line for part in self.parts for line in part.rest()]


def convert(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An experiment's settings from a configuration of 3DUnetCNN, without its cases.

    Args:
        values: the configuration; all keys except the lists of cases.

    Returns:
        Settings (without `experiment` and `data.sheet`), and remarks on what differs or was left out.

    Raises:
        CaseError: a configuration in the old format, without a `model` section.
    """
    config, remarks = _Config(values), []
    if not isinstance(values.get("model"), dict):
        raise CaseError(
            "the configuration has no `model` section; configurations of version 1 cannot be imported"
        )
    dataset, training = config.section("dataset"), config.section("training")
    regions = bool(dataset.take("setup_label_hierarchy", bool, False))
    labels = _labels(dataset.take("labels", list[Any], [1]))
    data: dict[str, Any] = {"labels": labels}
    if regions:
        names = list(labels)
        data["regions"] = {f"region_{n + 1}": names[n:] for n in range(len(names))}

    shape = dataset.take("desired_shape", list[_Count] | None)
    if shape is None:
        raise CaseError("dataset.desired_shape is missing; it gives the shape of the network's input")
    whole = bool(dataset.take("resample", bool, False))
    if not whole:
        remarks.append(
            "dataset.resample is false: volumes are not resized; patches of desired_shape are drawn"
        )
    crop = bool(dataset.take("crop_foreground", bool, False))
    if crop and dataset.take("foreground_percentile") is not None:
        remarks.append("dataset.foreground_percentile: instead, volumes are cropped to voxels that are not 0")

    network = {k: v for k, v in config.take("model", _Class).items() if k not in OURS}
    given = config.take("loss", _Class, {"name": "DiceLoss"})
    loss = {key: value for key, value in given.items() if key not in OUTPUT_ACTIVATIONS}
    if regions and loss.pop("include_background", True) is False:
        remarks.append("loss.include_background false would leave out the first region; it is included")
    model: dict[str, Any] = {
        "network": network,
        "loss": loss,
        "optimiser": config.take("optimizer", _Class, {"name": "Adam"}),
        "scheduler": config.take("scheduler", _Class | None),
        "patch": shape,
        "intensity": _intensity(dataset, remarks),
        "augmentation": _augmentation(dataset, remarks),
        "training": _training(training, remarks),
        "inference": {"overlap": 0.0 if whole else 0.5},
    }
    if "inference" in config.values:
        inferer = config.section("inference")
        inferer.take("name")
        model["inference"]["overlap"] = inferer.take("overlap", float, model["inference"]["overlap"])
        model["inference"]["batch"] = inferer.take("sw_batch_size", _Count, 1)
        weighting = inferer.take("mode", default="constant")
        model["inference"]["weighting"] = getattr(weighting, "value", weighting)
    folds = config.section("cross_validation")
    split = {"folds": folds.take("n_folds", int, FOLDS), "seed": folds.take("random_seed", int, SEED)}
    for theirs, wrong in (("n_folds", "folds"), ("random_seed", "seed")):
        if (value := folds.take(wrong, int | None)) is not None:
            remarks.append(
                f"cross_validation.{wrong}: 3DUnetCNN ignores it (its key is {theirs}); {value} is used"
            )
            split["folds" if wrong == "folds" else "seed"] = value
    remarks.append("folds are split by patient and stratified, so they differ from 3DUnetCNN's")
    remarks.append("a share of the training patients chooses the best epoch, not the held-out fold")
    for harmless in ("name", "cache_dir"):
        dataset.take(harmless)
    remarks += [f"left out: {line}" for line in config.rest()]
    return {
        "data": data,
        "prepare": {"crop": {"to": "nonzero", "margin_mm": 1} if crop else {"to": "none"}},
        **({"cache": {"shape": list(shape)}} if whole else {}),
        "split": split,
        "models": {clean(network["name"]): model},
    }, remarks


def _labels(listed: list[Any]) -> dict[str, int]:
    if any(isinstance(value, list) for value in listed):
        raise CaseError(
            f"dataset.labels {listed}: lists of values are not imported; set data.regions by hand"
        )
    try:
        return {f"label_{number}": number for number in map(label_value, listed)}
    except (TypeError, ValueError) as error:
        raise CaseError(f"dataset.labels: {error}") from error


def _intensity(dataset: _Config, remarks: list[str]) -> dict[str, Any]:
    name = dataset.take("normalization", str | None)
    settings = dataset.section("normalization_kwargs")
    if name in (None, "NormalizeIntensityD", "NormalizeIntensityd"):
        if settings.take("channel_wise", bool, True) is False:
            remarks.append("normalization_kwargs.channel_wise false: each channel is normalised by itself")
        nonzero = settings.take("nonzero", bool, False)
        return {"clip": None, "scale": "zscore_nonzero" if nonzero else "zscore"}
    if name in ("ScaleIntensityRangeD", "ScaleIntensityRanged"):
        return {"clip": [settings.take("a_min", float), settings.take("a_max", float)], "scale": "window"}
    remarks.append(f"dataset.normalization {name}: not supported; each case's z-score is used")
    return {"clip": None, "scale": "zscore"}


def _augmentation(dataset: _Config, remarks: list[str]) -> dict[str, Any] | None:
    part = dataset.section("training")
    keys = ("spatial_augmentations", "intensity_augmentations")
    listed = [
        one
        for key in keys
        for section in (dataset, part)
        for one in section.take(key, list[_Class] | None) or []
    ]
    if not listed:
        return None
    changes: dict[str, Any] = {
        **dict.fromkeys(("rotate_deg", "scale", "noise", "gamma", "brightness", "contrast"), 0),
        "flip": False,
    }
    for one in listed:
        try:
            changed = _changed(re.sub("[dD]$", "", one["name"]), one)
        except (TypeError, ValueError) as error:
            raise CaseError(f"augmentation {one['name']}: {error} (in {str(one)[:120]})") from None
        changes |= changed
        if not changed:
            remarks.append(f"left out: augmentation {one['name']}")
    remarks.append(
        "augmentations are replaced by this workflow's of the same kind, with the same maximum amounts"
    )
    return changes


def _changed(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings of the same kind as an augmentation of theirs; empty for those that we do not have."""
    intensity = {"intensity_probability": one.get("prob", 0.1)}
    affine = {"affine_probability": one.get("prob", 0.1)}
    if name == "RandFlip":
        return {"flip": True}
    if name in ("RandRotate", "RandAffine"):
        turns = [one.get(f"range_{axis}", 0) for axis in "xyz"] + list(one.get("rotate_range", []))
        return {"rotate_deg": round(max(abs(_largest(turn)) for turn in turns) * 57.29578, 2), **affine}
    if name == "RandZoom":
        return {"scale": round(float(one.get("max_zoom", 1.1)) - 1, 4), **affine}
    if name == "RandScaleIntensity":
        return {"contrast": _largest(one.get("factors", 0.1)), **intensity}
    if name == "RandShiftIntensity":
        return {"brightness": _largest(one.get("offsets", 0.1)), **intensity}
    if name == "RandGaussianNoise":
        return {"noise": one.get("std", 0.1), **intensity}
    if name == "RandAdjustContrast":
        return {"gamma": 0.3, **intensity}
    return {}


def _largest(value: Any) -> float:
    return max((abs(float(v)) for v in value), default=0) if isinstance(value, list) else abs(float(value))


def _training(training: _Config, remarks: list[str]) -> dict[str, Any]:
    batch = training.take("batch_size", _Count, 1)
    samples = training.take("samples_per_epoch", _Count | None)
    steps = training.take("training_iterations_per_epoch")
    if steps is None and samples is not None:
        steps = max(1, round(samples / batch))
    settings = {
        "epochs": training.take("n_epochs", int, 250),
        "steps_per_epoch": steps,
        "batch": batch,
        "validate_every": 1,
        "patience": training.take("early_stopping_patience"),
        "amp": "auto" if training.take("amp", bool, False) else "off",
        "save_every": training.take("save_every_n_epochs"),
        "save_last": training.take("save_last_n_models"),
    }
    # 3DUnetCNN's predictions used the last weights in spite of this setting.
    settings["keep"] = "best" if training.take("save_best", bool, True) else "last"
    for speed in ("validation_batch_size", "prefetch_factor", "test_input", "n_workers", "pin_memory"):
        training.take(speed)
    return settings


def _rows(values: Mapping[str, Any], root: Path) -> list[Row]:
    rows = []
    for key in (k for k in values if k.endswith("_filenames")):
        listed = values[key]
        if not isinstance(listed, list):
            raise CaseError(f"{key}: expected a list of cases, not {listed!r}; .npy lists are not supported")
        for number, entry in enumerate(listed):
            case = validate(_Case, entry, origin=f"{key}, entry {number}")
            images = case.image if isinstance(case.image, list) else [case.image]
            columns = [""] if len(images) == 1 else [f"{n}" for n in range(len(images))]
            rows.append(
                Row(
                    _case_name(images),
                    {column: root / image for column, image in zip(columns, images, strict=True)},
                    root / case.label if case.label else None,
                    split="test" if case.label and key != "training_filenames" else "",
                )
            )
    return rows


def _case_name(images: list[str]) -> str:
    """The folder of a case's files if the first file is named after it, else the first file's base name."""
    first = Path(images[0])
    base, folder = first.name.split(".")[0], first.parent.name
    return clean(folder if folder and base.startswith(folder) else base)


def command(
    source: Annotated[Path, typer.Argument(help="Configuration of 3DUnetCNN (.json); never changed.")],
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    root: Annotated[
        Path | None, typer.Option(help="Base folder of relative paths (default: the JSON's folder).")
    ] = None,
) -> None:
    """Import a configuration of 3DUnetCNN."""
    to = Import(source, sheet, config, name, force, skip_broken)
    to.refuse_paths()
    values = read_json(source)
    if not isinstance(values, dict):
        raise CaseError(f"{source}: expected a JSON object")
    lists = {key for key in values if key.endswith("_filenames")}
    try:
        settings, remarks = convert({key: value for key, value in values.items() if key not in lists})
        rows = _rows(values, root or source.parent)
        data = settings.pop("data")
        dataset = Dataset(rows, data["labels"], data.get("regions", {}), settings=settings)
        failed = publish(dataset, to)
    except CaseError as error:
        raise CaseError(f"{source}: {error}") from None
    for remark in remarks:
        print(f"note: {remark}")
    conclude(failed, to)


main = script(command)

if __name__ == "__main__":
    run(main)
