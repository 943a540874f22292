"""A model of clips as ONNX with its runner: the probabilities are those of Foldwise."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foldwise.evaluate import Trained, read_trained
from foldwise.files import CaseError
from foldwise.portable.onnx import export_onnx
from foldwise.settings import dump, validate
from foldwise.systems import system_of
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.predictions import read_prediction
from foldwise.systems.clips.settings import Cache, Model, Prepare
from foldwise.video.decode import read_frames
from tiny_clip import save_clip
from videos import write_video

CLASSES = ["a", "b", "c"]
RESNET = {"name": "monai:ResNet", "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]}
SMALL: dict[str, Any] = {
    "network": {"name": "FrameAverage", "network": RESNET},
    "clip": {
        "frames": 3,
        "every": 2,
        "size": 32,
        "spatial_views": 3,
        "temporal_views": 2,
        "rand_augment": None,
    },
}
BLOCKED = ["foldwise", "torch", "torchvision", "transformers", "scipy", "PIL", "h5py", "pandas"]
CODE = (
    "import os, runpy, sys\n"
    f"for name in {BLOCKED}: sys.modules[name] = None\n"
    "sys.argv = sys.argv[1:]\n"
    "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"  # as without -I
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def write_models(folder: Path, folds: int, **changed: Any) -> Trained:
    """Untrained models, for frames that are kept exactly but shrunk."""
    model = validate(Model, {**SMALL, **changed})
    paths = []
    for fold in range(folds):
        torch.manual_seed(fold)
        network = ClipsLearner(model, {"classes": CLASSES}).network()
        with torch.no_grad():
            for name, weights in network.named_parameters():
                if weights.ndim > 1 or "position" in name:
                    weights.normal_(std=0.2)
        state = {
            "network": network.state_dict(),
            "settings": dump(model),
            "system": "clips",
            "task": {"classes": CLASSES},
            "prepared": {
                "prepare": dump(Prepare()),
                "cache": dump(validate(Cache, {"encoding": "raw", "size": 40})),
            },
        }
        paths.append(folder / f"model{fold}.pt")
        torch.save(state, paths[-1])
    return read_trained(paths)


def write_clips(videos: Path, frames: Path) -> None:
    """Videos, one of which is shorter than a clip, and the frames that Foldwise reads from them."""
    videos.mkdir()
    for name, count in {"long": 13, "short": 4}.items():
        random = np.random.default_rng(count)
        coarse = [Image.fromarray(random.integers(0, 255, (5, 6, 3), np.uint8)) for _ in range(count)]
        path = videos / f"{name}.mp4"
        write_video(path, np.stack([np.asarray(one.resize((80, 52))) for one in coarse]))
        (frames / name).mkdir(parents=True)
        for frame in read_frames(path):
            Image.fromarray(frame.rgb).save(frames / name / f"{frame.number}.png")


@pytest.mark.parametrize("name", ["FrameAverage", "EVL"])
def test_probabilities(name: str, tmp_path: Path) -> None:
    changed: dict[str, Any] = {}
    if name == "EVL":
        weights = str(save_clip(tmp_path / "clip"))
        changed["network"] = {"name": "EVL", "weights": weights, "blocks": 2}
    trained = write_models(tmp_path, 1 if name == "EVL" else 2, **changed)
    write_clips(tmp_path / "videos", tmp_path / "frames")
    export_onnx(trained, {}, tmp_path / "onnx")
    words = [tmp_path / "onnx" / "runner.py", tmp_path / "frames", tmp_path / "new" / "out.csv"]
    subprocess.run([sys.executable, "-I", "-c", CODE, *words], check=True, timeout=120)
    with (tmp_path / "new" / "out.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    system, state = system_of("clips"), trained.states[0]
    for entry in system.new_cases(tmp_path / "videos", prepared=state["prepared"]).entries:
        cache = system.prepare_new(entry, folder=tmp_path / "work", state=state)
        path = tmp_path / f"{entry.case}.h5"
        trained.steps.infer(trained.steps.read(str(cache))).write(path)
        expected = read_prediction(path)[0]
        found = [float(rows[entry.case][f"p({name})"]) for name in CLASSES]
        # Without vector instructions, torch rounds resized frames otherwise.
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert rows[entry.case]["class"] == CLASSES[int(expected.argmax())]


def test_regions_cannot_be_exported(tmp_path: Path) -> None:
    trained = write_models(tmp_path, 1, input="crop")
    with pytest.raises(CaseError, match="input crop: its regions are found by Foldwise alone"):
        export_onnx(trained, {}, tmp_path / "onnx")
