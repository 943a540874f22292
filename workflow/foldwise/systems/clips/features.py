"""Features of a frozen network, computed once per case, so that an epoch only trains the decoder.

Layout of a case's file (HDF5): train_tokens (K, D, T, 1 + P, width) float16 and train_attention (K, D, 2, T,
P, P) float16 of K augmented training clips; test_tokens and test_attention, the same of the testing views;
and the cache's label and group. With precision int8, they are int8, and train_tokens_scale etc. (float32,
the last axis has length 1) hold what to multiply them by. A network that uses no attention has none stored;
an encoder's tokens (K, 1, T', P, width) have no class token. Attributes: format, case, content, source, the
file that the clips are from, facts, as in predictions, and of an encoder its settings (JSON).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import torch

from foldwise.device import chosen_device, log_device
from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5, refuse_not_finite
from foldwise.systems.clips.encoding import Frozen
from foldwise.systems.clips.items import evaluation_clips, training_clip
from foldwise.systems.clips.predictions import FACTS, facts_of
from foldwise.systems.clips.settings import Model

FORMAT = "foldwise-clip-features-1"


def write_features(source: str | Path, model: Model, vision: Frozen, path: Path) -> None:
    """Encode a case's clips.

    Args:
        source: its frame cache or file of regions.
        model: with `features`, as `with_normalisation` completes it.
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
        _store(stored, "train", draws, vision, device, digest, model.features.precision)
        views = evaluation_clips(file, model)
        _store(stored, "test", views, vision, device, digest, model.features.precision)
        for key in ("label", "group"):
            stored[key] = file[key][()]
            digest.update(file[key][()].tobytes())
        if model.encoder is not None:
            stored.attrs["encoder"] = model.encoder.model_dump_json()
        own = {"format": FORMAT, "case": case, "source": str(source), "content": digest.hexdigest()}
        own[FACTS] = json.dumps(facts_of(file))
        stored.attrs.update({**own, "recording": file.attrs.get("recording", "")})


def whole_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors along the last axis as int8, and the scale of each, float32: their product is the vector.

    The error is at most half of the scale, which is 1/127 of the vector's largest magnitude.
    """
    values = values.astype(np.float32)
    scale = np.abs(values).max(-1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(values / scale).astype(np.int8), scale


def _store(
    output: h5py.File,
    name: str,
    clips: Iterable[torch.Tensor],
    vision: Frozen,
    device: torch.device,
    digest: hashlib._Hash,
    precision: str,
) -> None:
    """Append the features of batches of clips to their datasets."""
    half = torch.autocast(device.type, torch.float16, enabled=device.type == "cuda")
    for batch in clips:
        with half:
            features = vision.features(batch.to(device))
        for kind, part in zip(("tokens", "attention"), features, strict=True):
            array = np.ascontiguousarray(part.half().cpu().numpy())
            if not array.size:  # the network uses no attention
                continue
            refuse_not_finite(str(output.attrs["case"]), array)
            key = f"{name}_{kind}"
            if precision == "int8":
                array, scale = whole_numbers(array)
                _append(output, f"{key}_scale", scale)
                digest.update(scale.data)
            _append(output, key, array)
            digest.update(array.data)


def _append(output: h5py.File, key: str, array: np.ndarray) -> None:
    if key not in output:
        output.create_dataset(
            key,
            shape=(0, *array.shape[1:]),
            maxshape=(None, *array.shape[1:]),
            chunks=(1, 1, *array.shape[2:]),
            dtype=array.dtype,
            compression=hdf5plugin.Blosc2(cname="lz4", clevel=5, filters=hdf5plugin.Blosc2.BITSHUFFLE),
        )
    dataset = output[key]
    dataset.resize(len(dataset) + len(array), axis=0)
    dataset[-len(array) :] = array
