"""Settings that a training would refuse are refused in the user's call, whatever results are stored."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml

from experiments import EXPERIMENT, TINY, add_case
from foldwise.experiment import trial
from foldwise.files import CaseError
from foldwise.front_door import front_door
from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.systems.clips.system import try_medsam
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.settings import Model
from foldwise.training.trial import try_model
from foldwise.volumes.targets import Targets
from surgical_data import data_settings, write_operations

SMALL = {"network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]}, "patch": [32, 32, 32]}
CLASSES = {"targets": Targets({"a": 1, "b": 2}).as_dict(), "channels": 1}
REGIONS = {"targets": Targets({"a": 1, "b": 2}, {"w": ("a", "b"), "b": ("b",)}).as_dict(), "channels": 1}
TASKS: dict[str, Any] = {
    "segmentation": CLASSES,
    "interactive": CLASSES,
    "surgical": {"phases": ["p", "q"], "tools": ["t"]},
    "clips": {"classes": ["a", "b", "c"], "sentences": []},
}


def problems(system: str, given: dict[str, Any], task: Any = None, whole: bool = True) -> str:
    try:
        model = validate(system_of(system).model, given)
        try_model(system_of(system).learner, model, task or TASKS[system], whole)
    except CaseError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimiser": {"name": "AdamX"}}, "optimiser: no 'AdamX' in torch.optim; did you mean Adam"),
        ({"optimiser": {"name": "AdamW", "lr": -1}}, "optimiser AdamW: Invalid learning rate: -1"),
        ({"optimiser": {"name": "AdamW", "lrr": 1}}, "'lrr'; its arguments: params, lr, "),
        # It needs a closure in every step.
        ({"optimiser": {"name": "LBFGS"}}, "optimiser LBFGS: .*closure"),
        ({"scheduler": {"name": "StepLR"}}, "scheduler StepLR: .*step_size"),
        ({"scheduler": {"name": "StepLR", "step_size": "x"}}, "scheduler StepLR: epoch 1 of 300: "),
        ({"scheduler": {"name": "OneCycleLR", "max_lr": 1, "total_steps": 9}}, "epoch 10 of 300: "),
        ({"scheduler": {"name": "ExponentialLR", "gamma": -1}}, "learning rate of epoch 1 is -0.001"),
        ({"training": {"epochs": 3, "warmup": 3}}, "training.warmup: 3 epochs, but the whole training has 3"),
        (
            {
                "scheduler": {"name": "OneCycleLR", "max_lr": 1, "total_steps": 9},
                "training": {"epochs": 2, "steps_per_epoch": 10, "schedule_by": "step", "warmup": 5},
            },
            "scheduler OneCycleLR: step 15 of 20: ",
        ),
        ({"scheduler": {"name": "SequentialLR", "schedulers": 5}}, "scheduler SequentialLR: 'int'"),
        (
            {"scheduler": {"name": "SequentialLR", "schedulers": [{"name": "CosineLR"}], "milestones": []}},
            "no 'CosineLR' in .*did you mean CosineAnnealingLR",
        ),
        ({"network": {"name": "BasicUNet", "fetures": [4]}}, "BasicUNet: .*'fetures'; its .*features"),
        ({"pretrained": {"file": "gone.pt"}}, "gone.pt: no such file"),
    ],
)  # fmt: skip
def test_what_all_systems_share(given: dict[str, Any], message: str) -> None:
    assert re.search(message, problems("segmentation", {**SMALL, **given}))


@pytest.mark.parametrize(
    ("given", "task", "message"),
    [
        ({"loss": {"name": "Nonsense"}}, CLASSES, "loss: no 'Nonsense' in monai.losses or torch.nn"),
        ({"intensity": [{}, {}, {}]}, CLASSES, "intensity has 3 entries for 1 image channel"),
        ({"loss": {"name": "BCELoss"}}, CLASSES, "loss BCELoss: does not accept outputs"),
        ({"loss": {"name": "CrossEntropyLoss", "weight": [1, 2]}}, CLASSES, "all or no classes"),
        ({"loss": {"name": "CrossEntropyLoss"}}, REGIONS, "loss CrossEntropyLoss: does not accept outputs"),
        ({"loss": {"name": "monai:DiceCELoss"}}, REGIONS, "allows only one class per voxel"),
        (
            {"network": {"name": "UNet", "channels": [4, 8], "strides": [2], "out_channels": 7}},
            CLASSES,
            r"network UNet returns \(2, 7, 32, 32, 32\) for a batch of patches, expected \(2, 3",
        ),
        # It returns a second value, which is not a head.
        (
            {"network": {"name": "SegResNetVAE", "input_image_size": [32] * 3, "init_filters": 8}},
            CLASSES,
            r"SegResNetVAE returns \[\(2, 3, 32, 32, 32\), \(\)\]",
        ),
    ],
)
def test_segmentation(given: dict[str, Any], task: Any, message: str) -> None:
    assert re.search(message, problems("segmentation", {**SMALL, **given}, task))


def test_what_is_right_is_taken() -> None:
    deep: dict[str, Any] = {
        "name": "DynUNet",
        "filters": [4, 8, 8],
        "kernel_size": [3] * 3,
        "strides": [1, 2, 2],
    }
    deep |= {"upsample_kernel_size": [2, 2], "deep_supervision": True, "deep_supr_num": 1}
    parts = [{"name": "LinearLR", "total_iters": 5}, {"name": "PolynomialLR"}]
    schedule = {"name": "SequentialLR", "schedulers": parts, "milestones": [5]}
    assert problems("segmentation", {**SMALL, "network": deep, "scheduler": schedule}) == ""
    for name in ("DiceFocalLoss", "BCEWithLogitsLoss"):
        assert problems("segmentation", {**SMALL, "loss": {"name": name}}, REGIONS) == ""
    by_step: dict[str, Any] = {"scheduler": {"name": "OneCycleLR", "max_lr": 1}}
    for training in ({"steps_per_epoch": None}, {"steps_per_epoch": 3}):
        by_step["training"] = {"epochs": 5, "schedule_by": "step", "warmup": 9, **training}
        assert problems("segmentation", {**SMALL, **by_step}) == ""
    plateau = {"scheduler": {"name": "ReduceLROnPlateau"}, "optimiser": {"name": "SGD", "lr": 0.1}}
    assert problems("surgical", {"backbone": {"name": "resnet18"}, **plateau}) == ""


def test_before_a_plan_only_what_is_given_is_tried() -> None:
    """The patch is not known yet; all problems are reported at once."""
    given = {"optimiser": {"name": "AdamW", "lr": -1}, "loss": {"name": "BCELoss"}}
    first, second = problems("segmentation", given, whole=False).splitlines()
    assert first.startswith("loss BCELoss: ")
    assert "learning rate: -1" in second
    odd = {"network": SMALL["network"], "patch": [33, 35, 37]}
    assert problems("segmentation", odd, whole=False) == ""


@pytest.mark.parametrize(
    ("system", "given", "message"),
    [
        ("surgical", {"backbone": {"name": "googlenet"}}, "backbone googlenet cannot take crops of 224×224"),
        ("surgical", {"backbone": {"name": "monai:BasicUNet"}}, "does not end in a linear layer"),
        ("surgical", {"optimiser": {"name": "AdamW", "lr": "fast"}}, "optimiser AdamW: can't multiply"),
        ("clips", {"loss": {"name": "MSELoss"}}, "loss MSELoss: does not accept outputs"),
        ("clips", {"network": {"name": "UNet", "channels": [4, 8], "strides": [2]}}, r"expected \(2, 3\)"),
        ("clips", {"network": {"name": "EVL", "weights": "gone"}}, "gone: not a folder with a model"),
        ("clips", {"class_weights": {"z": 1}}, "class_weights names z"),
        ("interactive", {"trunk": {"weights": __file__}, "size": 32}, "not readable as plain weights"),
        ("interactive", {"intensity": [{}, {}]}, "intensity has 2 entries for 1"),
    ],
)  # fmt: skip
def test_other_systems(system: str, given: dict[str, Any], message: str) -> None:
    assert re.search(message, problems(system, given))


def test_weights_that_fit_too_little(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "18.pt")
    given = {"kind": "tool", "pretrained": {"file": str(tmp_path / "18.pt")}}
    assert problems("surgical", {**given, "backbone": {"name": "resnet18"}}) == ""
    assert "50.0% are required" in problems("surgical", {**given, "backbone": {"name": "mobilenet_v2"}})
    (tmp_path / "18.pt").write_bytes(b"cut off")
    assert "not readable as plain weights" in problems(
        "surgical", {**given, "backbone": {"name": "resnet18"}}
    )


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are tried in this process, which has already imported torch."""
    monkeypatch.setattr(trial, "_counter", cache(lambda: ThreadPoolExecutor(1)))


