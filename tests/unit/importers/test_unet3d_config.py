"""Configurations of 3DUnetCNN: the handling of each key, and remarks on the rest."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from foldwise.files import CaseError
from foldwise.importers import unet3d_config
from foldwise.importers.unet3d_config import convert
from foldwise.settings import validate
from foldwise.systems.segmentation.settings import Settings
from foldwise.volumes.sheet import read_sheet
from foldwise.volumes.volume import Volume, write_volume
from stand_ins import UNET3D_BRATS as BRATS


def settings(values: dict[str, Any]) -> tuple[Settings, str]:
    converted, remarks = convert(values)
    converted["data"]["sheet"] = "s.csv"
    return validate(Settings, {"experiment": "e", **converted}), "\n".join(remarks)


def with_section(name: str, **more: Any) -> dict[str, Any]:
    return {**BRATS, name: {**BRATS[name], **more}}


def test_the_brats_example() -> None:
    experiment, remarks = settings(BRATS)
    assert experiment.data.labels == {"label_2": 2, "label_1": 1, "label_4": 4}
    assert list(experiment.data.targets().values.values()) == [(2, 1, 4), (1, 4), (4,)]
    assert experiment.prepare.crop.to == "nonzero"
    assert experiment.cache.shape == (32, 32, 32)
    assert (experiment.split.folds, experiment.split.seed) == (5, 25)
    model = experiment.models["DynUNet"]
    assert model.network.arguments == {
        key: BRATS["model"][key]
        for key in ("deep_supervision", "strides", "filters", "kernel_size", "upsample_kernel_size")
    }
    assert model.patch == (32, 32, 32)
    assert model.intensity[0].scale == "zscore"
    assert model.augmentation is None
    assert model.scheduler is not None
    assert model.scheduler.arguments == {"patience": 10, "factor": 0.5, "min_lr": 1e-08}
    assert (model.training.epochs, model.training.steps_per_epoch) == (250, None)
    assert (model.training.save_every, model.training.save_last, model.training.keep) == (50, 3, "best")
    assert "left out" not in remarks


def test_keys_that_they_ignore_and_we_do_not_know_are_named() -> None:
    """Shipped examples give folds and seed, in a list with one item; unknown keys do not stop the import."""
    values = with_section("dataset", cache_rate=0.5) | {
        "cross_validation": [{"folds": 3, "seed": 7}],
        "mystery": 1,
    }
    experiment, remarks = settings(values)
    assert (experiment.split.folds, experiment.split.seed) == (3, 7)
    assert "cross_validation.folds: 3DUnetCNN ignores it (its key is n_folds); 3 is used" in remarks
    assert "left out: dataset.cache_rate: 0.5" in remarks
    assert "left out: mystery: 1" in remarks


def test_patches_instead_of_a_resize() -> None:
    experiment, remarks = settings(
        with_section("dataset", resample=False)
        | {
            "inference": {
                "name": "SlidingWindowInferer",
                "overlap": 0.25,
                "sw_batch_size": 4,
                "roi_size": [32] * 3,
            }
        }
    )
    assert experiment.cache.shape is None
    inference = experiment.models["DynUNet"].inference
    assert (inference.overlap, inference.batch, inference.weighting) == (0.25, 4, "constant")
    assert "patches of desired_shape" in remarks


def test_samples_and_augmentations() -> None:
    spatial = [{"name": "RandFlipD", "spatial_axis": 0, "prob": 0.5}, {"name": "RandRotateD", "range_x": 0.2}]
    intensity = [{"name": "RandShiftIntensityD", "offsets": 0.1, "prob": 1.0}, {"name": "RandBiasFieldD"}]
    values = with_section(
        "dataset", training={"spatial_augmentations": spatial, "intensity_augmentations": intensity}
    ) | {"training": {"samples_per_epoch": 100, "batch_size": 4, "amp": True, "early_stopping_patience": 9}}
    experiment, remarks = settings(values)
    model = experiment.models["DynUNet"]
    assert (model.training.steps_per_epoch, model.training.amp, model.training.patience) == (25, "auto", 9)
    assert model.augmentation is not None
    assert model.augmentation.flip
    assert model.augmentation.rotate_deg == pytest.approx(11.46, abs=0.01)
    assert (model.augmentation.brightness, model.augmentation.noise) == (0.1, 0)
    assert "left out: augmentation RandBiasFieldD" in remarks


def test_old_and_broken_configurations_are_refused() -> None:
    with pytest.raises(CaseError, match="no `model` section"):
        convert({"model_name": "AutocastUNet", "window": [176, 224, 144]})
    with pytest.raises(CaseError, match="desired_shape"):
        convert({**BRATS, "dataset": {}})
    with pytest.raises(CaseError, match=r"dataset\.labels: the label value 1\.5 is not an integer"):
        convert({**BRATS, "dataset": {**BRATS["dataset"], "labels": [1, 1.5]}})


def test_sheet_and_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    cases = []
    for number in range(6):
        folder = tmp_path / "data" / f"P{number}"
        for channel in ("flair", "t1"):
            image = random.integers(0, 99, (12, 10, 8)).astype(np.int16)
            write_volume(Volume(image, np.eye(4)), folder / f"P{number}_{channel}.nii.gz")
        write_volume(Volume(np.ones((12, 10, 8), np.uint8), np.eye(4)), folder / f"P{number}_seg.nii.gz")
        images = [f"data/P{number}/P{number}_{channel}.nii.gz" for channel in ("flair", "t1")]
        cases.append({"image": images, "label": f"data/P{number}/P{number}_seg.nii.gz"})
    config = {**BRATS, "training_filenames": cases[:5], "validation_filenames": cases[5:]}
    (tmp_path / "brats.json").write_text(json.dumps(config))
    sheet = tmp_path / "out" / "brats.csv"
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "brats.json"), "--sheet", str(sheet)])
    unet3d_config.main()
    experiment = validate(Settings, yaml.safe_load(sheet.with_suffix(".yaml").read_text(encoding="utf-8")))
    read = read_sheet(experiment.data)
    assert [case.name for case in read.cases] == [f"P{n}" for n in range(6)]
    assert [case.split for case in read.cases] == [""] * 5 + ["test"]
    assert {len(case.images) for case in read.cases} == {2}
    assert all(path.exists() for case in read.cases for path in case.files)
    printed = capsys.readouterr().out
    assert "6 cases of 6 patients: 6 with a label, 1 of them the test set" in printed
    assert "note: folds are split by patient" in printed
    (tmp_path / "data" / "P2" / "P2_t1.nii.gz").unlink()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--force"])
    with pytest.raises(CaseError, match=r"case P2: .*P2_t1\.nii\.gz: no such file"):
        unet3d_config.main()
