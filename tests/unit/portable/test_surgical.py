"""A model of phases and tools as ONNX with its runner: the probabilities are those of Foldwise."""

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
from foldwise.portable.onnx import export_onnx
from foldwise.portable.runners import frames as runner_frames
from foldwise.settings import dump, validate
from foldwise.systems import system_of
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.predictions import read_prediction
from foldwise.systems.surgical.settings import Cache, Data, Model
from foldwise.video.images import read_image
from foldwise.video.pixels import resized
from surgical_data import PHASES, TOOLS

TASK = {"phases": list(PHASES), "tools": list(TOOLS)}
SMALL: dict[str, Any] = {
    "backbone": {
        "name": "monai:ResNet",
        "block": "basic",
        "layers": [1, 1, 1, 1],
        "block_inplanes": [4, 4, 8, 8],
    },
    "window": 4,
    "crop": [28, 36],
    "hidden": 8,
    "batch_frames": 7,
}
# So that every way of resizing is compared with the runner's.
INTERPOLATION = {"mtrcnet_cl": "lanczos", "temporal": "bicubic", "tool": "box"}
# No code of these is needed.
BLOCKED = ["foldwise", "torch", "monai", "scipy", "skimage", "PIL", "h5py", "nibabel", "pandas"]
CODE = (
    "import os, runpy, sys\n"
    f"for name in {BLOCKED}: sys.modules[name] = None\n"
    "sys.argv = sys.argv[1:]\n"
    "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"  # as without -I
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def write_models(kind: str, folder: Path, folds: int = 1) -> Trained:
    """Untrained models, for frames that are kept exactly."""
    values = SMALL if kind != "temporal" else {**SMALL, "features": "cl"}
    model = validate(Model, {**values, "kind": kind})
    paths = []
    for fold in range(folds):
        torch.manual_seed(fold)
        network = SurgicalLearner(model, TASK).network()
        with torch.no_grad():
            for weights in network.get_submodule("head").parameters():
                weights.mul_(3)
        data = {"sheet": "x.csv", "phases": list(PHASES), "tools": list(TOOLS), "images_fps": 1}
        cache = {"size": [32, 40], "encoding": "raw", "interpolation": INTERPOLATION[kind]}
        state = {
            "network": network.state_dict(),
            "settings": dump(model),
            "system": "surgical",
            "task": TASK,
            "prepared": {"data": dump(validate(Data, data)), "cache": dump(validate(Cache, cache))},
        }
        paths.append(folder / f"{kind}{fold}.pt")
        torch.save(state, paths[-1])
    return read_trained(paths)


def write_frames(folder: Path, count: int, mode: str = "RGB", gaps: bool = False) -> None:
    """Blobs within a black border, larger than the frames that are kept; half transparent in mode RGBA."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    for number in range(count):
        if gaps and number in (1, 6, 7):
            continue
        coarse = Image.fromarray(random.integers(0, 255, (5, 6, 3), np.uint8).astype(np.uint8))
        frame = np.zeros((75, 97, 3), np.uint8)
        frame[5:71, 9:90] = np.asarray(coarse.resize((81, 66), Image.Resampling.BICUBIC))
        image = Image.fromarray(frame).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(folder / f"video1-{number + 1}.png")


@pytest.mark.parametrize(("kind", "folds"), [("mtrcnet_cl", 1), ("temporal", 1), ("tool", 2)])
def test_probabilities(kind: str, folds: int, tmp_path: Path) -> None:
    trained = write_models(kind, tmp_path, folds)
    # The second video is shorter than a window, and its frames are numbered beyond nine in the first.
    for name, count, mode in (
        ("long", 12, "RGB"),
        ("short", 3, "RGB"),
        ("grey", 5, "L"),
        ("see ü", 4, "RGBA"),
        ("gaps", 14, "RGB"),
    ):
        write_frames(tmp_path / "videos" / name, count, mode, gaps=name == "gaps")
    (tmp_path / "videos" / "long" / "._video1-1.png").touch()  # as macOS leaves beside copied files
    plan = export_onnx(trained, {"threshold": 0.4}, tmp_path / "onnx")
    assert max(plan["parity"].values()) < 1e-4
    words = [tmp_path / "onnx" / "runner.py", tmp_path / "videos", tmp_path / "out"]
    subprocess.run([sys.executable, "-I", "-c", CODE, *words], check=True, timeout=120)
    system, state = system_of("surgical"), trained.states[0]
    for entry in system.new_cases(tmp_path / "videos", prepared=state["prepared"]).entries:
        cache = system.prepare_new(entry, folder=tmp_path, state=state)
        path = tmp_path / f"{entry.case}-prediction.h5"
        trained.steps.infer(trained.steps.read(str(cache))).write(path)
        expected = read_prediction(path)
        with (tmp_path / "out" / f"{entry.case}.csv").open() as file:
            rows = list(csv.DictReader(file))
        numbers = sorted(int(path.stem[7:]) for path in (tmp_path / "videos" / entry.case).glob("video1-*"))
        assert [row["frame"] for row in rows] == [f"video1-{n}.png" for n in numbers]
        np.testing.assert_allclose([float(row["seconds"]) for row in rows], expected.times, atol=5e-4)
        assert len(np.unique(expected.run)) == (3 if entry.case == "gaps" else 1)
        for names, wanted in ((expected.phases, expected.phase), (expected.tools, expected.tool)):
            found = [[float(row[f"p({name})"]) for name in names] for row in rows]
            np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, atol=1e-4)
        if expected.phases:
            assert [row["phase"] for row in rows] == [
                expected.phases[number] for number in expected.phase.argmax(1)
            ]
        for number, name in enumerate(expected.tools):
            assert [row[name] == "1" for row in rows] == (expected.tool[:, number] >= 0.4).tolist()


def test_images_that_are_no_video(tmp_path: Path) -> None:
    """The runner refuses what Foldwise refuses, and predicts the other videos."""
    export_onnx(write_models("tool", tmp_path), {}, tmp_path / "onnx")
    videos = tmp_path / "videos"
    for name in ("good", "twice", "sizes", "nameless"):
        write_frames(videos / name, 2)
    Image.new("RGB", (97, 75)).save(videos / "twice" / "video1-01.png")
    Image.new("RGB", (9, 7)).save(videos / "sizes" / "video1-3.png")
    Image.new("RGB", (97, 75)).save(videos / "nameless" / "cover.png")

    def run(source: Path | str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *map(str, (tmp_path / "onnx" / "runner.py", source, tmp_path / "out"))]
        return subprocess.run(words, check=False, capture_output=True, text=True, cwd=videos / "good")

    ended = run(videos)
    assert ended.stderr.splitlines() == [
        "nameless: cover.png: no number in the name",
        "sizes: video1-3.png is (9, 7), earlier ones are (97, 75); expected one size",
        "twice: video1-01.png and video1-1.png have the same number",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.csv"]
    assert run(".").returncode == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.csv"]
    assert run("none").stderr.startswith(f"{videos / 'good' / 'none'}: no such folder; expected images")


@pytest.mark.parametrize("method", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
def test_the_runner_resizes_like_pillow(method: Any) -> None:
    random = np.random.default_rng(0)
    for old, new in (((75, 97), (32, 40)), ((7, 9), (21, 28)), ((50, 80), (49, 79)), ((96, 60), (50, 60))):
        frame = random.integers(0, 256, (*old, 3), np.uint8)
        np.testing.assert_array_equal(runner_frames.resized(frame, new, method), resized(frame, new, method))


def test_the_runner_reads_images_as_foldwise_does(tmp_path: Path) -> None:
    """Turned and mirrored by their EXIF data, and transparent in every form that SimpleITK reads."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    opacity = Image.linear_gradient("L").resize(rgb.size)
    clear = rgb.copy()
    clear.putalpha(opacity)
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgba.png": (clear, {}),
        "palette.png": (rgb.quantize(16), {"transparency": bytes(range(0, 160, 10))}),
        "key.png": (rgb, {"transparency": rgb.getpixel((0, 0))}),
        "grey.png": (rgb.convert("L"), {}),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        images[f"turned{orientation}.png"] = rgb, {"exif": exif}
        # Of one grey, since decoders of JPEG differ in colours.
        flat = Image.new("L", (16, 8), 90)
        flat.paste(200, (0, 0, 8, 8))
        images[f"turned{orientation}.jpg"] = flat, {"exif": exif}
    for name, (image, options) in images.items():
        path = tmp_path / name
        image.save(path, **options)
        np.testing.assert_allclose(
            runner_frames.read(path).astype(int), read_image(path), atol=1 if name.endswith("jpg") else 0
        )
