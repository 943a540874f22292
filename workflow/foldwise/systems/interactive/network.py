"""Both networks of an interactive model, and their training losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from foldwise.networks.hints import HintNetwork
from foldwise.networks.memory import MemoryNetwork, aggregate
from foldwise.systems.interactive.hints import CHANNELS
from foldwise.systems.interactive.kinds import Loss, Mode
from foldwise.systems.interactive.losses import cross_entropy, lovasz_softmax, pyramid_loss, soft_iou


class InteractiveNetwork(nn.Module):
    """A hint network that segments one slice, and a memory network that propagates the mask to the others."""

    def __init__(
        self, trunk: str, channels: int, *, keys: int, values: int, width: int, hint_width: int
    ) -> None:
        """Build both with random weights.

        Args:
            trunk: name of a ResNet.
            channels: of the image.
            keys: channels of a memory's keys.
            values: channels of a memory's values.
            width: channels of the memory network's decoder.
            hint_width: channels of the hint network's pyramid.
        """
        super().__init__()
        self.memory = MemoryNetwork(trunk, channels, keys, values, width)
        self.hint = HintNetwork(trunk, channels, CHANNELS, hint_width)
        self.hint_inputs = channels + CHANNELS

    @property
    def trunks(self) -> list[nn.Module]:
        """The modules that a ResNet's weights fit."""
        memory = self.memory
        return [memory.memory_trunk, memory.query_trunk, self.hint.trunk, memory.quality_head]

    def forward(
        self, batch: dict[str, torch.Tensor], objects: int, mode: Mode, threshold: float, loss: Loss
    ) -> dict[str, torch.Tensor]:
        """The losses of a training batch."""
        parts = propagation_loss(self.memory, batch["image"], batch["mask"], objects, mode, threshold, loss)
        hint = pyramid_loss(self.hint(batch["hint_input"]), batch["hint_target"])
        total = parts["propagation_loss"] + parts["quality_loss"] + hint
        return {"loss": total, **parts, "hint_loss": hint}


def propagation_loss(
    network: MemoryNetwork,
    image: torch.Tensor,
    mask: torch.Tensor,
    objects: int,
    mode: Mode,
    threshold: float,
    loss: Loss,
) -> dict[str, torch.Tensor]:
    """Segment the slices of each sample one after the other, each from the memory of all before it.

    The reference is memorised with its truth. A later slice is memorised with its truth (mode `mask`), with
    its own soft prediction (`recurrent`), or with its prediction where that has a soft IoU above the
    threshold and its truth elsewhere (`threshold`).

    Args:
        network: in training.
        image: (B, T, C, H, W), the reference first.
        mask: (B, T, H, W) object numbers.
        objects: number of objects.
        mode: what is stored in memory.
        threshold: threshold of the mode `threshold`.
        loss: cross entropy, Lovász-softmax, or their sum.

    Returns:
        propagation_loss and quality_loss: means over the samples and the slices after the reference.
    """
    truth = _apart(mask, objects)
    frames = image.shape[1]
    queries = network.encode(image[:, 1:].flatten(0, 1))
    keys, values = network.memorise(image[:, 0], truth[:, 0])
    parts, errors = [], []
    for step in range(1, frames):
        query = queries[step - 1 :: frames - 1]
        probabilities = aggregate(network.segment(query, keys, values)).softmax(1)
        target = mask[:, step]
        parts.append(_overlap_loss(probabilities, target, loss))
        iou = soft_iou(probabilities[:, 1:], truth[:, step]).detach()
        # Cross entropy has its minimum where the squared error has, at the mean IoU, but no flat ends.
        predicted = network.quality(query, probabilities.detach())
        errors.append(F.binary_cross_entropy_with_logits(predicted, iou))
        if step < frames - 1:
            kept = _memorised(probabilities[:, 1:], truth[:, step], iou, mode, threshold)
            key, value = network.memorise(image[:, step], kept)
            keys, values = torch.cat([keys, key], 3), torch.cat([values, value], 3)
    return {
        "propagation_loss": torch.stack(parts).mean(),
        "quality_loss": torch.stack(errors).mean(),
    }


def _apart(mask: torch.Tensor, objects: int) -> torch.Tensor:
    """Object numbers (B, T, H, W) as masks (B, T, K, H, W)."""
    numbers = torch.arange(1, objects + 1, device=mask.device)[:, None, None]
    return (mask[:, :, None] == numbers).float()


def _overlap_loss(probabilities: torch.Tensor, target: torch.Tensor, loss: Loss) -> torch.Tensor:
    total = torch.zeros((), device=probabilities.device)
    if loss in ("ce", "both"):
        total = total + cross_entropy(probabilities, target)
    if loss in ("iou", "both"):
        total = total + lovasz_softmax(probabilities, target)
    return total


def _memorised(
    found: torch.Tensor, truth: torch.Tensor, iou: torch.Tensor, mode: Mode, threshold: float
) -> torch.Tensor:
    if mode == "mask":
        return truth
    if mode == "recurrent":
        return found
    return torch.where((iou > threshold)[:, :, None, None], found, truth)
