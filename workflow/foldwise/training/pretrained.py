"""Weights to start from, matched by name and shape."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Pretrained

# Keys under which other programs store weights, and prefixes added by wrappers.
PLACES = ("network", "state_dict", "model", "network_weights", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "network.", "model.", "net.")
# What a module stores beside its weights, e.g. a hash that it compares.
EXTRA = "_extra_state"
# Names in torchvision's DenseNet files that its network no longer has.
DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


def load_pretrained(network: nn.Module, settings: Pretrained) -> dict[str, list[str]]:
    """Copy the weights that fit, by name and shape, into a network.

    Args:
        network: changed in place.
        settings: the file, and the share of the network's weights that must be in it.

    Returns:
        Names under `matched`, `other_shape`, `not_in_file` and `not_in_network`.

    Raises:
        CaseError: the file cannot be read without executing code, or too little of it fits.
    """
    own, report = fitting(network, settings)
    network.load_state_dict(own)
    return report


def fitting(network: nn.Module, settings: Pretrained) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """The state of a network with the weights of a file that fit, and the report of `load_pretrained`.

    A file of a library's network also fits if a network contains that one as a part (`trunk.`, `frame.`): the
    part that matches most of the file is used.

    Args:
        network: not changed; its parameters may have only shapes.
        settings: the file, and the share of the network's weights that must be in it.

    Raises:
        CaseError: the file cannot be read without executing code, or too little of it fits.
    """
    found = read_weights(settings.file)
    # A network may know the names of its authors' release.
    found = getattr(network, "translated", dict)(found)
    own = network.state_dict()
    prefix = _part_that_fits(own, found)
    found = {prefix + name: value for name, value in found.items()}
    report: dict[str, list[str]] = {"matched": [], "other_shape": [], "not_in_file": []}
    for name, value in own.items():
        if name not in found:
            report["not_in_file"].append(name)
        elif found[name].shape != value.shape:
            report["other_shape"].append(name)
        else:
            own[name] = found[name]
            report["matched"].append(name)
    report["not_in_network"] = [name for name in found if name not in own]
    report = {key: [name for name in names if not name.endswith(EXTRA)] for key, names in report.items()}
    whole = sum(value.numel() for name, value in own.items() if not name.endswith(EXTRA))
    share = sum(own[name].numel() for name in report["matched"]) / whole
    if share < settings.minimum:
        raise CaseError(
            f"{settings.file}: fits {share:.1%} of the network's weights, {settings.minimum:.1%} are "
            f"required (pretrained.minimum); not in the file: {_some(report['not_in_file'])}; of another "
            f"shape: {_some(report['other_shape'])}"
        )
    logging.info(
        "pretrained weights from %s: %.1f %% of the network; %d tensors match, %d have another shape (%s), "
        "%d are not in the file (%s), %d in the file are not used",
        settings.file,
        100 * share,
        len(report["matched"]),
        len(report["other_shape"]),
        _some(report["other_shape"]),
        len(report["not_in_file"]),
        _some(report["not_in_file"]),
        len(report["not_in_network"]),
    )
    return own, report


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, anywhere in a file, without the prefixes of wrappers.

    Raises:
        CaseError: no such file, or it contains more than plain values and tensors, no weights, or NaN.
    """
    if not path.is_file():
        raise CaseError(f"{path}: no such file")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a foreign file raises any of half a dozen types
        # PyTorch adds paragraphs, with advice on how to execute the contents.
        reason = str(error).splitlines()[0].split(". ")[0]
        raise CaseError(
            f"{path}: not readable as plain weights ({reason}); nothing in it was executed"
        ) from error
    for place in PLACES:
        if isinstance(state, dict) and isinstance(state.get(place), dict):
            state = state[place]
    weights = (
        {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, dict) else {}
    )
    if not weights:
        raise CaseError(
            f"{path}: contains no state dict (searched at the top level and under {', '.join(PLACES)})"
        )
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    refuse_not_finite(weights, path)
    return {DENSENET.sub(r"\1", name): value for name, value in weights.items()}


def _part_that_fits(own: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> str:
    """Prefix under which most of the weights match the network's, by name and shape; "": all of it."""

    def fits(prefix: str) -> int:
        there = ((own.get(prefix + name), value) for name, value in found.items())
        return sum(mine.numel() for mine, value in there if mine is not None and mine.shape == value.shape)

    parts = {name[: place + 1] for name in own for place, sign in enumerate(name) if sign == "."}
    return max(["", *sorted(parts, key=len)], key=fits)


def refuse_not_finite(weights: Mapping[str, torch.Tensor], origin: object) -> None:
    """Refuse weights of a diverged training or a damaged file.

    Args:
        weights: weights by name.
        origin: the file, for the message.

    Raises:
        CaseError: a value is NaN or infinite.
    """
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise CaseError(
            f"{origin}: {len(broken)} of {len(weights)} tensors contain NaN or infinite values "
            f"({_some(broken)}); use another file, or train again"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) + more) or "none"
