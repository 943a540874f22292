"""Networks on a frozen encoder, whose weights are neither trained nor stored, but identified by a hash."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import build_head
from foldwise.networks.clip import Features
from foldwise.networks.encoder import Encoder
from foldwise.networks.encoders import load_encoder
from foldwise.settings import Named
from foldwise.video.encoders import takes_clips

# Channels of an attention head in the usual transformers.
HEAD = 64


def encoder_of(named: Named, size: int, frames: int | None = None) -> Encoder:
    """A model's encoder; the last one is kept, so that a process loads it once.

    Args:
        named: as in the settings.
        size: edge of the frames. Pixels.
        frames: of a clip, for an encoder of clips; None: as many as it was made for.

    Raises:
        CaseError: as `load_encoder`.
    """
    fitted = {"size": size} | ({"frames": frames} if frames is not None and takes_clips(named) else {})
    return _loaded(named.model_copy(update=fitted).model_dump_json())


@lru_cache(maxsize=1)
def _loaded(named: str) -> Encoder:
    return load_encoder(Named.model_validate_json(named))


class FrozenClips:
    """An encoder whose features have the form of those of CLIP's blocks: one block, without attention.

    Not an `nn.Module`, as `Encoder`.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Take an encoder of frames or clips."""
        self.encoder, self.model, self.digest = encoder, encoder.model, encoder.digest

    @torch.no_grad()
    def features(self, clips: torch.Tensor) -> Features:
        """Features of clips (batch, 3, T, size, size), normalised; an encoder of frames gets one by one."""
        if self.encoder.frames is None:
            frames = clips.transpose(1, 2)
            tokens = self.encoder(frames.flatten(0, 1)).tokens.unflatten(0, frames.shape[:2])[:, :, 0]
        else:
            tokens = self.encoder(clips).tokens
        tokens = tokens[:, None]
        return Features(tokens, tokens.new_zeros(len(tokens), 1, 2, tokens.shape[2], 0, 0))


class _OnEncoder(nn.Module):
    """Knows the hash of the frozen weights, which a model file stores in their place."""

    digest: torch.Tensor

    def get_extra_state(self) -> torch.Tensor:
        """The hash."""
        return self.digest

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights that were trained on another encoder."""
        if not torch.equal(state.cpu(), self.digest):
            raise CaseError(
                "the model was trained on an encoder with weights other than those in encoder.weights; put "
                "them back, or delete the model and its folder in state/ to train again"
            )


class ClipHead(_OnEncoder):
    """A head on the tokens of clips, from an encoder or stored."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        """Join both; only the head is a part of the network."""
        super().__init__()
        self.head, self.digest = head, encoder.digest
        # In a tuple, as in EVL.
        self._frozen = (FrozenClips(encoder),)

    def forward(
        self, clips: torch.Tensor, attention: torch.Tensor | None = None, **more: bool
    ) -> torch.Tensor:
        """Logits (batch, classes).

        Args:
            clips: (batch, 3, T, size, size); or, with `attention`, stored tokens (batch, 1, T', P, width), or
                bags of them.
            attention: of stored features, without values.
            more: for the head.
        """
        tokens = self._frozen[0].features(clips).tokens if attention is None else clips
        return cast("torch.Tensor", self.head(tokens, **more))


def clip_head(named: Named, encoder: Encoder, classes: int, frames: int) -> ClipHead:
    """A head with random weights on an encoder.

    Args:
        named: AttentiveProbe, EVLDecoder or AttentionMIL, and its arguments.
        encoder: of frames or clips.
        classes: number of outputs.
        frames: of a clip.

    Raises:
        CaseError: wrong arguments.
    """
    width = encoder.width
    steps = frames if encoder.frames is None else encoder.steps
    filled = {"width": width, "num_classes": classes, "num_frames": steps}
    if named.plain == "EVLDecoder":
        usual = max(1, width // HEAD)
        filled["heads"] = next(count for count in range(usual, 0, -1) if width % count == 0)
    tokens = (1, 1, steps, encoder.grid[0] * encoder.grid[1], width)
    return ClipHead(encoder, build_head("clip network", named, tokens, **filled))


class FrozenTrunk(_OnEncoder):
    """An encoder in the place of a trained backbone: features of frames or clips."""

    def __init__(self, encoder: Encoder) -> None:
        """Take the encoder."""
        super().__init__()
        self.digest = encoder.digest
        self._frozen = (encoder,)

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self._frozen[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width) of frames (N, 3, size, size) or clips (N, 3, T, size, size), normalised."""
        return self.encoder(x).pooled


class Traced(nn.Module):
    """An encoder as a network that contains its weights, for an export."""

    def __init__(self, encoder: Encoder) -> None:
        """Take the encoder."""
        super().__init__()
        self.model, self._encode = encoder.model.cpu(), encoder.encode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, width) of frames (N, 3, size, size)."""
        return self._encode(self.model, x).pooled
