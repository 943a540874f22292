"""An attentive probe: the plain baseline on a frozen encoder (Yu et al. 2022; V-JEPA, Bardes et al. 2024)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from foldwise.networks.evl import DecoderLayer


class AttentiveProbe(nn.Module):
    """Classes of a clip from one learned query that attends to the tokens of all its frames.

    It sees the order of frames only as far as the encoder's tokens contain it: not at all with an encoder of
    single frames.
    """

    def __init__(
        self, width: int, num_classes: int, *, channels: int = 256, heads: int = 8, dropout: float = 0.2
    ) -> None:
        """Build the layer.

        Args:
            width: channels of a token.
            num_classes: outputs.
            channels: to which tokens are reduced.
            heads: of the attention.
            dropout: in the MLP and before the last layer.
        """
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.query = nn.Parameter(torch.empty(1, 1, channels).normal_(std=0.02))
        self.layer = DecoderLayer(channels, heads, dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(channels), nn.Dropout(dropout), nn.Linear(channels, num_classes)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of tokens (batch, …, width), e.g. (batch, T, P, width)."""
        memory = self.enter(tokens.to(self.query.dtype).flatten(1, -2))
        query = self.layer(self.query.expand(len(tokens), -1, -1), memory)
        return cast("torch.Tensor", self.head(query[:, 0]))
