"""Features of frames that a temporal network learns from: an HDF5 file per video, and per fold if trained.

Arrays: features (n, width) float32, and the cache's number, time_s, row, phase, tool and run. Attributes:
those of the cache, `source` (the cache), and of a trained backbone `model` and `settings`, its file and
settings (JSON); of a frozen encoder `encoder` (JSON), `digest` of its weights, `mean`, `std`, `size`, and of
clips `clip_frames`, `every` and `mode`: whether they end at the frame (online) or have it in the middle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite
from foldwise.systems.surgical.annotations import UNKNOWN
from foldwise.video.gaps import grid
from foldwise.video.store import FEATURES
from foldwise.video.store import FORMAT as FRAMES

LABELS = ("number", "time_s", "row", "phase", "tool", "run")


def write_bank(path: Path, cache: Path | str, features: np.ndarray, origin: Mapping[str, Any]) -> None:
    """Write a video's features with its labels, atomically.

    Args:
        path: the file.
        cache: the video's frame cache.
        features: (n, width).
        origin: attributes on the backbone or encoder.

    Raises:
        CaseError: a feature is not finite.
    """
    features = np.ascontiguousarray(features, np.float32)
    with (
        open_hdf5(cache, FRAMES) as source,
        atomic_path(path) as temporary,
        create_hdf5(temporary) as file,
    ):
        refuse_not_finite(str(source.attrs["case"]), features)
        for name in LABELS:
            file[name] = source[name][()]
        file["features"] = features
        digest = hashlib.sha256(str(source.attrs["content"]).encode())
        digest.update(features.data)
        own = {"source": str(cache), "format": FEATURES, "content": digest.hexdigest()}
        file.attrs.update({**source.attrs, **origin, **own})


def on_grid(file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    """A video on a regular grid in time, as `video.gaps.grid`, from its frame cache or its features."""
    return grid(file["time_s"][()], file["run"][()], float(file.attrs["step"]))


class Videos:
    """Training items of a temporal network: whole videos, in a new random order for each pass.

    They are on a regular grid in time: missing frames hold the features of the last one, without a phase.
    """

    def __init__(self, banks: Sequence[str], seed: Sequence[int]) -> None:
        """Store the files' names."""
        self.banks, self.seed = list(banks), tuple(seed)

    def __len__(self) -> int:
        return len(self.banks)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """`features` (m, width) and `phase` (m,) of the grid's places."""
        epoch, within = divmod(number, len(self.banks))
        random = np.random.default_rng(np.random.SeedSequence([*self.seed, 3, epoch]))
        with open_hdf5(self.banks[int(random.permutation(len(self.banks))[within])], FEATURES) as file:
            shown, places = on_grid(file)
            phase = np.full(len(shown), UNKNOWN, np.int8)
            phase[places] = file["phase"][()]
            return {
                "features": torch.from_numpy(file["features"][()][shown]),
                "phase": torch.from_numpy(phase),
            }
