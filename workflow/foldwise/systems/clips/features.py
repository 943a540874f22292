"""Features of a frozen network, computed once per case, so that an epoch only trains the decoder.

Layout of a case's file (HDF5): train_tokens (K, D, T, 1 + P, width) float16 and train_attention (K, D, 2, T,
P, P) float16 of K augmented training clips; test_tokens and test_attention, the same of the testing views;
and the cache's label. Attributes: format, case, content, and source, the file that the clips are from.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import torch

from foldwise.device import chosen_device, log_device
from foldwise.files import CaseError, atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite
from foldwise.networks.clip import FrozenVision
from foldwise.systems.clips.items import evaluation_clips, training_clip
from foldwise.systems.clips.settings import Model

FORMAT = "foldwise-clip-features-1"


def write_features(source: str | Path, model: Model, vision: FrozenVision, path: Path) -> None:
    """Encode a case's clips.

    Args:
        source: its frame cache or file of regions.
        model: with `features`.
        vision: the frozen network.
        path: HDF5 file to write.

    Raises:
        CaseError: a feature is not finite in half precision.
    """
    assert model.features is not None, "the settings request no features"
    device = chosen_device()
    log_device(device, "16-mixed" if device.type == "cuda" else "32-true")
    with open_hdf5(source) as file, atomic_path(path) as temporary, create_hdf5(temporary) as stored:
        case = stored.attrs["case"] = str(file.attrs["case"])
        # The draws depend only on case and number: they are the same in every experiment.
        draws = (
            training_clip(file, model, np.random.default_rng([zlib.crc32(case.encode()), number]))[None]
            for number in range(model.features.views)
        )
        digest = hashlib.sha256(bytes(vision.digest.tolist()))
        _store(stored, "train", draws, vision, device, digest)
        _store(stored, "test", evaluation_clips(file, model), vision, device, digest)
        stored["label"] = file["label"][()]
        digest.update(file["label"][()].tobytes())
        own = {"format": FORMAT, "case": case, "source": str(source), "content": digest.hexdigest()}
        stored.attrs.update({**own, "recording": file.attrs.get("recording", "")})


def make_vision(model: Model) -> FrozenVision:
    """The frozen network of a model.

    Raises:
        CaseError: its weights cannot be read, or are for other frame sizes.
    """
    arguments = model.network.arguments
    vision = FrozenVision(arguments["weights"], int(arguments.get("blocks", 4)))
    if vision.size != model.clip.size:
        raise CaseError(
            f"clips are {model.clip.size} px, these CLIP weights need {vision.size}; set clip.size"
        )
    return vision


def _store(
    output: h5py.File,
    name: str,
    clips: Iterable[torch.Tensor],
    vision: FrozenVision,
    device: torch.device,
    digest: hashlib._Hash,
) -> None:
    """Append the features of batches of clips to two datasets."""
    half = torch.autocast(device.type, torch.float16, enabled=device.type == "cuda")
    for batch in clips:
        with half:
            features = vision.features(batch.to(device))
        for kind, part in zip(("tokens", "attention"), features, strict=True):
            array = np.ascontiguousarray(part.half().cpu().numpy())
            refuse_not_finite(str(output.attrs["case"]), array)
            key = f"{name}_{kind}"
            if key not in output:
                output.create_dataset(
                    key,
                    shape=(0, *array.shape[1:]),
                    maxshape=(None, *array.shape[1:]),
                    chunks=(1, 1, *array.shape[2:]),
                    dtype=np.float16,
                    compression=hdf5plugin.Blosc2(
                        cname="lz4", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE
                    ),
                )
            dataset = output[key]
            dataset.resize(len(dataset) + len(array), axis=0)
            dataset[-len(array) :] = array
            digest.update(array.data)
