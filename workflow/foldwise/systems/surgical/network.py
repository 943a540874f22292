"""The networks of surgical models: a backbone or an encoder, and a head on its features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foldwise.networks import build, build_head
from foldwise.networks.encoded import FrozenTrunk
from foldwise.networks.mtrcnet import MTRCNet, take_head
from foldwise.systems.surgical.encoding import encoder_for
from foldwise.systems.surgical.settings import Model


class Network(nn.Module):
    """A backbone, and a head that turns its features into phases and tools."""

    def __init__(self, trunk: nn.Module, head: nn.Module, frozen: bool = False) -> None:
        """Join both.

        Args:
            trunk: frames (N, 3, height, width) to features.
            head: features to logits; a temporal network takes whole videos.
            frozen: the trunk never learns.
        """
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.frozen = frozen
        # The step of the schedule that was trained last.
        self.register_buffer("step", torch.tensor(1))

    def forward(self, x: torch.Tensor, step: int = 1) -> Any:
        """Logits of windows of frames (B, S, 3, height, width), or of features (B, n, width).

        If the trunk does not learn (frozen, or in the second step), its running statistics also stay.
        """
        if x.ndim == 5:
            if self.training:
                self.get_buffer("step").fill_(step)
            still = self.frozen or step == 2
            if still:
                self.trunk.eval()
            with torch.set_grad_enabled(torch.is_grad_enabled() and not still):
                x = self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(x, step) if isinstance(self.head, MTRCNet) else self.head(x)


def build_network(model: Model, phases: int, tools: int) -> Network:
    """The network of a model, on torch's default device.

    Args:
        model: its settings.
        phases: number of phases.
        tools: number of tools.

    Raises:
        CaseError: an unknown class, wrong arguments, or an encoder that cannot be loaded.
    """
    trunk: nn.Module
    if model.encoder is not None:
        encoder = encoder_for(model)
        trunk, width = FrozenTrunk(encoder), encoder.width
    else:
        # MONAI's networks require these; the number of outputs is irrelevant: the last layer is removed.
        frames = {"spatial_dims": 2, "in_channels": 3, "n_input_channels": 3, "out_channels": 1000}
        trunk, width = take_head(build("frame network", model.backbone, **frames))
    if model.kind == "temporal":
        head = build_head("temporal network", model.head, (1, 2, width), width, phases, mode=model.mode)
        return Network(trunk, head, frozen=True)
    head = MTRCNet(width, phases=phases, tools=tools, hidden=model.hidden, mapping=model.kind == "mtrcnet_cl")
    return Network(trunk, head, frozen=model.backbone_lr == 0)
