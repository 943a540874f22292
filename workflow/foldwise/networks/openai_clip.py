"""OpenAI's released CLIP archives (ViT-B/32, ViT-B/16, ViT-L/14, …) as a model of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from foldwise.files import CaseError
from foldwise.networks.torchscript import read_torchscript

# All their transformers have heads of 64 channels.
HEAD = 64
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
PARTS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Sizes, which some archives store as tensors.
SIZES = {"input_resolution", "context_length", "vocab_size"}
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")


def read_openai_clip(path: Path) -> transformers.CLIPModel:
    """Both transformers of an archive, in float32; its code is not executed.

    The archive has no tokenizer, so sentences need a folder saved by transformers instead.

    Raises:
        CaseError: not such an archive, or one with a ResNet.
    """
    found = read_torchscript(path)
    needed = {*NAMES, *TRANSPOSED}
    if missing := sorted(needed - found.keys()):
        raise CaseError(f"{path}: not a CLIP archive with a vision transformer; it has no {missing[0]}")
    model = transformers.CLIPModel(_config(found))
    try:
        state = _renamed(found)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise CaseError(f"{path}: not a CLIP archive with a vision transformer ({error})") from error
    return model


def _config(found: Mapping[str, torch.Tensor]) -> transformers.CLIPConfig:
    width, _, patch, _ = found["visual.conv1.weight"].shape
    words, text_width = found["token_embedding.weight"].shape
    grid = round((len(found["visual.positional_embedding"]) - 1) ** 0.5)
    blocks = [match.groups() for name in found if (match := BLOCK.fullmatch(name))]
    depth = {
        tower: len({number for one, number, *_ in blocks if one == tower}) for tower in ("visual.", None)
    }

    def sizes(width: int, depth: int) -> dict[str, int]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": max(1, width // HEAD),
        }

    return transformers.CLIPConfig(
        vision_config={
            **sizes(width, depth["visual."]),
            "image_size": grid * patch,
            "patch_size": patch,
            "projection_dim": found["visual.proj"].shape[1],
        },
        text_config={
            **sizes(text_width, depth[None]),
            "vocab_size": words,
            "max_position_embeddings": len(found["positional_embedding"]),
            "projection_dim": found["text_projection"].shape[1],
            # A sentence is read at its end token, the last of the vocabulary.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": words - 1,
        },
        projection_dim=found["visual.proj"].shape[1],
    )


def _renamed(found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under transformers' names; a KeyError names one that it does not have."""
    state: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        value, (part, _, kind) = value.float(), name.rpartition(".")
        if name in SIZES:
            continue
        if name in NAMES:
            state[NAMES[name]] = value
        elif name in TRANSPOSED:
            state[TRANSPOSED[name]] = value.T.contiguous()
        elif part in PARTS:
            state[f"{PARTS[part]}.{kind}"] = value
        elif match := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name):
            tower = "vision_model" if match[1] else "text_model"
            block = f"{tower}.encoder.layers.{match[2]}."
            if match[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    state[f"{block}self_attn.{letter}_proj.{match[3].rpartition('_')[2]}"] = third.clone()
            else:
                inner, _, kind = match[3].rpartition(".")
                state[f"{block}{IN_BLOCK[inner]}.{kind}"] = value
        else:
            raise KeyError(name)
    return state
