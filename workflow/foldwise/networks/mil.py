"""Attention-based multiple-instance learning (Ilse, Tomczak and Welling 2018, arXiv 1802.04712)."""

from __future__ import annotations

import torch
from torch import nn


class AttentionMIL(nn.Module):
    """Classes of a patient from a bag of clips; learned gated attention says how much each clip counts.

    A clip's vector is the mean of its tokens, normalised. The classifier is linear, so the logits of a bag
    are the clips' own logits, weighted by their attention.
    """

    def __init__(self, width: int, num_classes: int, *, hidden: int = 128, dropout: float = 0.2) -> None:
        """Build the layers.

        Args:
            width: channels of a token.
            num_classes: outputs.
            hidden: channels of the attention.
            dropout: of a clip's vector.
        """
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout))
        self.value, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.attention = nn.Linear(hidden, 1, bias=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: torch.Tensor, *, apart: bool = False) -> torch.Tensor:
        """Logits (batch, classes) of bags; a clip by itself is a bag of one.

        Args:
            tokens: (batch, clips, width), the mean tokens of each bag's clips; or (batch, 1, T, P, width),
                the tokens of a clip each.
            apart: return (batch, clips, 1 + classes): the attention of each clip before the soft-max over
                the bag, and its own logits.
        """
        tokens = tokens.to(self.head.weight.dtype)
        clips = self.enter(tokens if tokens.ndim == 3 else tokens.flatten(2, -2).mean(2))
        attention = self.attention(self.value(clips).tanh() * self.gate(clips).sigmoid())
        if apart:
            return torch.cat([attention, self.head(clips)], dim=-1)
        logits: torch.Tensor = self.head((attention.softmax(1) * clips).sum(1))
        return logits
