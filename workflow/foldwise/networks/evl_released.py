"""EVL's released checkpoints: their decoder and head under the names of `foldwise.networks.evl.EVL`.

The checkpoints have no backbone; it is CLIP's, by OpenAI. Their offsets of patches count from the key to the
query, ours from the query to the key, so the tables are reversed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from foldwise.files import CaseError

# The first weight of every release.
MARK = "decoder.cls_token"
LAYERS = {
    "norm1": "query_norm",
    "norm2": "mlp_norm",
    "norm3": "memory_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
QKV = ("q_proj", "k_proj", "v_proj")


def from_released(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with the names of a release under ours; others unchanged.

    The head (400 classes of Kinetics) is `head.2`, which a network with other classes does not take.

    Args:
        found: a checkpoint's `model`, without the prefix `module.`.

    Raises:
        CaseError: a release whose weights are not complete, or one with weights that EVL does not have.
    """
    if MARK not in found:
        return dict(found)
    rest = dict(found)
    ours = {"query": rest.pop(MARK)}
    try:
        for part, place in (("proj.0", "head.0"), ("proj.2", "head.2")):
            for kind in ("weight", "bias"):
                ours[f"{place}.{kind}"] = rest.pop(f"{part}.{kind}")
        for number in range(_count(found)):
            _layer(rest, ours, number)
    except KeyError as error:
        raise CaseError(
            f"a released EVL checkpoint lacks {error}; only those with all three temporal terms fit"
        ) from error
    if rest:
        raise CaseError(f"a released EVL checkpoint has a weight that EVL does not have: {min(rest)}")
    return ours


def _count(found: Mapping[str, torch.Tensor]) -> int:
    numbers = (re.match(r"decoder\.decoder_layers\.(\d+)\.", name) for name in found)
    return len({match[1] for match in numbers if match})


def _layer(rest: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], number: int) -> None:
    """Move a decoder layer and its temporal terms."""
    terms, layer = f"temporal.{number}.", f"layers.{number}."
    for kind in ("weight", "bias"):
        ours[f"{terms}convolution.{kind}"] = rest.pop(f"decoder.temporal_conv.{number}.{kind}")
    ours[f"{terms}position"] = rest.pop(f"decoder.temporal_pos_embed.{number}")
    tables = (rest.pop(f"decoder.cross_attention.{number}.{name}") for name in ("w1", "w2"))
    ours[f"{terms}offsets"] = torch.stack([table.flip(0) for table in tables])
    theirs = f"decoder.decoder_layers.{number}."
    for kind in ("weight", "bias"):
        parts = [rest.pop(f"{theirs}attn.{name}.{kind}") for name in QKV]
        ours[f"{layer}attention.in_proj_{kind}"] = torch.cat(parts)
        ours[f"{layer}attention.out_proj.{kind}"] = rest.pop(f"{theirs}attn.out_proj.{kind}")
        for part, name in LAYERS.items():
            ours[f"{layer}{name}.{kind}"] = rest.pop(f"{theirs}{part}.{kind}")
