"""A 2-D network for every frame of a clip, its outputs averaged (segment consensus, Wang et al. 2016)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import build
from foldwise.settings import Named


class FrameAverage(nn.Module):
    """Logits of a clip as the mean of its frames' logits."""

    def __init__(self, network: dict[str, Any], num_classes: int) -> None:
        """Build the network of the frames.

        Args:
            network: `name` and arguments of a network in torchvision.models or monai.networks.nets, looked up
                in this order; classes, dimensions and channels are filled in.
            num_classes: outputs.

        Raises:
            CaseError: unknown network.
        """
        super().__init__()
        if not isinstance(network, dict) or "name" not in network:
            raise CaseError("FrameAverage needs `network: {name: …}`, a 2-D network for each frame")
        named = Named.model_validate(network)
        self.frame = build(
            "frame network",
            named,
            spatial_dims=2,
            in_channels=3,
            n_input_channels=3,
            out_channels=num_classes,
            num_classes=num_classes,
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of clips (batch, 3, T, height, width)."""
        frames = clips.transpose(1, 2)
        logits = self.frame(frames.flatten(0, 1))
        return cast("torch.Tensor", logits.unflatten(0, frames.shape[:2]).mean(1))
