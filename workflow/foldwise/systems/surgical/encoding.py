"""From a video's frames to a feature vector for each, by a trained backbone or a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from foldwise.device import chosen_device, log_device
from foldwise.networks.encoded import FrozenTrunk, encoder_of
from foldwise.networks.encoder import Encoder
from foldwise.networks.temporal import clip_windows
from foldwise.systems.surgical.features import write_bank
from foldwise.systems.surgical.settings import Model
from foldwise.video.store import open_frames
from foldwise.video.windows import blocks, cropped


def encoder_for(model: Model) -> Encoder:
    """The encoder of a model that has one.

    Raises:
        CaseError: it cannot be loaded, or does not take the crop.
    """
    assert model.encoder is not None, "the model has an encoder"
    return encoder_of(model.encoder, model.crop[0])


def with_normalisation(model: Model) -> Model:
    """The model with the mean and standard deviation of its encoder, where none are set."""
    if model.encoder is None or (model.mean and model.std):
        return model
    encoder = encoder_for(model)
    return model.model_copy(update={"mean": model.mean or encoder.mean, "std": model.std or encoder.std})


def inputs_of(frames: torch.Tensor, model: Model, generator: torch.Generator | None = None) -> torch.Tensor:
    """The network's input from frames (…, height, width, 3) uint8: (…, 3, height, width).

    Args:
        frames: windows (B, S, …) if they are augmented.
        model: its settings.
        generator: for the augmentation; None: no augmentation.
    """
    x = frames.movedim(-1, -3).float().div_(255)
    if generator is not None and model.augmentation is not None:
        x = _jittered(x, model.augmentation.model_dump(), generator)
    mean, std = (x.new_tensor(value)[:, None, None] for value in model.normalisation)
    return x.sub_(mean).div_(std)


@torch.no_grad()
def features_of(
    trunk: nn.Module,
    file: h5py.File,
    model: Model,
    device: torch.device,
    precision: AbstractContextManager[Any],
) -> torch.Tensor:
    """Features (n, width) float32 of every frame of a video, on the device.

    An encoder always has the same precision, so that features are the same wherever they are computed.

    Args:
        trunk: the backbone, or a `FrozenTrunk`.
        file: the video's frame cache.
        model: its settings.
        device: where the trunk is.
        precision: of a trained backbone.
    """
    encoder = trunk.encoder if isinstance(trunk, FrozenTrunk) else None
    if encoder is not None:
        precision = torch.autocast(device.type, torch.float16, enabled=device.type == "cuda")
    parts = []
    with precision:
        for batch in _batches(file, model, encoder):
            x = inputs_of(batch.to(device), model)
            parts.append(trunk(x if x.ndim == 4 else x.transpose(1, 2)).float())
    return torch.cat(parts)


def write_encoded(source: Path, model: Model, path: Path) -> None:
    """Store an encoder's features of every frame of a video.

    Args:
        source: its frame cache.
        model: with an encoder.
        path: HDF5 file to write.

    Raises:
        CaseError: the encoder cannot be loaded or does not take the frames, or a feature is not finite.
    """
    model, encoder, device = with_normalisation(model), encoder_for(model), chosen_device()
    log_device(device, "16-mixed" if device.type == "cuda" else "32-true")
    assert model.encoder is not None, "as asked of the encoder"
    origin: dict[str, Any] = {
        "encoder": model.encoder.model_dump_json(),
        "digest": bytes(encoder.digest.tolist()).hex(),
        "mean": model.mean,
        "std": model.std,
        "size": encoder.size,
    }
    if encoder.frames is not None:
        origin |= {"clip_frames": encoder.frames, "every": model.every, "mode": model.mode}
    with open_frames(source) as file:
        trunk = FrozenTrunk(encoder)
        features = features_of(trunk, file, model, device, torch.no_grad()).cpu().numpy()
    write_bank(path, source, features, origin)


def _batches(file: h5py.File, model: Model, encoder: Encoder | None) -> Iterator[torch.Tensor]:
    """Frames (N, height, width, 3) uint8 in order, or the clips (N, T, …) that belong to them."""
    if encoder is None or encoder.frames is None:
        yield from blocks(file, model.batch_frames, model.crop)
        return
    windows = clip_windows(file["run"][()], encoder.frames, model.mode, model.every)
    for first in range(0, len(windows), model.batch_frames):
        # Each frame of these clips is read once.
        places, inverse = np.unique(windows[first : first + model.batch_frames], return_inverse=True)
        frames = cropped(file, places, model.crop)
        clips = torch.from_numpy(inverse.reshape(-1, encoder.frames))
        for batch in clips.split(max(1, model.batch_frames // encoder.frames)):
            yield frames[batch]


def _jittered(x: torch.Tensor, amounts: dict[str, float], generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation of windows (B, S, 3, height, width), drawn once per window."""

    def factor(name: str) -> torch.Tensor:
        drawn = torch.rand(len(x), generator=generator, device=x.device)
        return (1 + amounts[name] * (2 * drawn - 1))[:, None, None, None, None]

    x = x * factor("brightness")
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    x = mean + (x - mean) * factor("contrast")
    grey = x.mean(2, keepdim=True)
    return (grey + (x - grey) * factor("saturation")).clamp_(0, 1)
