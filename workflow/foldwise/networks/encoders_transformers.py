"""Frozen encoders of transformers, from a folder saved by it: config.json and safetensors.

What each gives as `tokens` and as `pooled`:

* CLIP: the last block's output; the class token after the last layer norm.
* SigLIP and SigLIP 2 of fixed size: after the last layer norm; its attention pooling, or the mean without it.
* DINOv2, DINOv3: after the last layer norm, without registers; the class token (ConvNeXt: the mean).
* VideoMAE, V-JEPA 2: after the last layer norm; the mean, since they have no class token.
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from foldwise.files import CaseError
from foldwise.networks.encoder import Encoded, Encoder, Triple
from foldwise.networks.local_weights import load_saved, read_config, weights_digest
from foldwise.networks.openai_clip import read_openai_clip
from foldwise.settings import Named

CLIP = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
HALF = ([0.5] * 3, [0.5] * 3)
# Weights of a task that files of an encoder may have in addition.
TASKS = ("classifier", "decoder", "encoder_to_decoder", "fc_norm", "mask_token", "position_embeddings")
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class _Family:
    """How a class is used.

    Attributes:
        norm: mean and standard deviation, if the folder has none.
        part: the encoder in the class; "": all of it.
        class_token: whether its tokens begin with one, then registers if any.
        clips: whether it takes clips.
        any_size: whether it takes other sizes than that of its configuration.
    """

    norm: tuple[Any, Any]
    part: str = ""
    class_token: bool = False
    clips: bool = False
    any_size: bool = False


FAMILIES = {
    "CLIPModel": _Family(CLIP, "vision_model", class_token=True),
    "CLIPVisionModel": _Family(CLIP, class_token=True),
    "SiglipModel": _Family(HALF, "vision_model"),
    "SiglipVisionModel": _Family(HALF),
    "Dinov2Model": _Family(IMAGENET, class_token=True, any_size=True),
    "Dinov2WithRegistersModel": _Family(IMAGENET, class_token=True, any_size=True),
    "DINOv3ViTModel": _Family(IMAGENET, class_token=True, any_size=True),
    "DINOv3ConvNextModel": _Family(IMAGENET, class_token=True, any_size=True),
    "VideoMAEModel": _Family(IMAGENET, clips=True),
    "VJEPA2Model": _Family(IMAGENET, "encoder", clips=True),
}


def transformers_encoder(named: Named) -> Encoder:
    """An encoder of transformers; see `load_encoder`."""
    kind, arguments = named.plain, dict(named.arguments)
    if kind not in FAMILIES:
        near = difflib.get_close_matches(kind, FAMILIES, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CaseError(f"encoder {named.name}: not one of {', '.join(FAMILIES)}{hint}")
    family, weights = FAMILIES[kind], Path(arguments.pop("weights"))
    model = _load(kind, weights)
    model = model.get_submodule(family.part).eval().requires_grad_(False)
    config = model.config
    found = _preprocessing(weights)
    size = int(arguments.pop("size", 0) or _native_size(config, found, family))
    frames, tubelet = None, 1
    if family.clips:
        tubelet = config.tubelet_size
        own = config.num_frames if kind == "VideoMAEModel" else config.frames_per_clip
        frames = int(arguments.pop("frames", own))
        if frames % tubelet or (kind == "VideoMAEModel" and frames != own):
            rule = f"exactly {own}" if kind == "VideoMAEModel" else f"a multiple of {tubelet}"
            raise CaseError(f"encoder {named.name}: takes {rule} frames, not {frames}; set `frames`")
    if arguments:
        raise CaseError(
            f"encoder {named.name}: does not take `{min(arguments)}`; it takes weights, size and, for clips, "
            "frames"
        )
    patch = _patch(config)
    fixed = None if family.any_size else _edge(config)
    if size % patch or fixed not in (None, size):
        rule = f"a multiple of {patch}" if fixed is None else str(fixed)
        raise CaseError(f"encoder {named.name}: these weights take frames of {rule} pixels, not {size}")
    mean, std = found.get("image_mean", family.norm[0]), found.get("image_std", family.norm[1])
    steps = (frames or 1) // tubelet
    return Encoder(
        name=named.name,
        model=model,
        encode=partial(_encode, family, steps),
        frames=frames,
        steps=steps,
        size=size,
        grid=(size // patch, size // patch),
        width=config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size,
        mean=_triple(mean),
        std=_triple(std),
        digest=weights_digest(model.state_dict()),
    )


def _load(kind: str, weights: Path) -> Any:
    if weights.is_file():
        if kind == "CLIPModel":
            return read_openai_clip(weights)
        raise CaseError(f"{weights}: is a file; {kind} needs a folder saved by transformers")
    own, cls = read_config(weights).model_type, getattr(transformers, kind)
    if own != cls.config_class.model_type:
        fitting = [one for one in FAMILIES if getattr(transformers, one).config_class.model_type == own]
        hint = f"set transformers:{fitting[0]}" if fitting else f"use one of {', '.join(FAMILIES)}"
        raise CaseError(f"{weights}: its config.json says {own!r}, which is not {kind}; {hint}")
    return load_saved(cls, weights, TASKS)


def _encode(family: _Family, steps: int, model: nn.Module, x: torch.Tensor) -> Encoded:
    out = model(x.transpose(1, 2) if family.clips else x)
    before = int(family.class_token) + getattr(model.config, "num_register_tokens", 0)
    tokens = out.last_hidden_state[:, before:]
    pooled = getattr(out, "pooler_output", None)
    return Encoded(tokens.unflatten(1, (steps, -1)), tokens.mean(1) if pooled is None else pooled)


def _preprocessing(weights: Path) -> dict[str, Any]:
    """The preprocessing that a folder describes, if it does."""
    for path in (weights / name for name in PREPROCESSORS):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CaseError(f"{path}: not readable as JSON ({error})") from error
        if not isinstance(found, dict):
            raise CaseError(f"{path}: expected an object with image_mean and image_std")
        scale = found.get("rescale_factor", 1 / 255)
        if not found.get("do_rescale", True) or not math.isclose(scale, 1 / 255, rel_tol=1e-3):
            raise CaseError(f"{path}: pixels must be divided by 255, but its rescale_factor is {scale}")
        if not found.get("do_normalize", True):
            found |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        return found
    return {}


def _native_size(config: Any, preprocessing: dict[str, Any], family: _Family) -> int:
    if family.any_size:
        for key in ("crop_size", "size"):
            given = preprocessing.get(key)
            given = given.get("height") if isinstance(given, dict) else given
            if isinstance(given, int):
                return given
    return _edge(config)


def _edge(config: Any) -> int:
    edge = getattr(config, "image_size", None) or config.crop_size
    return edge if isinstance(edge, int) else int(edge[0])


def _patch(config: Any) -> int:
    """Pixels along an edge of a token; a ConvNeXt halves patches of 4 pixels three times."""
    patch = getattr(config, "patch_size", 32)
    return patch if isinstance(patch, int) else int(patch[0])


def _triple(values: Any) -> Triple:
    red, green, blue = (float(one) for one in values)
    return red, green, blue
