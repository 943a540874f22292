"""EfficientNet-Lite0, a backbone that trains on a CPU: ReLU6, no squeeze-and-excitation.

Tan and Le, EfficientNet, ICML 2019; the Lite variants are from TensorFlow's repository. Padding is symmetric.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

# Expansion, output channels, blocks, stride and kernel of each stage.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, HEAD = 32, 1280


class EfficientNetLite0(nn.Module):
    """The classifier; images (N, 3, height, width) to logits (N, num_classes)."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        """Build the layers.

        Args:
            num_classes: number of classes of the last layer.
            dropout: dropout before it.
        """
        super().__init__()
        width, blocks = STEM, []
        for expansion, channels, count, stride, kernel in STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, expansion, kernel, 1 if number else stride))
                width = channels
        self.features = nn.Sequential(_conv(3, STEM, 3, 2), *blocks, _conv(width, HEAD, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(HEAD, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


class _Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, width: int, channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = expansion * width
        parts = [_conv(width, wide, 1)] if expansion > 1 else []
        parts += [_conv(wide, wide, kernel, stride, wide), _conv(wide, channels, 1, active=False)]
        self.layers = nn.Sequential(*parts)
        self.residual = stride == 1 and width == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = self.layers(x)
        return x + change if self.residual else change


def _conv(
    width: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Module:
    return Conv2dNormActivation(
        width,
        channels,
        kernel,
        stride,
        groups=groups,
        norm_layer=lambda n: nn.BatchNorm2d(n, eps=1e-3, momentum=0.01),
        activation_layer=nn.ReLU6 if active else None,
    )
