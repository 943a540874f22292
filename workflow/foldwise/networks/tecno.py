"""A multi-stage temporal convolutional network over frame features, causal or not.

Czempiel et al., TeCNO: Surgical phase recognition with multi-stage temporal convolutional networks, MICCAI
2020; the stages are those of Farha and Gall, MS-TCN, CVPR 2019, with convolutions that see only the past
(online), or as many frames of the past as of the future (offline).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from foldwise.networks.temporal import Mode


class TeCNO(nn.Module):
    """Phases of a whole video: the first stage sees its features, each later one the last output."""

    def __init__(
        self,
        width: int,
        phases: int,
        *,
        stages: int = 2,
        layers: int = 8,
        channels: int = 32,
        dropout: float = 0.5,
        mode: Mode = "online",
    ) -> None:
        """Build the stages.

        Args:
            width: features of a frame.
            phases: number of phases.
            stages: number of stages, each refining the previous one.
            layers: layers of a stage; layer i looks back 2 · 2^i frames; offline, 2^i to each side.
            channels: channels of a stage.
            dropout: dropout of a layer.
            mode: online: outputs depend only on earlier frames; offline: on the whole video.
        """
        super().__init__()
        widths = [width] + [phases] * (stages - 1)
        self.stages = nn.ModuleList(_Stage(n, phases, layers, channels, dropout, mode) for n in widths)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (stages, B, n, phases) of features (B, n, width); the last stage's are the result."""
        outputs = [self.stages[0](features.transpose(1, 2))]
        for stage in self.stages[1:]:
            outputs.append(stage(outputs[-1].softmax(1)))
        return torch.stack(outputs).transpose(2, 3)


class _Stage(nn.Module):
    def __init__(
        self, width: int, phases: int, layers: int, channels: int, dropout: float, mode: Mode
    ) -> None:
        super().__init__()
        self.enter = nn.Conv1d(width, channels, 1)
        self.layers = nn.ModuleList(_Layer(channels, 2**i, dropout, mode) for i in range(layers))
        self.leave = nn.Conv1d(channels, phases, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        return self.leave(x)


class _Layer(nn.Module):
    """A dilated convolution of kernel 3 with a residual."""

    def __init__(self, channels: int, dilation: int, dropout: float, mode: Mode) -> None:
        super().__init__()
        self.padding = (2 * dilation, 0) if mode == "online" else (dilation, dilation)
        self.dilated = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = self.mix(F.relu(self.dilated(F.pad(x, self.padding))))
        return x + self.dropout(change)
