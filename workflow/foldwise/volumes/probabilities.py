"""Probabilities in 255 steps, and the labels that follow from them, on any device of torch."""

from __future__ import annotations

import torch

from foldwise.volumes.targets import Targets


def quantise(steps: torch.Tensor, together: bool) -> torch.Tensor:
    """Probabilities (names, …) in 255 steps, uint8.

    Args:
        steps: 0 to 255.
        together: whether they sum to 255 with the background's. Rounding errors of many classes can add up to
            more than a step, and the background is what the classes leave; there they are carried from class
            to class.
    """
    quantised = steps.round().to(torch.uint8)
    if together and len(steps) > 1:
        off = (quantised.sum(0, dtype=torch.float32) - steps.sum(0)).abs_() > 1
        if off.any():
            sums = steps[:, off].cumsum(0).round_()
            quantised[:, off] = sums.diff(dim=0, prepend=torch.zeros_like(sums[:1])).to(torch.uint8)
    return quantised


def decode(steps: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Class numbers of the most probable labels, as `Targets.decode`, but on the device of the probabilities.

    Args:
        steps: (names, x, y, z), 0 to 255, without background.
        targets: the names.
    """
    if targets.regions:
        labels = torch.zeros(steps.shape[1:], dtype=torch.int32, device=steps.device)
        for number, rows in targets.nested:
            labels[(steps[rows] > 127.5).all(0)] = number
        return labels
    best, row = steps.max(0)
    background = 255 - steps.sum(0, dtype=torch.float32)
    return (1 + row).mul_(best > background)
