"""Temporal heads and frozen encoders through the learner: they learn, resume, and online ones are causal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from foldwise.evaluate import read_trained
from foldwise.experiment.open import Opened, open_experiment
from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.hdf5 import content_of
from foldwise.index import Fold, Index
from foldwise.portable.onnx import export_onnx
from foldwise.settings import dump, validate
from foldwise.systems import system_of
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.predictions import read_prediction
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.settings import Model, Settings
from foldwise.systems.surgical.system import Surgical
from foldwise.testing import check_learner
from foldwise.training.trial import try_model
from foldwise.video.decode import Frame
from foldwise.video.store import write_frames
from surgical_data import PHASES, settings_of, write_operations
from tiny_encoders import save

HEADS: dict[str, dict[str, Any]] = {
    "TeCNO": {"layers": 3, "channels": 8, "dropout": 0.0},
    "GRU": {"hidden": 8, "layers": 1, "dropout": 0.0},
    "DiagonalSSM": {"channels": 8, "states": 4, "layers": 2, "dropout": 0.0},
    "TransSVNet": {"window": 5, "heads": 2, "depth": 8, "layers": 3, "channels": 8, "dropout": 0.0},
}
TASK = {"phases": list(PHASES), "tools": ["Grasper", "Hook"], "annotation_fps": 5}
COUNT, NOW = 24, 12
each_head = pytest.mark.parametrize("head", HEADS)


def temporal(encoder: dict[str, Any], head: str = "GRU", **more: Any) -> dict[str, Any]:
    return {
        "kind": "temporal",
        "encoder": encoder,
        "head": {"name": head, **HEADS[head]},
        "crop": [32, 32],
        "optimiser": {"name": "Adam", "lr": 0.02},
        "training": {"epochs": 2, "validation": {"samples": 2}},
        **more,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Operations, and weights of an encoder of frames and of one of clips."""
    folder = tmp_path_factory.mktemp("temporal")
    write_operations(folder, 4, seconds=COUNT)
    save("DINOv3ViTModel", folder / "dino")
    save("VJEPA2Model", folder / "vjepa")
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path) -> dict[str, Any]:
    return {"name": "transformers:DINOv3ViTModel", "weights": str(folder / "dino")}


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, Any]:
    return {"name": "transformers:VJEPA2Model", "weights": str(folder / "vjepa"), "frames": 4}


@pytest.fixture(scope="module")
def opened(folder: Path, frames: dict[str, Any], clips: dict[str, Any]) -> Opened[Any, Any]:
    """An experiment whose caches and features are there."""
    values = settings_of(folder / "operations.csv")
    values["models"] = {
        **{head.lower(): temporal(frames, head) for head in HEADS},
        "offline": temporal(frames, mode="offline"),
        "clips": temporal(clips, every=2),
        "clips_offline": temporal(clips, every=2, mode="offline"),
    }
    found = open_experiment({**values, "results": str(folder / "results")}, main=False)
    data, cache = found.settings.data, found.settings.cache
    for name, case in found.cases.items():
        path = Path(found.preparation.cached.format(case=name))
        path.parent.mkdir(parents=True, exist_ok=True)
        cache_video(name, case.video, case.phases, case.tools, data, cache, path)
        encode = found.preparation.stages["encode"].asked
        assert encode is not None
        for asked in encode(name):
            model = validate(Model, json.loads(asked.values["settings"]))
            Path(asked.outputs[0]).parent.mkdir(exist_ok=True)
            Surgical().encode(Path(asked.inputs[0]), model, Path(asked.outputs[0]))
    return found