def refused(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The errors of the user's own call; empty if it accepts the experiment."""
    try:
        front_door(config, True)
    except SystemExit:
        return capsys.readouterr().err
    return ""


@pytest.mark.usefixtures("own_process")
def test_medsams_weights_are_read_again_when_they_change(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, tmp_path / "medsam.pth")
    for _ in range(2):  # failures are not stored
        with pytest.raises(CaseError, match=r"medsam.pth: not MedSAM's weights: .* is missing"):
            trial.try_file(tmp_path / "medsam.pth", try_medsam, tmp_path / "counts.json")
    with pytest.raises(CaseError, match="needs SamModel"):
        trial.try_file(tmp_path, try_medsam, tmp_path / "counts.json")


@pytest.mark.usefixtures("own_process")
def test_nothing_is_believed_after_a_good_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        add_case(tmp_path, number)

    def told(model: dict[str, Any], **sections: Any) -> str:
        return refused({**EXPERIMENT, "models": {"unet": {**TINY, **model}}, **sections}, capsys)

    assert told({}) == ""
    monkeypatch.setattr(trial, "_try_model", lambda *arguments: pytest.fail("tried again"))
    assert told({}) == ""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "_counter", cache(lambda: ThreadPoolExecutor(1)))
    for model, message in (
        ({"loss": {"name": "Nonsense"}}, "models.unet: loss: no 'Nonsense'"),
        ({"intensity": [{}, {}, {}]}, "models.unet: intensity has 3 entries"),
        ({"optimiser": {"name": "AdamX"}}, "models.unet: optimiser: no 'AdamX'"),
        ({"scheduler": {"name": "StepLR"}}, "models.unet: scheduler StepLR"),
        ({"pretrained": {"file": "gone.pt"}}, "models.unet: gone.pt: no such file"),
    ):
        assert message in told(model)
    (tmp_path / "splits.json").write_text('[{"test": ["c0"]}, {"test": ["c9"]}]')
    split = {"file": "splits.json", "folds": 2}
    assert "split.file: splits.json: fold 1 names c9" in told({}, split=split)
    (tmp_path / "splits.json").write_text('[{"test": ["c0", "c1"]}, {"test": ["c2", "c3"]}]')
    assert told({}, split=split) == ""
    (tmp_path / "splits.json").write_text('[{"test": ["c0", "c1"]}, {"test": ["c2"]}]')
    assert "split.file: splits.json: fold 0 does not name c3; " in told({}, split=split)
    assert told({}, split={**split, "others": "leave out"}) == ""
    assert "predict: new: no such file or folder" in told({}, predict={"source": "new"})
    # A changed file of weights is checked again.
    tiny = validate(Model, TINY)
    task = {"targets": Targets({"ball": 5}).as_dict(), "channels": 1}
    torch.save(SegmentationLearner(tiny, task).build_network().state_dict(), tmp_path / "w.pt")
    assert told({"pretrained": {"file": "w.pt"}}) == ""
    torch.save({"other": torch.zeros(3)}, tmp_path / "w.pt")
    assert "models.unet: w.pt: fits 0.0%" in told({"pretrained": {"file": "w.pt"}})


