"""The first line of a training's log; that it is the first one is seen in test_device.py."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from foldwise.forecast import Step
from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.training.learner import Learner
from foldwise.training.opening import _gib, opening, parameter_counts
from foldwise.volumes.targets import Targets
from synthetic import task

VOLUMES = task(Targets({"ball": 1}), channels=2)
SURGICAL = {"phases": ["a", "b"], "tools": ["x"]}
CLIPS = {"classes": ["a", "b"]}
TRAINING = {"batch": 3, "accumulate": 2, "steps_per_epoch": 1}


def learner(system: str, task: dict[str, Any], **values: Any) -> Learner[Any]:
    kind = system_of(system)
    model = validate(kind.model, {"training": TRAINING, **values})
    made: Learner[Any] = kind.learner(model, task)
    return made


def line(of: Learner[Any]) -> str:
    network = of.network()
    optimiser = torch.optim.SGD(of.parameters(network), 0.1)
    fabric: Any = SimpleNamespace(device=torch.device("cpu"))
    return opening(of, of.model.training, network, optimiser, fabric, 0)


def test_what_learns_is_counted_once() -> None:
    # 3 · 4 + 4, and 4 · 2 + 2
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    network.add_module("again", network[0])
    assert parameter_counts(network, torch.optim.SGD(network[1].parameters(), 1)) == (26, 10)
    network[1].bias.requires_grad_(False)
    assert parameter_counts(network, torch.optim.SGD(network.parameters(), 1)) == (26, 24)


@pytest.mark.parametrize(
    ("system", "task", "values", "sample"),
    [
        (
            "segmentation",
            VOLUMES,
            {"network": {"name": "BasicUNet", "features": [4] * 6}, "patch": [32, 48, 16]},
            "patch of 32×48×16 voxels, channels: 2",
        ),
        (
            "segmentation",
            VOLUMES,
            {
                "network": {"name": "BasicUNet", "features": [4] * 6},
                **{"dimensions": "2.5d", "slices": 3, "patch": [32, 48, 3]},
            },
            "slice of 32×48 pixels, channels: 6",
        ),
        (
            "clips",
            CLIPS,
            {
                "network": {"name": "FrameAverage", "network": {"name": "resnet18"}},
                "clip": {"frames": 4, "size": 32},
            },
            "clip of 4 frames of 32×32 pixels",
        ),
        (
            "surgical",
            SURGICAL,
            {"kind": "mtrcnet", "backbone": {"name": "resnet18"}, "crop": [32, 48], "window": 5},
            "window of 5 frames of 48×32 pixels",
        ),
        (
            "interactive",
            VOLUMES,
            {"size": 32, "trunk": {"name": "resnet18"}, "frames": {"count": 3}},
            "3 slices of 32×32 pixels, channels: 2",
        ),
    ],
)
def test_every_system_tells_its_batch(
    system: str, task: dict[str, Any], values: dict[str, Any], sample: str
) -> None:
    found = line(learner(system, task, **values))
    pattern = (
        rf"device: CPU, \d+ threads, precision 32-true; \S+( M)? parameters, all learnt; "
        rf"batch: 2 × 3 × {sample}; a step needs about \d+\.\d GiB"
    )
    assert re.fullmatch(pattern, found), found


def test_where_most_never_learns_no_memory_is_promised() -> None:
    frozen = learner("surgical", SURGICAL, kind="mtrcnet", backbone={"name": "resnet50"}, backbone_lr=0)
    found = line(frozen)
    assert "of them learnt" in found
    assert "needs" not in found


def test_each_gpu_has_its_share_of_the_batch() -> None:
    step = Step(weights=2**26, kept=2**32, largest=2**30, forward=0)
    # 16 bytes a weight are 1 GiB; kept 4 GiB and three times the largest, 3 GiB; 0.7 for the driver.
    assert _gib(step, 1, 4, "32-true") == pytest.approx(8.7)
    assert _gib(step, 2, 4, "32-true") == pytest.approx(1 + 3.5 + 0.7)
    assert _gib(step, 1, 4, "16-mixed") == pytest.approx(1 + 0.55 * 7 + 0.7)


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="Fake", total_memory=16384 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr("foldwise.device.driver", lambda: "999.1")
    small = learner(
        "segmentation", VOLUMES, network={"name": "BasicUNet", "features": [4] * 6}, patch=[32, 32, 32]
    )
    fabric: Any = SimpleNamespace(device=torch.device("cuda", 0))
    network = small.network()
    found = opening(small, small.model.training, network, torch.optim.SGD(network.parameters(), 1), fabric, 0)
    assert found.startswith("device: Fake, 16384 MiB, driver 999.1, precision 16-mixed; ")
    assert re.search(r"a step needs about 0\.\d GiB of GPU memory$", found)
