"""The three steps in which mtrcnet_cl learns."""

from __future__ import annotations

import torch

from foldwise.systems.surgical.settings import Model
from foldwise.video.windows import Windows


class Scheduled:
    """Windows with the step of the schedule in which they are used, a function of their number."""

    def __init__(self, windows: Windows, model: Model) -> None:
        self.windows, self.model = windows, model

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {**self.windows[number], "step": torch.tensor(schedule_step(self.model, number))}


def schedule_step(model: Model, number: int) -> int:
    """The step of the schedule to which a training item belongs: 1, and for mtrcnet_cl then 2 and 3."""
    if model.kind != "mtrcnet_cl":
        return 1
    training = model.training
    assert training.steps_per_epoch is not None, "`fitted` sets steps_per_epoch"
    epoch = number // (training.batch * training.accumulate * training.steps_per_epoch)
    # Each step has at least one epoch.
    first = min(max(1, round(model.steps[0] * training.epochs)), training.epochs - 2)
    second = min(max(1, round(model.steps[1] * training.epochs)), training.epochs - first - 1)
    return 1 + (epoch >= first) + (epoch >= first + second)
