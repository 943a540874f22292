"""Networks that learned nothing, and files of tiny segmentation models as the train stage writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foldwise.settings import dump, validate
from foldwise.systems.segmentation.inference import Scan
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.settings import Model
from foldwise.volumes.settings import Cache, Prepare

SETTINGS = {"network": {"name": "UNet", "channels": [4, 8], "strides": [2]}, "patch": [16, 16, 16]}


class Fixed(nn.Module):
    """Returns the same outputs for any input."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        return self.outputs[0] if len(self.outputs) == 1 else list(self.outputs)


def write_untrained(path: Path, task: Mapping[str, Any], /, fold: int = 0, **changed: Any) -> Path:
    """Write a model's file; each fold has its own random weights."""
    model = validate(Model, SETTINGS)
    torch.manual_seed(fold)
    state = {
        "network": SegmentationLearner(model, dict(task)).network().state_dict(),
        "settings": dump(model),
        "system": "segmentation",
        "task": dict(task),
        "prepared": {"prepare": dump(Prepare()), "cache": dump(Cache())},
        "fold": fold,
        "learnt": [],
    }
    torch.save(state | changed, path)
    return path


@torch.no_grad()
def shares(learner: SegmentationLearner, network: nn.Module, cache: str) -> torch.Tensor:
    """A network's probabilities (names, x, y, z) of a case, as they are before they are rounded."""
    scan = learner.read(cache)
    found = torch.full((len(learner.targets.names), *scan.image.shape[1:]), torch.nan)
    for where, part in learner.inference.shares(network, scan, torch.device("cpu")):
        assert found[:, *where].isnan().all(), "each voxel is predicted once"
        found[:, *where] = part
    return found


def noted_predictions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the name of every case is added that is predicted from now on."""
    seen: list[str] = []
    infer = SegmentationLearner.infer

    def counted(self: SegmentationLearner, networks: Any, case: Scan) -> Any:
        seen.append(case.case)
        return infer(self, networks, case)

    monkeypatch.setattr(SegmentationLearner, "infer", counted)
    return seen
