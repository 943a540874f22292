"""Scans, sessions and networks with known answers, for the interactive system's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from foldwise.networks.memory import Query
from foldwise.settings import validate
from foldwise.systems.interactive import model as models
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.engines import trained as opened
from foldwise.systems.interactive.engines.memory import MemoryEngine
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.objects import Object, named
from foldwise.systems.interactive.settings import Model
from foldwise.volumes.settings import Cache, Prepare
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume
from synthetic import ball

SIZE = 32
BRIGHT = 200
BALL = Targets({"ball": 1})
EXPERIMENT: dict[str, Any] = {
    "experiment": "balls",
    "system": "interactive",
    "data": {"sheet": "cases.csv", "labels": {"ball": 5}},
    "split": {"folds": 2},
    "models": {
        "vmn": {
            "trunk": {"name": "resnet18", "keys": 4, "values": 8, "width": 4, "hint_width": 8},
            "size": 32,
            "intensity": {"clip": "percentiles", "scale": "zscore"},
            "training": {
                "epochs": 1,
                "steps_per_epoch": 2,
                "batch": 2,
                "validate_every": 1,
                "validation": {"samples": 2},
            },
            "validation_rounds": 1,
        }
    },
    "evaluate": {"rounds": 2, "hints": ["extreme", "scribble"], "export": "scribble"},
}


class Bright(nn.Module):
    """Replaces both networks: bright voxels are the object, both from hints and in propagation.

    The memory only gates: slices are segmented if the hinted one has a mask. The quality is given by
    `quality_of` from a slice's brightness.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        # Not a separate module: it is this one.
        object.__setattr__(self, "memory", self)
        self.memorised: list[int] = []

    def hint(self, inputs: torch.Tensor) -> torch.Tensor:
        return 20 * inputs[:, :1].sign()

    def encode(self, image: torch.Tensor) -> Query:
        return Query(*[image] * 5)

    def memorise(self, image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        some = masks.amax((2, 3))[:, :, None, None, None, None]
        return some, some

    def segment(self, query: Query, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        self.memorised.append(keys.shape[3])
        origin = values[:, :, 0, 0, 0, 0][:, :, None, None]
        return torch.where(origin > 0.5, 20 * query.key.sign(), -20.0)

    def quality(self, query: Query, probabilities: torch.Tensor) -> torch.Tensor:
        said = torch.stack([quality_of(image) for image in query.key])
        return torch.logit(said)[:, None].expand(-1, probabilities.shape[1] - 1)


class Says(Bright):
    """Fixed answers on all slices: logits of bright voxels from hints and in propagation, and the quality."""

    def __init__(self, hinted: float = 20, propagated: float = 20, quality: float = 0.98) -> None:
        super().__init__()
        self.answers = hinted, propagated, quality

    def hint(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.where(inputs[:, :1] > 0, self.answers[0], -20.0)

    def segment(self, query: Any, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        objects = values.shape[1]
        return torch.where(query.key > 0, self.answers[1], -20.0).expand(-1, objects, -1, -1)

    def quality(self, query: Any, probabilities: torch.Tensor) -> torch.Tensor:
        said = torch.tensor(self.answers[2]).logit()
        return said.expand(len(probabilities), probabilities.shape[1] - 1)


def quality_of(image: torch.Tensor) -> torch.Tensor:
    """Larger slices are better: 0.5 plus half the bright share."""
    return 0.5 + (image > 0).float().mean() / 2


def write_ball(path: Path, affine: Any = None, shape: tuple[int, int, int] = (32, 32, 16)) -> np.ndarray:
    """A bright ball on a dark ground, and its mask."""
    mask = ball(shape, (15, 14, 8), 6.5)
    data = np.where(mask, BRIGHT, 0).astype(np.int16)
    write_volume(Volume(data, np.diag([1.0, 1, 2, 1]) if affine is None else affine), path)
    return mask


def settings(**more: Any) -> Model:
    values = {
        "trunk": {"name": "resnet18", "keys": 8, "values": 8, "width": 8, "hint_width": 8},
        "size": SIZE,
        "memory": {"capacity": 4},
        "intensity": {"clip": [0, BRIGHT], "scale": "window"},
        "training": {"batch": 2},
    }
    return validate(Model, {**values, **more})


def write_model(path: Path, targets: Targets | None = None, **more: Any) -> InteractiveNetwork:
    """A model's file with random weights."""
    torch.manual_seed(0)
    chosen = settings(**more)
    network = models.build_network(chosen, 1)
    state = {
        "network": network.state_dict(),
        "settings": chosen.model_dump(mode="json"),
        "system": "interactive",
        **told(targets),
    }
    torch.save(state, path)
    return network


def told(targets: Targets | None = None) -> Any:
    """The task and the preparation of scans in a model's file."""
    return {
        "task": {"targets": (targets or BALL).as_dict(), "channels": 1},
        "prepared": {
            section.__name__.lower(): section().model_dump(mode="json") for section in (Prepare, Cache)
        },
    }


def trained(network: Any, targets: Targets | None = None, **more: Any) -> models.Trained:
    """A model in memory."""
    chosen = settings(**more)
    return models.Trained(network, chosen, targets or BALL, told(targets), digest="a model")


def memory_engine(
    image: torch.Tensor,
    network: Any = None,
    capacity: int = 4,
    spacing: tuple[float, float, float] = (1, 1, 1),
) -> MemoryEngine:
    """An engine on an image (x, y, z) as it is; its network is `Bright`, or the given one."""
    used: Any = (network or Bright()).eval()
    return MemoryEngine(used, image[None], spacing, size=SIZE, capacity=capacity)


def annotation(scan: Path, folder: Path, network: Bright | None = None, **more: Any) -> Annotation:
    """A session whose network is `Bright`, or the given one."""
    model = trained((network or Bright()).eval(), **more)
    opener = opened.opener(model, [scan], folder)
    objects: list[Object] = []
    for name in model.targets.names:
        objects.append(named(name, objects, model.targets.value(name)))
    return Annotation([scan], folder, {"memory": opener}, engine="memory", objects=objects)
