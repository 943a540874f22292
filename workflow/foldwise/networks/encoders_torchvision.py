"""Frozen encoders of torchvision, from a file with their weights.

`tokens` are the map of features before pooling (of transformers, their tokens after the last layer norm), and
`pooled` is what the classifier's last layer gets.
"""

from __future__ import annotations

import difflib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models import video

from foldwise.files import CaseError
from foldwise.networks import first_line, shapes_only
from foldwise.networks.encoder import Encoded, Encoder
from foldwise.networks.local_weights import weights_digest
from foldwise.settings import Named
from foldwise.training.pretrained import read_weights

# The part whose output are the tokens, and the order of its axes.
FAMILIES: dict[type[nn.Module], tuple[str, str]] = {
    models.ResNet: ("layer4", "channels first"),
    models.ConvNeXt: ("features", "channels first"),
    models.EfficientNet: ("features", "channels first"),
    models.RegNet: ("trunk_output", "channels first"),
    models.SwinTransformer: ("permute", "channels first"),
    models.VisionTransformer: ("encoder", "sequence"),
    video.VideoResNet: ("layer4", "channels first"),
    video.S3D: ("features", "channels first"),
    video.SwinTransformer3d: ("norm", "channels last"),
    video.MViT: ("norm", "sequence"),
}
# Frames of a clip, if the settings do not say; torchvision evaluates these networks with as many or more.
FRAMES = 16


def torchvision_encoder(named: Named) -> Encoder:
    """An encoder of torchvision; see `load_encoder`."""
    name, arguments = named.plain, dict(named.arguments)
    of_clips = name in models.list_models(video)
    if not of_clips and name not in models.list_models(models):
        known = models.list_models(models) + models.list_models(video)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CaseError(
            f"encoder {named.name}: no classifier in torchvision.models or torchvision.models.video{hint}"
        )
    transforms: Any = models.get_model_weights(name).DEFAULT.transforms()
    path = Path(arguments.pop("weights"))
    size = int(arguments.pop("size", transforms.crop_size[0]))
    frames = int(arguments.pop("frames", FRAMES)) if of_clips else None

    def make() -> nn.Module:
        built: nn.Module = models.get_model(name, weights=None, **arguments)
        return built.eval().requires_grad_(False)

    try:
        trial = shapes_only(make)
    except Exception as error:  # wrong arguments raise any type
        accepted = inspect.signature(models.get_model_builder(name)).parameters
        raise CaseError(
            f"encoder {named.name}: {first_line(error)}; it takes {', '.join(accepted)}"
        ) from error
    if type(trial) not in FAMILIES:
        families = ", ".join(kind.__name__ for kind in FAMILIES)
        raise CaseError(f"encoder {named.name}: a {type(trial).__name__} is not supported, only {families}")
    encode = partial(_encode, frames)
    shape = (1, 3, size, size) if frames is None else (1, 3, frames, size, size)
    try:
        with torch.no_grad():
            tokens = encode(trial, torch.empty(shape, device="meta")).tokens
    except Exception as error:  # wrong sizes raise any type
        raise CaseError(
            f"encoder {named.name}: cannot take inputs of {'×'.join(map(str, shape[1:]))} "
            f"({first_line(error)}); set `size`{' or `frames`' if frames else ''}"
        ) from error
    _, steps, count, width = tokens.shape
    edge = round(count**0.5)
    assert edge**2 == count, "a square frame has as many rows of tokens as columns"
    model = make()
    return Encoder(
        name=named.name,
        model=model,
        encode=encode,
        frames=frames,
        steps=steps,
        size=size,
        grid=(edge, edge),
        width=width,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        digest=_load(model, path, named.name),
    )


def _load(model: nn.Module, path: Path, name: str) -> torch.Tensor:
    """Load all weights but those of the last layer, which is not used, and return their digest."""
    last = f"{_last(model)}."
    found = {key: value for key, value in read_weights(path).items() if not key.startswith(last)}
    try:
        report = model.load_state_dict(found, strict=False)
    except RuntimeError as error:  # other shapes
        reason = str(error).splitlines()[1].strip()
        raise CaseError(f"{path}: not weights of {name} ({reason})") from error
    missing = [key for key in report.missing_keys if not key.startswith(last)]
    for what, keys in (("lacks", missing), ("has, in addition,", report.unexpected_keys)):
        if keys:
            raise CaseError(f"{path}: not weights of {name}; the file {what} {len(keys)}, e.g. {keys[0]}")
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(last)}
    return weights_digest(kept)


def _last(model: nn.Module) -> str:
    """Name of the classifier's last layer."""
    kinds = (nn.Linear, nn.Conv3d)
    return [name for name, part in model.named_modules() if isinstance(part, kinds)][-1]


def _encode(frames: int | None, model: nn.Module, x: torch.Tensor) -> Encoded:
    part, order = FAMILIES[type(model)]
    kept: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(part).register_forward_hook(lambda _, given, out: kept.append(out)),
        model.get_submodule(_last(model)).register_forward_pre_hook(lambda _, given: kept.append(given[0])),
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    tokens, pooled = kept
    if order == "sequence":
        # A class token first; MViT halves time once, at its start.
        tokens = tokens[:, 1:].unflatten(1, (1 if frames is None else frames // 2, -1))
    else:
        tokens = tokens.movedim(1, -1) if order == "channels first" else tokens
        tokens = tokens.flatten(-3, -2) if frames is not None else tokens.flatten(1, 2)[:, None]
    # S3D's last layer is a convolution, whose outputs are averaged.
    pooled = pooled.flatten(2).mean(2) if pooled.ndim > 2 else pooled
    return Encoded(tokens, pooled)
