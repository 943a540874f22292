"""Forecasts of disk space: weights and optimisers as torch counts them, stages as worked out by hand."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import unread
from foldwise import disk
from foldwise.disk import Space, _training, moments, of_cases, of_model, room
from foldwise.forecast import Row, Step, table
from foldwise.networks.clip import FrozenVision
from foldwise.settings import Named, dump, validate
from foldwise.sheet import Case, Sheet
from foldwise.systems import system_of
from foldwise.systems.clips.features import write_features
from foldwise.systems.clips.settings import Model as ClipsModel
from foldwise.video.decode import VideoInfo
from foldwise.volumes.size import Size
from tiny_clip import save_clip

Usage = namedtuple("Usage", "total used free")
STEP = Step(2**20, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adam", {}),
        ("AdamW", {"amsgrad": True}),
        ("NAdam", {}),
        ("RAdam", {}),
        ("Adamax", {}),
        ("Adadelta", {}),
        ("Adagrad", {}),
        ("ASGD", {}),
        ("Rprop", {}),
        ("SGD", {}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("RMSprop", {}),
        ("RMSprop", {"momentum": 0.9, "centered": True}),
    ],
)
def test_an_optimisers_state_is_counted(name: str, arguments: dict[str, Any]) -> None:
    weight = torch.nn.Parameter(torch.zeros(30, 40))
    optimiser = getattr(torch.optim, name)([weight], lr=0.1, **arguments)
    weight.grad = torch.ones_like(weight)
    optimiser.step()
    kept = sum(t.numel() for t in optimiser.state[weight].values() if torch.is_tensor(t) and t.ndim)
    assert moments(Named.model_validate({"name": f"torch:{name}", "lr": 0.1, **arguments})) == kept / 1200


class Fixed:
    """A footprint of numbers that are easy to add up."""

    def disk_mib(self, size: float, settings: Any) -> dict[str, float]:
        return {"crop": size, "cache": 2 * size}

    def results_mib(self, size: float, settings: Any, name: str) -> dict[str, float]:
        return {"predictions": 10 * size, "scores": 3 * size, "export": size, "features": 100 * size}

    def weights(self, settings: Any, name: str, step: Step) -> tuple[int, int]:
        return step.weights, step.weights // 2


def cases(*splits: str) -> list[Case]:
    return [Case(f"c{n}", f"c{n}", split, n + 2) for n, split in enumerate(splits)]


def test_stages_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five cases of 1 MiB in five folds, one of 2 MiB outside; 2**20 weights are 4 MiB, half are learnt."""
    optimiser = {"name": "SGD", "lr": 0.1, "momentum": 0.9}
    model = {"optimiser": optimiser, "training": {"epochs": 10, "save_every": 4, "save_last": 1}}
    settings = unread(models={"m": model}, split={"folds": 5, "validation": 0.25}).settings
    listed = cases(*[""] * 5, "test")
    monkeypatch.setattr(Case, "trains", property(lambda case: not case.split))
    sizes = {case.name: 2.0 if case.split else 1.0 for case in listed}
    footprint: Any = Fixed()
    assert of_cases(footprint, settings, sizes) == {"crop": Space(7), "cache": Space(14)}
    found = of_model(footprint, settings, "m", listed, sizes, STEP)
    # A model, those of epochs 4 and 8, and of the last one; a checkpoint has weights, best ones and a moment.
    assert found["train"] == Space(5 * 4 * 4, 5 * 3 * 10)
    # A state of weights and a moment stays, if asked for.
    training = settings.models["m"].training.model_copy(update={"keep_state": True})
    kept = settings.models["m"].model_copy(update={"training": training})
    assert _training(kept, (2**20, 2**19), 5) == Space(5 * (4 * 4 + 6), 5 * (3 * 10 - 6))
    assert found["features"] == Space(5 * 500)
    # Nothing is to be chosen, so validation cases are not predicted.
    assert found["test"] == Space(50)
    assert found["ensemble"] == Space(20)
    assert found["score"] == Space(15 + 6)
    assert found["export"] == Space(5 + 2)
    # Four of five cases are left in a fold, a quarter of which are for validation.
    chooses = validate(type(settings), {**dump(settings), "evaluate": {"postprocess": "fill_holes"}})
    found = of_model(footprint, chooses, "m", listed, sizes, STEP)
    assert found["test"] == Space(2 * 50)
    assert found["score"] == Space(2 * 15 + 6)
    lines = table(
        [Row("crop", "c0", 10.2, 7 * 1024, minutes=20), Row("export", "model m", None, 5120, 1024)]
    ).splitlines()
    assert lines[1].split() == ["crop", "10", "1000", "20", "c0", "7.00"]
    assert lines[2].split() == ["export", "model", "m", "5.00", "1.00"]
    assert lines[3].split() == ["total", "12.00", "1.00"]


def test_a_disk_that_is_too_small_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, 3 * 2**30))
    there = [tmp_path / "folder", tmp_path / "file", tmp_path / "missing"]
    there[0].mkdir()
    results = tmp_path / "not" / "yet"
    assert room(results, 3 * 1024, there) == [f"free on the disk of {results}: 3.0 GiB"]
    [_, warning] = room(results, 5 * 1024, there)
    assert warning.startswith(
        f"warning: about 2.0 GiB are missing on the disk of {results}, which has 3.0 GiB free"
    )
    # What is written already needs no more space.
    for path in (there[0] / "a", there[1]):
        with path.open("wb") as file:
            file.truncate(2**30)
    assert len(room(results, 5 * 1024, there)) == 1
    assert len(room(results, 5 * 1024 + 1, there)) == 2


