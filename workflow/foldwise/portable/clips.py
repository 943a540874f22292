"""Classes of clips as ONNX: networks from clips to logits, with the frozen CLIP that they may contain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from foldwise.evaluate import Trained
from foldwise.files import CaseError
from foldwise.portable.onnx import Graph, Portable
from foldwise.settings import validate
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.settings import Cache


class Whole(nn.Module):
    """From clips (batch, 3, T, size, size) to logits (batch, classes), with what a network keeps frozen."""

    def __init__(self, network: nn.Module) -> None:
        """Take a trained network; what it keeps outside of its weights becomes a part of this one."""
        super().__init__()
        self.network = network
        frozen = [getattr(part, "model", part) for part in getattr(network, "_frozen", ())]
        self.frozen = nn.ModuleList(part.cpu() for part in frozen)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """The logits."""
        logits: torch.Tensor = self.network(clips)
        return logits


def portable(trained: Trained, chosen: Mapping[str, Any]) -> Portable:
    """What is exported of a model.

    Raises:
        CaseError: the model's file does not say how a clip is prepared, or it takes regions, which need the
            networks and methods with which Foldwise finds them.
    """
    learner, prepared = trained.learner, trained.states[0].get("prepared")
    assert isinstance(learner, ClipsLearner)
    if not prepared:
        raise CaseError("the model's file does not say how a clip is prepared for it; train it again")
    model, cache = learner.model, validate(Cache, prepared["cache"], origin="model")
    if model.input != "whole":
        raise CaseError(
            f"input {model.input}: its regions are found by Foldwise alone; it cannot be exported"
        )
    clip = model.clip
    shape = 2, 3, clip.frames, clip.size, clip.size
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    names = [f"fold{number}.onnx" for number in range(len(trained.networks))]
    graphs = {
        name: Graph(Whole(network), {"clips": clips}, ["logits"], partial(torch.softmax, dim=1))
        for name, network in zip(names, trained.networks, strict=True)
    }
    plan = {
        "system": "clips",
        "networks": names,
        "fps": cache.fps,
        "shorter": cache.size,
        "interpolation": cache.interpolation,
        # Foldwise keeps frames as JPEG unless its cache is raw, which changes probabilities a little.
        "encoding": cache.encoding,
        "frames": clip.frames,
        "every": clip.every,
        "size": clip.size,
        "mean": model.normalisation[0],
        "std": model.normalisation[1],
        "spatial_views": clip.spatial_views,
        "temporal_views": clip.temporal_views,
        "classes": learner.classes,
    }
    return Portable(graphs, plan, {"runner.py": "clips.py", "frames.py": "frames.py"})