@pytest.mark.usefixtures("own_process")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modells: {}", "plan.yaml .delete it to plan again.: .*modells: unknown key; did you mean `models`"),
        ("- 1", "plan.yaml .*valid dictionary"),
        ("models: {unet: [", "plan.yaml: line 1: not readable as YAML"),
        ("models: {unett: {}}", "plans models.unett, which the experiment lacks, and no models.unet"),
        ("models: {unet: {ptch: [32, 32, 32]}}", "models.unet.ptch: unknown key; did you mean `patch`"),
        (
            "models: {unet: {patch: [0, 32, 32]}}",
            "models.unet.patch.0: .*Correct results/tiny/plan.yaml, or delete",
        ),
        ("models: {unet: {loss: {name: Nonsense}}}", "models.unet: loss: no 'Nonsense'"),
        ("cache: {spacing: [1, 1]}", "cache.spacing"),
    ],
)
def test_an_edited_plan_is_read_by_its_schema(
    text: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        add_case(tmp_path, number)
    plan = tmp_path / "results/tiny/plan.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text(text)
    config = {**EXPERIMENT, "plan": {}, "models": {"unet": {"training": TINY["training"]}}}
    assert re.search(message, refused(config, capsys), re.DOTALL)


@pytest.mark.usefixtures("own_process")
def test_a_temporal_model_is_tried_with_the_backbone_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "experiment": "t",
        "system": "surgical",
        "data": data_settings(write_operations(tmp_path / "data", 3, seconds=6)),
        "cache": {"size": [32, 40]},
        "split": {"folds": 2, "validation": 0},
        "models": {
            "phase": {"kind": "phase", "backbone": {"name": "mobilenet_v3_small"}, "crop": [32, 32]},
            "tecno": {"kind": "temporal", "features": "phase", "optimiser": {"name": "Adam", "lr": -1}},
        },
    }
    text = refused(yaml.safe_load(yaml.safe_dump(config)), capsys)
    assert "models.tecno: optimiser Adam: Invalid learning rate: -1" in text
    assert "models.phase" not in text
