"""CLIP (Radford et al. 2021) from a local folder, frozen: features of frames, and zero-shot classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers  # its classes, which take seconds to import, only where they are used
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.local_weights import load_saved, read_config, weights_digest
from foldwise.networks.openai_clip import read_openai_clip


class Features(NamedTuple):
    """Features of clips from a frozen image transformer; D blocks, T frames, P patches in a frame.

    Attributes:
        tokens: outputs of its last D blocks, (batch, D, T, 1 + P, width), the class token first.
        attention: (batch, D, 2, T, P, P): similarity of each patch of a frame to each patch of the frame
            before it (0) and after it (1), the soft-max over the neighbour's patches averaged over heads;
            zero without a neighbour. P is 0 if the network does not use it.
    """

    tokens: torch.Tensor
    attention: torch.Tensor


class FrozenVision:
    """CLIP's image transformer without gradients.

    Not an `nn.Module`, so that a network containing one neither trains nor stores its weights.
    """

    def __init__(self, folder: Path | str, blocks: int, pool: int = 1, attention: bool = True) -> None:
        """Load the weights.

        Args:
            folder: a model saved by transformers, `CLIPModel` or `CLIPVisionModel`; or OpenAI's archive.
            blocks: D; the features are of the last D blocks.
            pool: edge of the squares of patches that become one: the mean of their tokens.
            attention: whether features have attention; otherwise it has no patches, (batch, D, 2, T, 0, 0).

        Raises:
            CaseError: no such model in the folder, weights missing or of wrong shape, too few blocks, or a
                grid of patches that `pool` does not divide.
        """
        self.model = _vision(Path(folder)).eval().requires_grad_(False)
        config = self.model.config
        if blocks > config.num_hidden_layers:
            raise CaseError(f"{folder}: has {config.num_hidden_layers} blocks, but {blocks} are required")
        self.blocks, self.pool, self.attention = blocks, pool, attention
        self.size: int = config.image_size
        grid = config.image_size // config.patch_size
        if pool < 1 or grid % pool:
            raise CaseError(f"{folder}: pool: {pool} does not divide its grid of {grid}×{grid} patches")
        self.grid: int = grid // pool
        self.width: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.digest = weights_digest(self.model.state_dict())

    @torch.no_grad()
    def features(self, clips: torch.Tensor) -> Features:
        """Features of clips (batch, 3, T, size, size), normalised for CLIP."""
        if self.model.device != clips.device:  # cannot be traced
            self.model.to(clips.device)
        batch, _, frames, height, width = clips.shape
        if (height, width) != (self.size, self.size):
            raise CaseError(
                f"clips are {height}×{width}, these CLIP weights need {self.size}×{self.size}; set `size`"
            )
        kept: dict[str, list[torch.Tensor]] = {"query": [], "key": [], "out": []}
        hooks = []
        for layer in self.model.encoder.layers[-self.blocks :]:
            for name, part in (
                ("query", layer.self_attn.q_proj),
                ("key", layer.self_attn.k_proj),
                ("out", layer),
            ):
                hooks.append(part.register_forward_hook(_keeper(kept[name])))
        try:
            self.model(pixel_values=clips.transpose(1, 2).flatten(0, 1))
        finally:
            for hook in hooks:
                hook.remove()
        tokens, queries, keys = (
            torch.stack(kept[name]).unflatten(1, (batch, frames)).transpose(0, 1)
            for name in ("out", "query", "key")
        )
        if self.attention:
            attention = self._attention(queries[..., 1:, :], keys[..., 1:, :])
        else:
            attention = tokens.new_zeros(*tokens.shape[:2], 2, tokens.shape[2], 0, 0)
        return Features(tokens, attention) if self.pool == 1 else self._pooled(tokens, attention)

    def _pooled(self, tokens: torch.Tensor, attention: torch.Tensor) -> Features:
        """The features of squares of patches: means of tokens, and sums of the attention that they get."""

        def squares(values: torch.Tensor, dim: int) -> torch.Tensor:
            """Patches along `dim` as (row, place in the square, column, place in the square)."""
            return values.unflatten(dim, (self.grid, self.pool, self.grid, self.pool))

        patches = squares(tokens[..., 1:, :], -2).mean((-4, -2)).flatten(-3, -2)
        tokens = torch.cat([tokens[..., :1, :], patches], dim=-2)
        if self.attention:
            seen = squares(attention, -1).sum((-3, -1)).flatten(-2)
            attention = squares(seen, -2).mean((-4, -2)).flatten(-3, -2)
        return Features(tokens, attention)

    def _attention(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Attention between neighbouring frames from (batch, D, T, P, width); see `Features`."""
        queries, keys = (
            part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (queries, keys)
        )  # (batch, D, T, heads, P, width of a head)
        similarity = queries.new_zeros(
            *queries.shape[:2], 2, queries.shape[2], queries.shape[4], queries.shape[4]
        )
        scale = queries.shape[-1] ** -0.5
        for side, (here, there) in enumerate(((slice(1, None), slice(-1)), (slice(-1), slice(1, None)))):
            products = queries[:, :, here] @ keys[:, :, there].transpose(-1, -2)
            similarity[:, :, side, here] = (products.float() * scale).softmax(-1).mean(3).to(similarity.dtype)
        return similarity


