"""A network that turns hints on one slice into a mask: coarse pyramid predictions, then a fine one.

As in Zhang et al. 2020 (IOG, CVPR) and Maninis et al. 2018 (DEXTR, arXiv:1711.09081): hints are additional
input channels, the coarse network predicts at every level of a feature pyramid with a pooling module on top,
and the fine network joins all levels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from foldwise.networks.resnets import Trunk

BINS = (1, 2, 3, 6)


class HintNetwork(nn.Module):
    """(batch, image and hint channels, H, W) to five maps of logits, the finest last."""

    def __init__(self, trunk: str, channels: int, hints: int, width: int) -> None:
        """Build a network with random weights.

        Args:
            trunk: name of a ResNet.
            channels: of the image.
            hints: channels of hints.
            width: channels of the pyramid.
        """
        super().__init__()
        self.trunk = Trunk(trunk, channels + hints, stages=4)
        *finer, coarse = self.trunk.channels
        self.pooling = Pooling(coarse, width)
        self.laterals = nn.ModuleList(nn.Conv2d(n, width, 1) for n in finer)
        self.smooths = nn.ModuleList(_convolution(width, width) for _ in finer)
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(4))
        # The coarser a level, the more blocks it passes before the levels are joined.
        self.fine = nn.ModuleList(nn.Sequential(*(Bottleneck(width) for _ in range(3 - n))) for n in range(4))
        self.join = nn.Sequential(_convolution(4 * width, width), Bottleneck(width))
        self.fine_head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 5, H, W): four coarse predictions, then the one to use."""
        size = inputs.shape[2:]
        *finer, coarse = self.trunk(inputs)
        level = self.pooling(coarse)
        levels = [level]
        for lateral, smooth, part in zip(
            reversed(self.laterals), reversed(self.smooths), reversed(finer), strict=True
        ):
            level = smooth(lateral(part) + _resize(level, part.shape[2:]))
            levels.append(level)
        predictions = [
            _resize(head(part), size) for head, part in zip(self.coarse_heads, levels, strict=True)
        ]
        finest = levels[-1].shape[2:]
        joined = [_resize(stack(part), finest) for stack, part in zip(self.fine, levels, strict=True)]
        predictions.append(_resize(self.fine_head(self.join(torch.cat(joined, 1))), size))
        return torch.cat(predictions, 1)


class Pooling(nn.Module):
    """Pyramid pooling (Zhao et al. 2017, arXiv:1612.01105)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(channels, width // 4, 1)) for bins in BINS
        )
        self.join = _convolution(channels + len(BINS) * (width // 4), width)

    def forward(self, here: torch.Tensor) -> torch.Tensor:
        """(batch, channels, h, w) to (batch, width, h, w)."""
        pooled = [_resize(part(here), here.shape[2:]) for part in self.parts]
        joined: torch.Tensor = self.join(torch.cat([here, *pooled], 1))
        return joined


class Bottleneck(nn.Module):
    """A residual block: reduce to half the channels, convolve 3 × 3, and expand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, width // 2, width // 2, width]
        kernels = [1, 3, 1]
        layers: list[nn.Module] = []
        for (inputs, outputs), kernel in zip(pairwise(sizes), kernels, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, here: torch.Tensor) -> torch.Tensor:
        """(batch, width, h, w) to the same shape."""
        return F.relu(here + self.layers(here))


def _convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _resize(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
