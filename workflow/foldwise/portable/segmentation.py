"""Segmentation as ONNX: networks from a window to its outputs, and the plan of all that is around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from foldwise.evaluate import Trained
from foldwise.files import CaseError
from foldwise.portable.onnx import Graph, Portable
from foldwise.settings import validate
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.volumes.settings import Cache, Crop, Intensity, Prepare, Step
from foldwise.volumes.targets import Targets, label_type

OUTSIDE = {"keep": None, "zero": 0.0, "mean": "mean", "air": -1000.0}


class Windows(nn.Module):
    """From windows (batch, channels, x, y, z) to their outputs (batch, outputs, x, y, z).

    Slices as channels, mirror images, and outputs that are coarser than the window are dealt with in it. Of
    several slices, the outputs are those of the middle one.
    """

    def __init__(self, learner: SegmentationLearner, network: nn.Module) -> None:
        """Take a trained network and its learner."""
        super().__init__()
        self.learner, self.network = learner, network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The outputs, before soft-max or sigmoid."""
        if not self.learner.flat:
            return self.learner.inference.outputs(self.network, image)
        found = self.learner.inference.outputs(self.network, self.learner.flattened(image))
        return found.unsqueeze(2 + self.learner.axis)


def portable(trained: Trained, chosen: Mapping[str, Any]) -> Portable:
    """What is exported of a model, with its post-processing.

    Raises:
        CaseError: the model's file does not say how a case is prepared.
    """
    learner, prepared = trained.learner, trained.states[0].get("prepared")
    assert isinstance(learner, SegmentationLearner)
    if not prepared:
        raise CaseError("the model's file does not say how a case is prepared for it; train it again")
    prepare = validate(Prepare, prepared["prepare"], origin="model")
    cache = validate(Cache, prepared["cache"], origin="model")
    targets, channels = learner.targets, trained.task["channels"]
    names = [f"fold{number}.onnx" for number in range(len(trained.networks))]
    window = [1 if learner.flat and axis == learner.axis else n for axis, n in enumerate(learner.patch)]
    bells = [_bell(n, learner.model.inference.weighting) for n in window]
    inference, model = learner.model.inference, learner.model
    intensity = model.intensity if len(model.intensity) > 1 else list(model.intensity) * channels
    plan = {
        "system": "segmentation",
        "networks": names,
        "channels": channels,
        "crop": _crop(prepare),
        "lungs": _lungs(prepare),
        "spacing": cache.spacing,
        "shape": cache.shape,
        "intensity": [_intensity(one) for one in intensity],
        "patch": learner.patch,
        "window": window,
        "steps": [max(1, int(n * (1 - inference.overlap))) for n in window],
        "weights": bells,
        # As in MONAI: no voxel counts less than this.
        "least_weight": max(1e-3, math.prod(map(min, bells))),
        "mirrored": inference.mirror,
        "outputs": learner.outputs,
        "exclusive": not targets.regions,
        "names": targets.names,
        "values": _values(targets),
        "type": np.dtype(label_type(max(targets.classes.values()))).name,
        "classes": targets.classes,
        "regions": targets.regions,
        "postprocess": [_step(step, targets) for step in chosen.get("postprocess", [])],
    }
    example = torch.randn(2, channels, *learner.patch, generator=torch.Generator().manual_seed(0))
    activation = torch.sigmoid if targets.regions else partial(torch.softmax, dim=1)
    graphs = {
        name: Graph(Windows(learner, network), {"image": example}, ["output"], activation)
        for name, network in zip(names, trained.networks, strict=True)
    }
    programs = {"runner.py": "segmentation.py", "scans.py": "scans.py"}
    if plan["lungs"] is not None:
        programs["lungs.py"] = "lungs.py"
    return Portable(graphs, plan, programs)


def _crop(prepare: Prepare) -> dict[str, Any]:
    crop: Crop = prepare.crop
    return {
        # The runner reads masks of lungs and thoracic region; a program of its own finds them.
        "to": "region" if crop.to == "lungs" else crop.to,
        "values": prepare.region.values if prepare.region is not None else None,
        "margin_mm": crop.margin_mm,
        "outside": OUTSIDE[crop.outside],
    }


def _lungs(prepare: Prepare) -> dict[str, Any] | None:
    """What lungs.py needs to find the region; None: it is not needed, or from a file."""
    if prepare.lung_mask is None or prepare.crop.to not in ("region", "lungs"):
        return None
    found = prepare.lung_mask
    limits = {"air_hu": found.air_hu, "closing_mm": found.closing_mm, "implausible": found.implausible}
    return {**limits, "mask": prepare.crop.to}


def _intensity(one: Intensity) -> tuple[Any, Any]:
    """Limits, and mean and standard deviation, or how these are computed."""
    if one.scale == "window":
        assert isinstance(one.clip, tuple)
        low, high = one.clip
        return one.clip, ((low + high) / 2, (high - low) / 2)
    return one.clip, one.scale


def _bell(n: int, weighting: str) -> list[float]:
    """Weights along an axis of a window; their product weighs a voxel."""
    if weighting == "constant":
        return [1.0] * n
    return [math.exp(-(((place - (n - 1) / 2) / (n / 8)) ** 2) / 2) for place in range(n)]


def _values(targets: Targets) -> Sequence[Any]:
    """The value of each output in label maps; of regions, the largest first, with the outputs it needs."""
    values = [*targets.classes.values()]
    return [(values[number - 1], rows) for number, rows in targets.nested] if targets.regions else values


def _step(step: Step, targets: Targets) -> dict[str, Any]:
    each = [
        {"values": values, "value": targets.value(name), "without": targets.without(name)}
        for name, values in targets.values.items()
    ]
    if isinstance(step, dict):
        return {"name": "remove_below_ml", "ml": step["remove_below_ml"], "targets": each}
    if step == "largest_foreground":
        each = [{"values": [*targets.classes.values()], "value": 0, "without": 0}]
    return {"name": step, "targets": each}
