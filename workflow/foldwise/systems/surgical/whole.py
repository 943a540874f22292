"""Logits of all frames of a video from their features, by windows or on a grid in time."""

from __future__ import annotations

import h5py
import numpy as np
import torch
from torch import nn

from foldwise.systems.surgical.features import on_grid
from foldwise.video.gaps import starts, window_frames

# Windows of features per forward pass of the LSTM.
BATCH_WINDOWS = 256


def by_windows(
    network: nn.Module, features: torch.Tensor, file: h5py.File, window: int
) -> dict[str, torch.Tensor]:
    """Logits (n, …) of every frame: of the last one of each window, and of all of the first window.

    Before a gap, a window holds the first frame after it. If there is one in the first window, its frames
    have windows of their own, too.

    Args:
        network: features of windows to logits by name.
        features: (n, width).
        file: the video's frame cache or features.
        window: frames of a window.
    """
    first, length = starts(file["run"][()]), min(window, len(features))
    early = length - 1 if first[length - 1] == 0 else 0
    frames = window_frames(first, np.arange(early, len(features)), length)
    parts = [
        network(features[torch.from_numpy(frames[at : at + BATCH_WINDOWS]).to(features.device)])
        for at in range(0, len(frames), BATCH_WINDOWS)
    ]
    return {
        name: torch.cat([parts[0][name][0, :early], *(part[name][:, -1] for part in parts)])
        for name in parts[0]
    }


def on_a_grid(network: nn.Module, features: torch.Tensor, file: h5py.File) -> torch.Tensor:
    """Logits (n, phases) of the last stage of a temporal network, read at the true frames.

    Args:
        network: features (1, m, width) of a grid's places to logits (stages, 1, m, phases).
        features: (n, width).
        file: the video's frame cache or features.
    """
    shown, places = (torch.from_numpy(numbers).to(features.device) for numbers in on_grid(file))
    logits: torch.Tensor = network(features[shown][None])[-1, 0]
    return logits[places]
