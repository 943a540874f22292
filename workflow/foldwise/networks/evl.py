"""Efficient Video Learners (Lin et al. 2022, arXiv 2208.03550): a decoder on a frozen CLIP transformer."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.clip import Features, FrozenVision


class EVL(nn.Module):
    """One learned query that reads, layer by layer, a frozen transformer's features of all frames at once.

    Decoder layer i reads block i of the last D: that block's output plus three temporal terms, which are
    a depth-wise convolution over time, a position per frame, and the attention between neighbouring frames
    weighted by a learned vector per relative offset of patches. All three start at zero. Only decoder and
    head are trained and stored; the backbone is identified by its hash.
    """

    def __init__(
        self, weights: str, num_classes: int, num_frames: int, blocks: int = 4, dropout: float = 0.5
    ) -> None:
        """Build the decoder for a backbone.

        Args:
            weights: folder of CLIP weights saved by transformers.
            num_classes: outputs.
            num_frames: T, frames of a clip.
            blocks: D, transformer blocks to read and layers of the decoder.
            dropout: in the decoder's MLPs and before the last layer.

        Raises:
            CaseError: no such weights.
        """
        super().__init__()
        # In a tuple, so that it is not a sub-module.
        self._frozen = (FrozenVision(weights, blocks),)
        vision = self._frozen[0]
        self.frames = num_frames
        self.temporal = nn.ModuleList(
            TemporalTerms(vision.width, num_frames, vision.grid) for _ in range(blocks)
        )
        self.layers = nn.ModuleList(DecoderLayer(vision.width, vision.heads, dropout) for _ in range(blocks))
        self.query = nn.Parameter(torch.empty(vision.width).normal_(std=0.02))
        self.head = nn.Sequential(
            nn.LayerNorm(vision.width), nn.Dropout(dropout), nn.Linear(vision.width, num_classes)
        )

    def features(self, clips: torch.Tensor) -> Features:
        """The backbone's features of clips (batch, 3, T, size, size)."""
        return self._frozen[0].features(clips)

    def forward(self, clips: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (batch, classes).

        Args:
            clips: (batch, 3, T, size, size); or, with `attention`, stored `Features.tokens`.
            attention: stored `Features.attention`.
        """
        features = self.features(clips) if attention is None else Features(clips, attention)
        tokens, neighbours = (part.to(self.query.dtype) for part in features)
        if tokens.shape[2] != self.frames:
            raise CaseError(
                f"clips have {tokens.shape[2]} frames, but the network was built for {self.frames}"
            )
        query = self.query.expand(len(tokens), 1, -1)
        for number, (terms, layer) in enumerate(zip(self.temporal, self.layers, strict=True)):
            memory = terms(tokens[:, number], neighbours[:, number])
            query = layer(query, memory.flatten(1, 2))
        return cast("torch.Tensor", self.head(query[:, 0]))

    def get_extra_state(self) -> torch.Tensor:
        """The hash of the frozen weights, which a model file stores in their place."""
        return self._frozen[0].digest

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights that were trained on another backbone."""
        if not torch.equal(state.cpu(), self._frozen[0].digest):
            raise CaseError(
                "the model was trained on CLIP weights other than those in network.weights; put them "
                "back, or delete the model and its folder in state/ to train again"
            )


class TemporalTerms(nn.Module):
    """Adds information from neighbouring frames to the tokens of a block."""

    def __init__(self, width: int, frames: int, grid: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]
        self.position = nn.Parameter(torch.zeros(frames, width))
        # One vector per relative offset of a patch and a patch of the frame before (0) or after (1).
        self.offsets = nn.Parameter(torch.zeros(2, (2 * grid - 1) ** 2, width))
        self.offset: torch.Tensor
        self.register_buffer("offset", _relative_offsets(grid), persistent=False)

    def forward(self, tokens: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, T, 1 + P, width) with the terms added; attention is (batch, 2, T, P, P)."""
        batch, frames, count, width = tokens.shape
        over_time = tokens.permute(0, 2, 3, 1).reshape(batch * count, width, frames)
        enriched = tokens + self.convolution(over_time).reshape(batch, count, width, frames).permute(
            0, 3, 1, 2
        )
        enriched = enriched + self.position[:, None]
        vectors = self.offsets[:, self.offset]  # (2, P, P, width)
        looked = torch.einsum("bstqk,sqkc->btqc", attention, vectors)
        return enriched + nn.functional.pad(looked, (0, 0, 1, 0))


class DecoderLayer(nn.Module):
    """The query attends to the memory, then passes an MLP; both with residuals, normalised before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """The next query (batch, 1, width); the memory is (batch, T · (1 + P), width)."""
        memory = self.memory_norm(memory)
        seen, _ = self.attention(self.query_norm(query), memory, memory, need_weights=False)
        query = query + seen
        return cast("torch.Tensor", query + self.mlp(self.mlp_norm(query)))


class QuickGELU(nn.Module):
    """CLIP's activation, x · sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return x * torch.sigmoid(1.702 * x)


def _relative_offsets(grid: int) -> torch.Tensor:
    """Number of the offset from patch q to patch k of a square grid, (P, P), in 0 … (2·grid − 1)² − 1."""
    places = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"), -1).view(
        -1, 2
    )
    steps = places[None] - places[:, None] + grid - 1
    return steps[..., 0] * (2 * grid - 1) + steps[..., 1]
