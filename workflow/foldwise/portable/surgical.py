"""Surgical phases and tools as ONNX: a backbone for frames, and a head for windows or videos of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from foldwise.evaluate import Trained
from foldwise.files import CaseError
from foldwise.networks.encoded import FrozenTrunk, Traced
from foldwise.portable.onnx import Graph, Portable
from foldwise.settings import validate
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.settings import Cache, Data
from foldwise.video.encoders import takes_clips
from foldwise.video.gaps import MOST_HELD, MOST_PLACES


class Head(nn.Module):
    """From features (batch, n, width) to the logits of all branches, each (batch, n, …)."""

    def __init__(self, head: nn.Module, outputs: list[str]) -> None:
        """Take a trained head, and the names of its branches; without names, it is a temporal network."""
        super().__init__()
        self.head, self.outputs = head, outputs

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The logits in the order of the names; of a temporal network, those of the last stage."""
        if not self.outputs:
            return (self.head(features)[-1],)
        found = self.head(features)
        return tuple(found[name] for name in self.outputs)


def portable(trained: Trained, chosen: Mapping[str, Any]) -> Portable:
    """What is exported of a model; the threshold of the tools is from the choice, else one half.

    Raises:
        CaseError: the model's file does not say how a video is prepared.
    """
    learner, prepared = trained.learner, trained.states[0].get("prepared")
    assert isinstance(learner, SurgicalLearner)
    if not prepared:
        raise CaseError("the model's file does not say how a video is prepared for it; train it again")
    cache, model = validate(Cache, prepared["cache"], origin="model"), learner.model
    data = validate(Data, prepared["data"], origin="model")
    if model.encoder is not None and takes_clips(model.encoder):
        raise CaseError(
            f"encoder {model.encoder.name} takes clips, which the runner does not cut; use the packed model"
        )
    if model.kind == "temporal" and model.head.plain == "DiagonalSSM":
        raise CaseError("DiagonalSSM computes with complex numbers, which ONNX lacks; use the packed model")
    random = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 3, *model.crop, generator=random)
    graphs, outputs = {}, ["phase"]
    for number, network in enumerate(trained.networks):
        network.cpu().eval()
        trunk, head = network.get_submodule("trunk"), network.get_submodule("head")
        if isinstance(trunk, FrozenTrunk):
            trunk = Traced(trunk.encoder)
        with torch.no_grad():
            width = trunk(frames).shape[1]
        features = torch.randn(2, 4, width, generator=random)
        if model.kind != "temporal":
            with torch.no_grad():
                outputs = list(head(features))
        graphs[f"fold{number}_frames.onnx"] = Graph(trunk, {"frames": frames}, ["features"])
        whole = Head(head, [] if model.kind == "temporal" else outputs)
        named = {"features": features}
        graphs[f"fold{number}_video.onnx"] = Graph(whole, named, outputs, torch.sigmoid, free=(0, 1))
    names = [*graphs]
    rates = [rate for rate in (cache.fps, data.images_fps) if rate is not None]
    if not rates and cache.longest_step is not None:
        raise CaseError(
            "cache.fps: null keeps every frame of a video, so nothing says how many images per second the "
            "runner gets, and cache.longest_step is in seconds; set one of them to train a model for export"
        )
    images_fps = min(rates, default=1.0)
    plan = {
        "system": "surgical",
        "networks": [names[first : first + 2] for first in range(0, len(names), 2)],
        "outputs": outputs,
        "fps": cache.fps,
        # Images per second of their numbers, if the runner is given all of them.
        "images_fps": images_fps,
        # The image at time 0, if images are numbered as in training; null: the first one.
        "first_image": data.first_image if data.images_fps == images_fps else None,
        "longest_step": cache.longest_step,
        "grid": {"longest_gap": MOST_HELD, "places": MOST_PLACES},
        "cut_border": cache.cut_border,
        "size": cache.size,
        "interpolation": cache.interpolation,
        # Foldwise keeps frames as JPEG unless its cache is raw, which changes probabilities a little.
        "encoding": cache.encoding,
        "crop": model.crop,
        "mean": model.normalisation[0],
        "std": model.normalisation[1],
        "batch": model.batch_frames,
        "mode": model.mode,
        "window": None if model.kind == "temporal" else model.window,
        "phases": learner.phases,
        "tools": learner.tools,
        "threshold": chosen.get("threshold", 0.5),
    }
    return Portable(graphs, plan, {"runner.py": "surgical.py", "frames.py": "frames.py"})