class ZeroShotCLIP(nn.Module):
    """Classes by their sentences: cosine of a clip's mean image embedding and each sentence's embedding.

    The only parameter is the logarithm of the scale that turns cosines into logits. Training it is
    temperature scaling (Guo et al. 2017): it calibrates the probabilities and keeps a view's ranking.
    """

    def __init__(self, weights: str, sentences: Sequence[str]) -> None:
        """Load the weights and embed the sentences.

        Args:
            weights: folder of a `CLIPModel` with its tokenizer.
            sentences: one per class, in their order.

        Raises:
            CaseError: no such model in the folder, or no sentences, or one that is too long.
        """
        super().__init__()
        if not sentences:
            raise CaseError("ZeroShotCLIP needs a sentence per class (data.sentences)")
        folder = Path(weights)
        if folder.is_file():
            raise CaseError(
                f"{folder}: ZeroShotCLIP needs CLIP's tokenizer, which OpenAI's archives do not contain; use "
                "a folder saved by transformers, with vocab.json and merges.txt"
            )
        model = load_saved(transformers.CLIPModel, folder)
        try:
            tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # missing files raise any of several types
            raise CaseError(f"{folder}: contains no CLIP tokenizer ({error})") from error
        most = model.config.text_config.max_position_embeddings
        for sentence in sentences:
            if (count := len(tokenizer(sentence)["input_ids"])) > most:
                raise CaseError(
                    f"data.sentences: {sentence!r} has {count} tokens, but this CLIP reads {most}; shorten it"
                )
        tokens = tokenizer(list(sentences), padding=True, return_tensors="pt")
        with torch.no_grad():
            embedded = model.eval().get_text_features(**tokens).pooler_output
        self.sentences: torch.Tensor
        self.register_buffer("sentences", nn.functional.normalize(embedded, dim=-1))
        self.log_scale = nn.Parameter(model.logit_scale.detach().clone())
        # In a tuple, so that it is not a sub-module: neither trained nor stored.
        self._frozen = (model.requires_grad_(False),)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of clips (batch, 3, T, size, size)."""
        model = self._frozen[0]
        if model.device != clips.device:  # cannot be traced
            model.to(clips.device)
        with torch.no_grad():
            frames = model.get_image_features(clips.transpose(1, 2).flatten(0, 1)).pooler_output
            mean = nn.functional.normalize(frames, dim=-1).unflatten(0, (len(clips), -1)).mean(1)
            cosines = nn.functional.normalize(mean, dim=-1) @ self.sentences.T
        return self.log_scale.exp() * cosines


def _vision(weights: Path) -> Any:
    if weights.is_file():
        return read_openai_clip(weights).vision_model
    if read_config(weights).model_type == "clip_vision_model":
        return load_saved(transformers.CLIPVisionModel, weights)
    return load_saved(transformers.CLIPModel, weights).vision_model


def _keeper(kept: list[torch.Tensor]) -> Any:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    return keep