@pytest.fixture(scope="module")
def predict(opened: Opened[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., np.ndarray]:
    """Predict the phases of a file with a model of random weights."""

    def predict(name: str, path: Path | str) -> np.ndarray:
        model = SurgicalLearner.fitted(opened.settings.models[name], [str(path)])
        learner = SurgicalLearner(model, TASK)
        torch.manual_seed(0)
        network = learner.network().eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        found = tmp_path_factory.mktemp("found") / "p.h5"
        learner.predict([network], str(path), found)
        prediction = read_prediction(found)
        assert prediction.mode == model.mode
        return prediction.phase

    return predict


def test_a_part_gets_the_encoder_of_its_folder_alone(opened: Opened[Any, Any]) -> None:
    caches, *folders = opened.parts.folders
    # The heads of both modes share features; those of clips follow the mode.
    assert len(folders) == 3
    assert "models" not in json.loads(opened.depends.part(caches))
    for folder in (caches, *folders):
        settings = {**json.loads(opened.depends.part_settings(folder)), "part": "training_0of1"}
        part = open_experiment(settings, main=False)
        assert part.parts.folders == list(dict.fromkeys([caches, folder]))
        assert opened.parts.stages(folder) == ["frames" if folder == caches else "encode"]


def features(opened: Opened[Any, Any], name: str, case: str = "op0") -> Path:
    return Path(opened.preparation.inputs(name).format(case=case))


@each_head
def test_a_training_is_resumed_bit_equal(opened: Opened[Any, Any], head: str, tmp_path: Path) -> None:
    prepared, caches = Path(opened.preparation.cached).parent, Path(opened.preparation.caches)
    task, entries = opened.system.entries(opened.settings.data, prepared, caches)
    index = Index(task, tuple(entries), (Fold(("op0", "op1"), ("op2",), ("op3",)),))
    check_learner(opened.system, opened, head.lower(), index, tmp_path)


@each_head
def test_the_loss_falls(opened: Opened[Any, Any], head: str) -> None:
    name = head.lower()
    banks = [str(features(opened, name, f"op{number}")) for number in range(4)]
    learner = SurgicalLearner(SurgicalLearner.fitted(opened.settings.models[name], banks), TASK)
    torch.manual_seed(0)
    network = learner.network().train()
    optimiser = torch.optim.Adam([p for group in learner.parameters(network) for p in group["params"]], 0.02)
    items, losses = learner.items(banks, (0,)), []
    for number in range(80):
        batch = {key: value[None] for key, value in items[number].items()}
        loss = learner.loss(network, batch, torch.Generator())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


@pytest.mark.parametrize("name", [*map(str.lower, HEADS), "offline"])
def test_a_changed_future(
    opened: Opened[Any, Any], predict: Callable[..., np.ndarray], name: str, tmp_path: Path
) -> None:
    """Online, past probabilities are identical to the last bit; offline they change."""
    path = tmp_path / "op0.h5"
    path.write_bytes(features(opened, name).read_bytes())
    before = predict(name, path)
    with h5py.File(path, "r+") as file:
        file["features"][NOW:] += 3 * np.random.default_rng(0).normal(size=file["features"][NOW:].shape)
    after = predict(name, path)
    assert np.array_equal(before[:NOW], after[:NOW]) == (name != "offline")
    assert np.abs(before[NOW:] - after[NOW:]).max() > 1e-3


@pytest.mark.parametrize("name", ["clips", "clips_offline"])
def test_a_changed_future_of_clips(
    opened: Opened[Any, Any], predict: Callable[..., np.ndarray], name: str, tmp_path: Path
) -> None:
    """From the frames on: no clip of an online model reaches beyond its frame, or across a gap."""
    random = np.random.default_rng(0)
    shown = random.integers(0, 256, (COUNT, 32, 40, 3), np.uint8)
    found = []
    for future in (0, 1):
        shown[NOW:] //= 1 + future
        run = (np.arange(COUNT) >= 20).astype(np.int32)
        count = np.arange(COUNT)
        arrays: dict[str, np.ndarray] = {"run": run, "row": count, "phase": np.zeros(COUNT, np.int8)}
        arrays["tool"] = np.zeros((COUNT, 2), np.int8)
        path = tmp_path / f"{future}.h5"
        stream = (Frame(n, float(n), frame) for n, frame in enumerate(shown))
        attrs = {"fps": 1.0, "step": 1.0, "damaged": 0, "dropped": 0, "rates": [5.0], "phases": list(PHASES)}
        write_frames(path, "v", stream, attrs=attrs, arrays=arrays)
        model = opened.settings.models[name]
        Surgical().encode(path, model, tmp_path / f"features{future}.h5")
        with h5py.File(tmp_path / f"features{future}.h5") as file:
            assert (file.attrs["mode"], int(file.attrs["every"])) == (model.mode, 2)
            bank = file["features"][()]
        found.append((bank, predict(name, path)))
        np.testing.assert_allclose(predict(name, tmp_path / f"features{future}.h5"), found[-1][1], atol=1e-6)
    same = [np.abs(one - other).max(1) < 1e-6 for one, other in zip(*found, strict=True)]
    if name == "clips":
        assert same[0][:NOW].all()
        assert same[1][:NOW].all()
    else:
        # Four frames in steps of two: the last one is two frames later.
        assert same[0].tolist() == [True] * (NOW - 2) + [False] * (COUNT - NOW + 2)
        assert not same[1][:NOW].any()
    assert not same[0][NOW:].any()


def test_models_share_features_and_predict_without_them(
    opened: Opened[Any, Any], predict: Callable[..., np.ndarray]
) -> None:
    """Of single frames, both modes and all heads have the same; of clips, each mode has its own."""
    assert len({features(opened, name) for name in (*map(str.lower, HEADS), "offline")}) == 1
    assert features(opened, "clips") != features(opened, "clips_offline")
    for name in ("gru", "offline", "clips", "clips_offline"):
        direct = predict(name, opened.preparation.cached.format(case="op0"))
        np.testing.assert_allclose(direct, predict(name, features(opened, name)), atol=1e-6)


def test_features_of_the_other_mode_are_refused(opened: Opened[Any, Any]) -> None:
    offline = [str(features(opened, "clips_offline"))]
    with pytest.raises(CaseError, match="holds offline features of clips, but the model is online"):
        SurgicalLearner.fitted(opened.settings.models["clips"], offline)


def test_the_trial_names_what_is_wrong(frames: dict[str, Any], clips: dict[str, Any]) -> None:
    def tried(**values: Any) -> None:
        try_model(SurgicalLearner, validate(Model, values), TASK)

    tried(**temporal(frames))
    with pytest.raises(CaseError, match="a multiple of 8 pixels, not 30"):
        tried(**temporal(frames, crop=[30, 30]))
    with pytest.raises(CaseError, match="a multiple of 2 frames, not 3"):
        tried(**temporal({**clips, "frames": 3}))
    with pytest.raises(CaseError, match="'hiden'"):
        tried(**{**temporal(frames), "head": {"name": "GRU", "hiden": 3}})
    with pytest.raises(CaseError, match="did you mean TeCNO"):
        tried(**{**temporal(frames), "head": {"name": "TeCN"}})
    # What can be built, and fails in use or learns nothing.
    with pytest.raises(CaseError, match=r"TransSVNet: fails in use with window: 2\.5"):
        tried(**{**temporal(frames), "head": {"name": "TransSVNet", "window": 2.5}})
    with pytest.raises(CaseError, match="DiagonalSSM: states: expected 1 or more, not 0"):
        tried(**{**temporal(clips), "head": {"name": "DiagonalSSM", "states": 0}})


@each_head
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_trial_takes_every_head_on_the_features_of_a_model(head: str, mode: str) -> None:
    """The backbone is as `System.tried` completes it."""
    crop = {"backbone": {"name": "resnet18"}, "crop": [32, 32]}
    values = {"kind": "temporal", "features": "phase", "head": {"name": head, **HEADS[head]}, "mode": mode}
    try_model(SurgicalLearner, validate(Model, {**values, **crop}), TASK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "tecno"}, "`kind: tecno` is now `kind: temporal`"),
        ({"temporal": {"layers": 4}}, "its section `temporal` is now `head`"),
        ({"kind": "phase"}, "got phase, encoder"),
        ({"features": "b"}, "got temporal, features and encoder"),
        ({"encoder": {"name": "torchvision:swin_t"}}, "needs `weights`"),
        ({"encoder": {"name": "torchvision:swin_t", "weights": "w", "size": 64}}, "taken from crop"),
        ({"crop": [32, 28]}, "takes squares"),
        ({"head": {"name": "GRU", "mode": "offline"}}, "set `mode` beside `head`"),
        ({"every": 2}, "`every` is for an encoder of clips"),
        ({"training": {"batch": 2}}, "one video at a time"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    values = {**temporal({"name": "transformers:Dinov2Model", "weights": "w"}), **change}
    data = {"sheet": "s.csv", "phases": list(PHASES)}
    with pytest.raises(CaseError, match=words):
        validate(Settings, {"experiment": "e", "data": data, "models": {"a": values}})
    with pytest.raises(CaseError, match="sees earlier frames alone"):
        validate(Model, {"kind": "phase", "mode": "offline"})


def saved_model(opened: Opened[Any, Any], name: str, path: Path) -> Path:
    """A model's file with random weights."""
    settings = opened.settings
    model = SurgicalLearner.fitted(settings.models[name], [str(features(opened, name))])
    torch.manual_seed(0)
    state = {
        "network": SurgicalLearner(model, TASK).network().state_dict(),
        "settings": dump(model),
        "system": "surgical",
        "task": TASK,
        "prepared": {"data": {**dump(settings.data), "images_fps": 1}, "cache": dump(settings.cache)},
    }
    torch.save(state, path)
    return path


def test_a_model_with_other_weights_is_refused(
    opened: Opened[Any, Any], folder: Path, tmp_path: Path
) -> None:
    path = saved_model(opened, "gru", tmp_path / "m.pt")
    state = torch.load(path, weights_only=False)
    # The encoder's weights are not in the file.
    assert sum(value.numel() for value in state["network"].values()) < 5000
    state["network"]["trunk._extra_state"] += 1
    torch.save(state, path)
    with pytest.raises(CaseError, match=r"weights other than those in encoder\.weights"):
        read_trained([path])


def test_export(opened: Opened[Any, Any], tmp_path: Path) -> None:
    trained = read_trained([saved_model(opened, "transsvnet", tmp_path / "m.pt")])
    plan = export_onnx(trained, {}, tmp_path / "onnx")
    assert plan["mode"] == "online"
    assert max(plan["parity"].values()) < 1e-4
    # A video longer than the example, and than the blocks of TransSVNet.
    network = trained.networks[0].cpu()
    session = InferenceSession(tmp_path / "onnx" / "fold0_video.onnx")
    features = torch.randn(1, 300, 24)
    with torch.no_grad():
        expected = network.get_submodule("head")(features)[-1]
    [found] = session.run(None, {"features": features.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    session = InferenceSession(tmp_path / "onnx" / "fold0_frames.onnx")
    frames = torch.randn(5, 3, 32, 32)
    [found] = session.run(None, {"frames": frames.numpy()})
    np.testing.assert_allclose(found, network.get_submodule("trunk")(frames), atol=1e-4)
    assert plan["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "words"), [("clips", "takes clips, which the runner does not cut"), ("diagonalssm", "complex")]
)
def test_what_cannot_be_exported(opened: Opened[Any, Any], name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=words):
        export_onnx(read_trained([saved_model(opened, name, tmp_path / "m.pt")]), {}, tmp_path / "onnx")


def test_forecasts(opened: Opened[Any, Any]) -> None:
    """Each stage has one, and the features' is right."""
    system, settings = system_of("surgical"), opened.settings
    footprint = system.footprint
    size = footprint.typical
    found = footprint.disk_mib(size, settings)
    assert {*found} == {*opened.preparation.stages}
    assert footprint.case_mib("encode", size, settings) > 1000
    assert footprint.case_seconds("encode", size, settings) > 100
    for name in ("tecno", "gru", "diagonalssm"):
        learner = SurgicalLearner(settings.models[name], TASK)
        learnt = sum(p.numel() for p in learner.network().parameters())
        stored, forecast = footprint.weights(settings, name, Step(0, 0, 0, 0))
        assert stored == forecast == pytest.approx(learnt, rel=0.5)


def test_features_depend_on_their_frames(opened: Opened[Any, Any], tmp_path: Path) -> None:
    model = opened.settings.models["gru"]
    source = Path(opened.preparation.cached.format(case="op0"))
    Surgical().encode(source, model, tmp_path / "again.h5")
    assert content_of(tmp_path / "again.h5") == content_of(features(opened, "gru"))
    with h5py.File(features(opened, "clips")) as file:
        assert len(file["features"]) == file.attrs["frames"] != file.attrs["clip_frames"] == 4
    assert content_of(features(opened, "gru", "op1")) != content_of(features(opened, "gru"))
