"""A gated recurrent network over frame features (Cho et al. 2014)."""

from __future__ import annotations

import torch
from torch import nn

from foldwise.networks.temporal import Mode


class GRU(nn.Module):
    """Classes of a whole video's frames; online forward in time, offline in both directions."""

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.2,
        mode: Mode = "online",
    ) -> None:
        """Build the layers.

        Args:
            width: features of a frame.
            classes: number of classes.
            hidden: state of a layer, in each direction.
            layers: number of layers.
            dropout: after each layer.
            mode: see `foldwise.networks.temporal`.
        """
        super().__init__()
        both = mode == "offline"
        self.norm = nn.LayerNorm(width)
        self.recurrence = nn.GRU(
            width,
            hidden,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=both,
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden * (1 + both), classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (1, B, n, classes) of features (B, n, width)."""
        states, _ = self.recurrence(self.norm(features))
        return self.head(states)[None]
