"""Untrained segmentation models, a scan for each, and what Foldwise predicts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

from foldwise.evaluate import Trained, read_trained
from foldwise.settings import dump, validate
from foldwise.systems import system_of
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.settings import Model
from foldwise.volumes.predictions import label_map, probability_maps
from foldwise.volumes.settings import Cache, Prepare
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume

UNET = {"name": "UNet", "channels": [4, 8], "strides": [2]}
DEEP = {
    "name": "DynUNet",
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
    "filters": [4, 8, 8],
    "deep_supervision": True,
}
ONE = Targets({"tumour": 1})
THREE = Targets({"left": 3, "right": 1000, "above": 2})
NESTED = Targets({"oedema": 1, "core": 4}, {"whole": ("core", "oedema"), "core": ("core",)})


@dataclass(frozen=True)
class Kind:
    """An experiment and its scan."""

    model: Mapping[str, Any] = field(default_factory=dict)
    prepare: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)
    targets: Targets = ONE
    channels: int = 1
    postprocess: tuple[Any, ...] = ()
    folds: int = 1
    shape: tuple[int, int, int] = (30, 21, 25)
    affine: Any = ((1, 0, 0, -5), (0, 1, 0, 3), (0, 0, 2, 7), (0, 0, 0, 1))
    dtype: str = "int16"
    suffix: str = ".nii.gz"


def turned(degrees: float, *edges: float) -> np.ndarray:
    """An affine turned about two axes, with its first axis to the left."""
    a, b = np.deg2rad(degrees), np.deg2rad(-degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-edges[0], *edges[1:]])
    affine[:3, 3] = 12, -30, 8
    return affine


def write_models(kind: Kind, folder: Path) -> Trained:
    """Untrained models whose outputs depend on the image enough for structured label maps."""
    model = validate(Model, {"network": UNET, "patch": [16, 16, 16], **kind.model})
    task = {"targets": kind.targets.as_dict(), "channels": kind.channels}
    paths = []
    for fold in range(kind.folds):
        torch.manual_seed(fold)
        network = SegmentationLearner(model, task).network()
        with torch.no_grad():
            for name, weights in network.named_parameters():
                if name.endswith("weight") and weights.ndim > 2:
                    weights.mul_(3)
        state = {
            "network": network.state_dict(),
            "settings": dump(model),
            "system": "segmentation",
            "task": task,
            "prepared": {
                "prepare": dump(validate(Prepare, {"crop": {"to": "none"}, **kind.prepare})),
                "cache": dump(validate(Cache, dict(kind.cache))),
            },
            "fold": fold,
            "learnt": [],
        }
        paths.append(folder / f"model{fold}.pt")
        torch.save(state, paths[-1])
    return read_trained(paths)


def write_scan(kind: Kind, folder: Path, case: str = "a") -> None:
    """Smooth random blobs in air, one file per channel."""
    folder.mkdir(exist_ok=True)
    for channel in range(kind.channels):
        noise = np.random.default_rng(channel).normal(size=kind.shape)
        data = 4000 * gaussian_filter(noise, 2) + 200
        data[:4], data[:, -3:] = 0, 0
        data = (np.abs(data) if kind.dtype.startswith("u") else data).astype(kind.dtype)
        ending = f"_{channel:04d}" if kind.channels > 1 else ""
        path = folder / f"{case}{ending}{kind.suffix}"
        if kind.suffix == ".nii.gz":
            write_volume(Volume(data, np.asarray(kind.affine, float)), path)
            continue
        affine = np.diag([-1, -1, 1, 1]) @ kind.affine
        image = sitk.GetImageFromArray(data.transpose())
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        sitk.WriteImage(image, path)


def predicted(trained: Trained, steps: Sequence[Any], scans: Path, folder: Path) -> dict[str, Volume]:
    """What Foldwise publishes of the only scan of a source: its label map and its probabilities."""
    system, state = system_of("segmentation"), trained.states[0]
    (entry,) = system.new_cases(scans, prepared=state["prepared"]).entries
    cache = system.prepare_new(entry, folder=folder, state=state)
    path = folder / "prediction.h5"
    trained.steps.infer(trained.steps.read(str(cache))).write(path)
    return {"": label_map(path, steps), **probability_maps(path)}
