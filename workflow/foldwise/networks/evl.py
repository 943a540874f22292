"""Efficient Video Learners (Lin et al. 2022, arXiv 2208.03550): a decoder on a frozen CLIP transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.clip import Features, FrozenVision
from foldwise.networks.evl_released import from_released


class EVLDecoder(nn.Module):
    """One learned query that reads, layer by layer, the features of all frames of a clip at once.

    Decoder layer i reads block i of D: its tokens plus three temporal terms, which are a depth-wise
    convolution over time, a position per frame, and the attention between neighbouring frames weighted by a
    learned vector per relative offset of patches. All three start at zero. The third needs the queries and
    keys of a transformer with a class token, as `FrozenVision` gives; for tokens of other encoders it is
    left out.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        num_classes: int,
        num_frames: int,
        *,
        grid: int | None = None,
        blocks: int = 1,
        dropout: float = 0.5,
    ) -> None:
        """Build the decoder.

        Args:
            width: channels of a token.
            heads: attention heads of a layer.
            num_classes: outputs.
            num_frames: T, frames of a clip, or time steps of its tokens.
            grid: patches along an edge of a frame, if there is attention between frames; None: there is none.
            blocks: D, layers of the decoder.
            dropout: in the decoder's MLPs and before the last layer.
        """
        super().__init__()
        self.frames = num_frames
        self.temporal = nn.ModuleList(TemporalTerms(width, num_frames, grid) for _ in range(blocks))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(blocks))
        self.query = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, num_classes))

    def forward(self, tokens: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (batch, classes).

        Args:
            tokens: (batch, D, T, tokens of a frame, width).
            attention: (batch, D, 2, T, P, P), see `Features`; needed exactly if the decoder has a `grid`.

        Raises:
            CaseError: another number of frames.
        """
        tokens = tokens.to(self.query.dtype)
        if tokens.shape[2] != self.frames:
            raise CaseError(
                f"clips have {tokens.shape[2]} frames, but the network was built for {self.frames}"
            )
        query = self.query.expand(len(tokens), 1, -1)
        for number, (terms, layer) in enumerate(zip(self.temporal, self.layers, strict=True)):
            neighbours = None if attention is None else attention[:, number].to(query.dtype)
            query = layer(query, terms(tokens[:, number], neighbours).flatten(1, 2))
        return cast("torch.Tensor", self.head(query[:, 0]))


class EVL(EVLDecoder):
    """The decoder on a frozen CLIP transformer's last D blocks.

    Only decoder and head are trained and stored; the backbone is identified by its hash.
    """

    def __init__(
        self,
        weights: str,
        num_classes: int,
        num_frames: int,
        blocks: int = 4,
        dropout: float = 0.5,
        pool: int = 1,
        attention: bool = True,
    ) -> None:
        """Build the decoder for a backbone.

        Args:
            weights: folder of CLIP weights saved by transformers, or OpenAI's archive.
            num_classes: outputs.
            num_frames: T, frames of a clip.
            blocks: D, transformer blocks to read and layers of the decoder.
            dropout: in the decoder's MLPs and before the last layer.
            pool: edge of the squares of patches that are read as one; 2 reads a quarter of the tokens.
            attention: whether the attention between neighbouring frames is a temporal term.

        Raises:
            CaseError: no such weights, or a grid of patches that `pool` does not divide.
        """
        vision = FrozenVision(weights, blocks, pool, attention)
        super().__init__(
            vision.width,
            vision.heads,
            num_classes,
            num_frames,
            grid=vision.grid if attention else None,
            blocks=blocks,
            dropout=dropout,
        )
        # In a tuple, so that it is not a sub-module.
        self._frozen = (vision,)

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
        return super().forward(*features)

    @staticmethod
    def translated(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of a file under this network's names, if they have those of the authors' release."""
        return from_released(weights)

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

    def __init__(self, width: int, frames: int, grid: int | None) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.convolution.weight)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]
        self.position = nn.Parameter(torch.zeros(frames, width))
        if grid is None:
            self.register_parameter("offsets", None)
            return
        # One vector per relative offset of a patch and a patch of the frame before (0) or after (1).
        self.offsets = nn.Parameter(torch.zeros(2, (2 * grid - 1) ** 2, width))
        self.offset: torch.Tensor
        self.register_buffer("offset", _relative_offsets(grid), persistent=False)

    def forward(self, tokens: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        """Tokens (batch, T, n, width) with the terms added; attention (batch, 2, T, P, P) has n = 1 + P."""
        batch, frames, count, width = tokens.shape
        over_time = tokens.permute(0, 2, 3, 1).reshape(batch * count, width, frames)
        enriched = tokens + self.convolution(over_time).reshape(batch, count, width, frames).permute(
            0, 3, 1, 2
        )
        enriched = enriched + self.position[:, None]
        if self.offsets is None:
            return enriched
        assert attention is not None, "a decoder with a grid needs attention between frames"
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
