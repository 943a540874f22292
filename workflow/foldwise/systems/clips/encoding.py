"""The frozen network of a model of clips, loaded once for all cases of a process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch

from foldwise.files import CaseError
from foldwise.networks.clip import Features, FrozenVision
from foldwise.networks.encoded import FrozenClips, encoder_of
from foldwise.networks.encoder import Encoder
from foldwise.systems.clips.settings import ENCODING, Model


class Frozen(Protocol):
    """What turns clips into features."""

    digest: torch.Tensor

    def features(self, clips: torch.Tensor) -> Features:
        """Features of clips (batch, 3, T, size, size), normalised."""


def encoder_for(model: Model) -> Encoder:
    """The encoder of a model that has one.

    Raises:
        CaseError: it cannot be loaded, or does not take the clips.
    """
    assert model.encoder is not None, "the model has an encoder"
    return encoder_of(model.encoder, model.clip.size, model.clip.frames)


def with_normalisation(model: Model) -> Model:
    """The model with the mean and standard deviation of its encoder, where none are set."""
    if model.encoder is None or (model.clip.mean and model.clip.std):
        return model
    encoder = encoder_for(model)
    own = {"mean": model.clip.mean or encoder.mean, "std": model.clip.std or encoder.std}
    return model.model_copy(update={"clip": model.clip.model_copy(update=own)})


def make_vision(model: Model) -> Frozen:
    """The frozen network of a model.

    Raises:
        CaseError: its weights cannot be read, or are for other frames or clips.
    """
    if model.encoder is not None:
        return FrozenClips(encoder_for(model))
    arguments = {k: v for k, v in model.network.arguments.items() if k in ENCODING}
    weights = str(arguments.pop("weights"))
    vision = _loaded(weights, tuple(sorted({"blocks": 4, **arguments}.items())))
    if vision.size != model.clip.size:
        raise CaseError(
            f"clips are {model.clip.size} px, these CLIP weights need {vision.size}; set clip.size"
        )
    return vision


@lru_cache(maxsize=1)
def _loaded(weights: str, arguments: tuple[tuple[str, Any], ...]) -> FrozenVision:
    return FrozenVision(weights, **dict(arguments))
