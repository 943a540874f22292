"""Heads on frozen encoders of frames and clips: with stored features, or encoding as they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models import video

from foldwise.experiment.open import Opened, open_experiment
from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.hdf5 import open_hdf5
from foldwise.index import Fold, Index
from foldwise.networks.encoders_transformers import FAMILIES
from foldwise.settings import Named, validate
from foldwise.systems import system_of
from foldwise.systems.clips.cache import cache_clip
from foldwise.systems.clips.footprint import FILE, features_bytes
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.predictions import read_prediction
from foldwise.systems.clips.settings import Model
from foldwise.systems.clips.system import Clips
from foldwise.testing import check_learner
from foldwise.training.trial import try_model
from foldwise.video.encoders import FROZEN_WEIGHTS, OF_CLIPS, clip_frames, frozen_bytes, shape_of
from tiny_encoders import SAVED, save
from ultrasound import CLASSES, SMALL, settings_of, write_clips

TASK = {"classes": CLASSES, "sentences": []}
PROBE = {"name": "AttentiveProbe", "channels": 16, "heads": 2}
DECODER = {"name": "EVLDecoder"}


def encoder(folder: Path, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": f"transformers:{kind}", "weights": str(folder / kind), **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    write_clips(folder, cases=4)
    for kind in ("DINOv3ViTModel", "VJEPA2Model"):
        save(kind, folder / kind)
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Opened[Any, Any]:
    """Models with stored features (and `_direct` without), whose files are there."""
    frames = {**SMALL, "encoder": encoder(folder, "DINOv3ViTModel")}
    clips = {**SMALL, "encoder": encoder(folder, "VJEPA2Model"), "clip": {**SMALL["clip"], "frames": 4}}
    every = {
        "probe": {**frames, "network": PROBE},
        "decoder": {**frames, "network": DECODER},
        "clip_probe": {**clips, "network": PROBE},
        "clip_decoder": {**clips, "network": DECODER},
    }
    stored = {name: {**values, "features": {"views": 2}} for name, values in every.items()}
    stored["whole"] = {**every["probe"], "features": {"views": 1, "precision": "int8"}}
    mil = {"name": "AttentionMIL", "hidden": 16}
    stored["mil"] = {**frames, "network": mil, "features": {"views": 2}, "bag": 3}
    direct = {f"{name}_direct": values for name, values in every.items()}
    values = settings_of(folder / "clips.csv", models={**stored, **direct}, results=str(folder / "results"))
    found = open_experiment(values, main=False)
    for name, case in found.cases.items():
        path = Path(found.preparation.cached.format(case=name))
        cache_clip(name, case.video, case.label, found.settings.cache, path, group=case.group)
        encode = found.preparation.stages["encode"].asked
        assert encode is not None
        for asked in encode(name):
            model = Model.model_validate_json(asked.values["settings"])
            Clips().encode(Path(asked.inputs[0]), model, Path(asked.outputs[0]))
    return found


def source(opened: Opened[Any, Any], name: str, case: str) -> str:
    path: str = opened.preparation.inputs(name).format(case=case)
    return path


@pytest.mark.parametrize("name", ["probe", "decoder", "clip_probe", "clip_decoder_direct", "mil"])
def test_a_training_is_resumed_bit_equal(opened: Opened[Any, Any], name: str, tmp_path: Path) -> None:
    prepared, caches = Path(opened.preparation.cached).parent, Path(opened.preparation.caches)
    task, entries = opened.system.entries(opened.settings.data, prepared, caches)
    index = Index(task, tuple(entries), (Fold(("k0_0", "k1_0"), ("k2_0", "k3_0"), ()),))
    check_learner(opened.system, opened, name, index, tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("probe", (2, 1, 3, 16, 24)), ("clip_decoder", (2, 1, 2, 16, 24)), ("whole", (1, 1, 3, 16, 24))],
)
def test_stored_and_direct_agree(
    opened: Opened[Any, Any], name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = source(opened, name, "k0_0")
    with open_hdf5(path) as file:
        assert file["train_tokens"].shape == shape
        assert "train_attention" not in file
        assert validate(Named, Named.model_validate_json(file.attrs["encoder"]).model_dump())
    stored, direct = (opened.settings.models[n] for n in (name, f"{name.replace('whole', 'probe')}_direct"))
    learner, other = (ClipsLearner(ClipsLearner.fitted(m, [path]), TASK) for m in (stored, direct))
    assert learner.model.clip.mean == (0.485, 0.456, 0.406)
    torch.manual_seed(0)
    network = learner.network().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    learner.predict([network], path, tmp_path / "stored.h5")
    cache = source(opened, f"{name.replace('whole', 'probe')}_direct", "k0_0")
    other.predict([network], cache, tmp_path / "direct.h5")
    found, expected = (read_prediction(tmp_path / f"{n}.h5")[1] for n in ("stored", "direct"))
    np.testing.assert_allclose(found, expected, atol=0.02 if name == "whole" else 2e-3)
    assert np.ptp(expected[..., 0]) >= 0
    # Changed frames are encoded as they go.
    with open_hdf5(cache) as file:
        clean = learner.probabilities(network, file, None)
        dark = learner.probabilities(network, file, lambda frames, numbers: frames // 4)
    np.testing.assert_allclose(clean, expected.mean(0), atol=1e-5)
    assert np.abs(clean - dark).max() > 1e-4


def test_the_loss_falls(opened: Opened[Any, Any]) -> None:
    paths = [source(opened, "probe", f"k{number}_0") for number in range(4)]
    learner = ClipsLearner(ClipsLearner.fitted(opened.settings.models["probe"], paths), TASK)
    torch.manual_seed(0)
    network, items, losses = learner.network().train(), learner.items(paths, (0,)), []
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for number in range(15):
        batch = torch.utils.data.default_collate([items[4 * number + place] for place in range(4)])
        loss = learner.loss(network, batch, torch.Generator())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.3 * losses[0]


def test_equal_encoders_share_features(opened: Opened[Any, Any]) -> None:
    places = {name: opened.preparation.inputs(name) for name in ("probe", "decoder", "clip_probe", "whole")}
    assert places["probe"] == places["decoder"]
    assert len(set(places.values())) == 3


def test_forecasts(opened: Opened[Any, Any]) -> None:
    system, settings = system_of("clips"), opened.settings
    footprint = system.footprint
    assert list(footprint.disk_mib(footprint.typical, settings)) == list(opened.preparation.stages)
    for name in ("probe", "clip_decoder", "mil"):
        model = settings.models[name]
        size = Path(source(opened, name, "k0_0")).stat().st_size
        assert 0.7 < (features_bytes(model) + FILE) / size < 1.6
        network = ClipsLearner(model, TASK).network()
        stored, learnt = footprint.weights(settings, name, Step(0, 0, 0, 0))
        assert stored == learnt == pytest.approx(sum(p.numel() for p in network.parameters()), rel=0.2)
    assert system.weights(settings, "probe") == [settings.models["probe"].frozen_weights]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network": {"name": "r2plus1d_18"}}, "belong together: AttentiveProbe, EVLDecoder, AttentionMIL"),
        ({"encoder": None}, "got AttentiveProbe, encoder null"),
        ({"encoder": {"name": "torchvision:swin_t"}}, "needs `weights`"),
        ({"encoder": {"name": "torchvision:swin_t", "weights": "w", "size": 9}}, r"taken from clip\.size"),
        ({"input": "channel"}, "is frozen and cannot learn a fourth channel"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    values = {**SMALL, "network": PROBE, "encoder": {"name": "torchvision:swin_t", "weights": "w"}, **change}
    with pytest.raises(CaseError, match=words):
        validate(Model, values)


def test_the_trial_compares_sizes(folder: Path) -> None:
    def tried(kind: str, **clip: Any) -> None:
        values = {**SMALL, "network": PROBE, "encoder": encoder(folder, kind)}
        try_model(ClipsLearner, validate(Model, {**values, "clip": {**SMALL["clip"], **clip}}), TASK)

    tried("DINOv3ViTModel", size=64)
    with pytest.raises(CaseError, match="a multiple of 8 pixels, not 36"):
        tried("DINOv3ViTModel", size=36)
    with pytest.raises(CaseError, match="a multiple of 2 frames, not 3"):
        tried("VJEPA2Model")
    decoder = {"name": "EVLDecoder", "blocks": 2}
    values = {**SMALL, "network": decoder, "encoder": encoder(folder, "DINOv3ViTModel")}
    with pytest.raises(CaseError, match=r"EVLDecoder: fails in use with blocks: 2"):
        try_model(ClipsLearner, validate(Model, values), TASK)


def test_kinetics_weights_of_torchvision(tmp_path: Path) -> None:
    """A video network of torchvision by its state dict, with its last layer of 400 classes."""
    torch.manual_seed(0)
    torch.save(video.mc3_18(num_classes=400).state_dict(), tmp_path / "mc3.pt")
    named = {"name": "torchvision:mc3_18", "weights": str(tmp_path / "mc3.pt")}
    clip = {**SMALL["clip"], "frames": 4}
    model = validate(Model, {**SMALL, "network": PROBE, "encoder": named, "clip": clip})
    learner = ClipsLearner(ClipsLearner.fit(model, []), TASK)
    network = learner.network().eval()
    assert learner.model.clip.mean == (0.43216, 0.394666, 0.37645)
    assert network(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 2)


def test_what_is_known_without_loading(folder: Path) -> None:
    """Which encoders take clips, and the shape of their tokens."""
    known = {name for name, family in FAMILIES.items() if family.clips} | {*models.list_models(video)}
    assert known == OF_CLIPS
    for kind in ("DINOv3ViTModel", "VJEPA2Model"):
        named = validate(Named, encoder(folder, kind))
        assert tuple(shape_of(named, 32, 4)) == (2 if kind in OF_CLIPS else 1, 16, 24)
        assert clip_frames(named) == (4 if kind in OF_CLIPS else 1)
    assert SAVED["VJEPA2Model"][0]["frames_per_clip"] == 4
    with torch.device("meta"):
        for name, frames in (("convnext_tiny", 1), ("resnet50", 1), ("swin3d_t", 8), ("r2plus1d_18", 8)):
            network = models.get_model(name)
            last = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
            shape = shape_of(Named(name=f"torchvision:{name}"), 224, frames)
            assert shape.width == last.in_features


def test_parts_follow_the_stored_features_and_not_the_models(folder: Path, tmp_path: Path) -> None:
    """Another model on the same features prepares nothing; a part's job writes what the models read."""
    plain = {**SMALL, "features": {"views": 2}}
    probe = {**plain, "network": PROBE, "encoder": encoder(folder, "DINOv3ViTModel")}
    decoder = {**probe, "network": DECODER}

    def of(**models: Any) -> Opened[Any, Any]:
        values = settings_of(folder / "clips.csv", models=models, results=str(tmp_path / "results"))
        return open_experiment(values, main=False)

    def parts(found: Opened[Any, Any]) -> dict[str, Any]:
        """What the jobs of each folder depend on, and what they request."""
        cases = found.parts.cases("training_0of1")
        return {
            folder: (
                found.depends.part(folder),
                found.depends.rows(cases, found.parts.stages(folder)),
                found.jobs.part_mib(folder, "training_0of1", 1),
                found.times.minutes("prepare_part", f"{folder}_training_0of1"),
            )
            for folder in found.parts.folders
        }

    none, one = parts(of(small=SMALL)), parts(of(probe=probe))
    assert parts(of(decoder=decoder, other=probe)) == one
    clips = {**plain, "encoder": encoder(folder, "VJEPA2Model"), "clip": {**SMALL["clip"], "frames": 4}}
    both = of(probe=probe, clips={**clips, "network": PROBE})
    # Each folder of features, the caches apart: another one leaves them alone.
    assert none.items() < one.items() < parts(both).items()
    assert [*map(len, (none, one, parts(both)))] == [1, 2, 3]
    assert both.parts.neural == both.parts.folders[1:]
    cache, *features = both.preparation.made
    for path in (cache, *features):
        name = Path(path).parent.name
        settings = {**json.loads(both.depends.part_settings(name)), "part": "training_0of1"}
        part = open_experiment(settings, main=False)
        assert part.preparation.made == list(dict.fromkeys([cache, path]))
    # Their markers are made from that of the caches.
    [before] = both.parts.before(Path(features[0]).parent.name, "training_0of1")
    assert before == f"{both.preparation.data}/parts/{Path(cache).parent.name}/training_0of1.json"


def test_the_memory_of_weights_follows_their_files(tmp_path: Path) -> None:
    assert frozen_bytes(tmp_path / "missing") == frozen_bytes(tmp_path) == 4 * FROZEN_WEIGHTS
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2**30)
    assert frozen_bytes(tmp_path) == frozen_bytes(tmp_path / "model.safetensors") == 2**30
    # Read from half precision, the file and the values in float32 are held.
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}', encoding="utf-8")
    assert frozen_bytes(tmp_path) == pytest.approx(3 * 2**30)