def clips(weights: Path, **more: Any) -> Any:
    clip = {"frames": 4, "every": "segments", "size": 32, "spatial_views": 3, "rand_augment": None}
    evl = {"network": {"name": "EVL", "weights": str(weights), "blocks": 2}, "clip": clip, "features": {}}
    data = {"sheet": "clips.csv", "classes": ["low", "high"]}
    return unread(system="clips", data=data, models={"evl": evl, "same": evl}, **more).settings


def test_evls_decoder_and_features(tmp_path: Path) -> None:
    """The numbers of the network itself, and the arrays of a file of features."""
    settings = clips(save_clip(tmp_path / "clip"))
    system = system_of("clips")
    stored, learnt = system.footprint.weights(settings, "evl", STEP)
    task = {"classes": ["low", "high"], "sentences": []}
    network = system.learner(settings.models["evl"], task).network()
    assert stored == learnt == pytest.approx(sum(p.numel() for p in network.parameters()), rel=0.02)
    zero = ClipsModel.model_validate({"network": {"name": "ZeroShotCLIP", "weights": "x"}})
    settings_ = settings.model_copy(update={"models": {"zero": zero}})
    assert system.footprint.weights(settings_, "zero", STEP) == (0, 0)


def test_features_of_clips_are_forecast(tmp_path: Path) -> None:
    """Frames of noise, whose tokens hardly compress: all views, once for two models with equal networks."""
    from foldwise.video.decode import Frame
    from foldwise.video.store import write_frames

    settings = clips(save_clip(tmp_path / "clip", width=64))
    random = np.random.default_rng(0)
    frames = [Frame(n, n / 10, random.integers(0, 256, (40, 48, 3), np.uint8)) for n in range(12)]
    names = {"label": np.frombuffer(b"low", np.uint8), "group": np.frombuffer(b"c", np.uint8)}
    write_frames(tmp_path / "c.h5", "c", iter(frames), attrs={"damaged": 0}, arrays=names)
    vision = FrozenVision(tmp_path / "clip", 2)
    write_features(tmp_path / "c.h5", settings.models["evl"], vision, tmp_path / "f.h5")
    size = VideoInfo(12, 10, 40, 48, 1.2)
    forecast: Mapping[str, float] = system_of("clips").footprint.disk_mib(size, settings)
    assert forecast["encode"] == pytest.approx((tmp_path / "f.h5").stat().st_size / 2**20, rel=0.3)


def test_a_temporal_models_backbone_is_stored_but_does_not_learn() -> None:
    backbone = {"kind": "phase", "backbone": {"name": "resnet18"}}
    models = {"b": backbone, "t": {"kind": "temporal", "features": "b"}, "f": {**backbone, "backbone_lr": 0}}
    data = {"sheet": "s.csv", "phases": ["a", "b", "c"], "tools": []}
    settings = unread(system="surgical", data=data, models=models).settings
    system = system_of("surgical")
    taken = {"t": system.tried(settings, "t")}
    for name in models:
        learner = system.learner(
            taken.get(name, settings.models[name]), {"phases": ["a", "b", "c"], "tools": []}
        )
        with torch.device("meta"):
            network = learner.build_network()
        groups = learner.parameters(network)
        learnt = sum(p.numel() for group in groups for p in group["params"])
        step = Step(sum(p.numel() for p in network.parameters()), 0, 0, 0)
        stored, forecast = system.footprint.weights(settings, name, step)
        assert stored == step.weights
        assert forecast == pytest.approx(learnt, rel=0.05)


@pytest.mark.parametrize("changed", [{}, {"regions": {"method": "fan"}}])
def test_every_stage_of_preparation_is_forecast(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Those that an experiment has, and no others."""
    settings = clips(save_clip(tmp_path / "clip"), prepare=changed)
    system = system_of("clips")
    stages = system.preparation(settings, Sheet((), ())).stages
    assert list(system.footprint.disk_mib(system.footprint.typical, settings)) == list(stages)


def test_what_a_volumes_space_depends_on() -> None:
    """Bytes of a voxel, channels, kept crops, probabilities: each with the effect that it must have."""
    footprint = system_of("segmentation").footprint
    plain = unread().settings
    kept = unread(keep_crops=True).settings
    maps = unread(
        export={"probabilities": True}, data={"sheet": "s.csv", "labels": {"a": 1, "b": 2}}
    ).settings
    size = Size((500, 500, 400), (0.8, 0.8, 1.0), 1, True)
    space = footprint.disk_mib(size, plain)
    assert list(space) == ["crop", "cache"]
    # A CT of 10^8 voxels takes a little over a byte a voxel, and its crop next to nothing.
    assert 90 < space["cache"] < 130
    assert space["crop"] < 1
    assert space["cache"] < footprint.disk_mib(size, kept)["crop"] < 1.3 * space["cache"]
    floats = footprint.disk_mib(replace(size, voxel_bytes=4, channels=4), plain)
    assert floats["cache"] / space["cache"] == pytest.approx(4 * 3.2 / 1.05, rel=0.02)
    few, many = (footprint.results_mib(size, settings, "unet") for settings in (plain, maps))
    assert many["predictions"] / few["predictions"] == pytest.approx(2, rel=0.1)
    assert many["export"] > 10 * few["export"]
    coarse = unread(cache={"spacing": [1.6, 1.6, 2.0]}).settings
    assert footprint.disk_mib(size, coarse)["cache"] / space["cache"] == pytest.approx(1 / 8, rel=0.03)
