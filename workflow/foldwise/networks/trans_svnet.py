"""A transformer that joins a frame's features with the recent outputs of TeCNO.

Gao et al., Trans-SVNet: Accurate phase recognition from surgical videos via hybrid embedding aggregation
transformer, MICCAI 2021. Unlike in the released code, the layer norms have weights that are learned.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from foldwise.networks.tecno import TeCNO
from foldwise.networks.temporal import Mode

# Frames whose windows are computed at once.
BLOCK = 256


class TransSVNet(nn.Module):
    """TeCNO, and one more stage: each frame queries the TeCNO outputs of a window of frames.

    The stage reads outputs of TeCNO without a gradient, so TeCNO learns as it does alone. In the paper, it is
    trained first, then kept.
    """

    def __init__(
        self,
        width: int,
        phases: int,
        *,
        window: int = 30,
        heads: int = 8,
        depth: int = 32,
        mode: Mode = "online",
        **tecno: Any,
    ) -> None:
        """Build both.

        Args:
            width: features of a frame.
            phases: number of phases.
            window: frames that a query sees: its own and those before; offline, half of them after it.
            heads: of the attention.
            depth: of a head, and width of the feed-forward layers.
            mode: see `foldwise.networks.temporal`.
            tecno: further arguments of `TeCNO`.
        """
        super().__init__()
        self.tecno = TeCNO(width, phases, mode=mode, **tecno)
        self.before = window - 1 if mode == "online" else window // 2
        self.window = window
        self.query = nn.Linear(width, phases)
        self.encoder = _Layer(phases, heads, depth)
        self.decoder = _Layer(phases, heads, depth)
        self.leave = nn.Linear(phases, phases)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (stages of TeCNO + 1, B, n, phases) of features (B, n, width)."""
        stages = self.tecno(features)
        queries = torch.tanh(self.query(features))
        padded = F.pad(stages[-1].detach(), (0, 0, self.before, self.window - 1 - self.before))
        windows = padded.unfold(1, self.window, 1).transpose(2, 3)
        if torch.compiler.is_exporting():  # the number of blocks would become a constant
            return torch.cat([stages, self._joined(queries, windows)[None]])
        parts = []
        for query, window in zip(queries.split(BLOCK, 1), windows.split(BLOCK, 1), strict=True):
            # Windows are computed again for the gradient; those of a long video would need gigabytes.
            parts.append(checkpoint(self._joined, query, window, use_reentrant=False))
        return torch.cat([stages, torch.cat(parts, 1)[None]])

    def _joined(self, query: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """Logits (B, n, phases) of queries (B, n, phases) and their windows (B, n, window, phases)."""
        memory = self.encoder(window.flatten(0, 1), window.flatten(0, 1))
        found = self.decoder(query.flatten(0, 1)[:, None], memory)
        return cast("torch.Tensor", self.leave(found[:, 0]).unflatten(0, query.shape[:2]))


class _Layer(nn.Module):
    """Attention and a feed-forward layer, each with a residual and then a layer norm."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (nn.Linear(width, heads * depth) for _ in range(3))
        self.out = nn.Linear(heads * depth, width)
        self.attended = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, depth), nn.ReLU(), nn.Linear(depth, width))
        self.fed = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """The next x (N, n, width) after looking at the memory (N, m, width)."""
        q, k, v = (
            part(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, given in ((self.queries, x), (self.keys, memory), (self.values, memory))
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.attended(x + self.out(seen))
        return cast("torch.Tensor", self.fed(x + self.feed(x)))
