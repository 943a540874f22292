"""Weights under the names and with the shapes of SAM's and MedSAM's checkpoints, of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Shapes = dict[str, tuple[int, ...]]


def original_shapes(
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    grid: int = 64,
    patch: int = 16,
    window: int = 14,
    whole: Sequence[int] = (2, 5, 8, 11),
    out: int = 256,
    inner: int = 2048,
) -> Shapes:
    """Name → shape; by default those of medsam_vit_b.pth.

    Args:
        width: width of the image encoder.
        depth: number of its blocks.
        heads: number of its attention heads.
        grid: patches along an edge.
        patch: pixels of a patch along an edge.
        window: window of the local attention.
        whole: blocks with global attention.
        out: channels of the image's embedding.
        inner: width of the mask decoder's MLPs.
    """
    shapes: Shapes = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, channels: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (channels,), (channels,)

    shapes["image_encoder.pos_embed"] = (1, grid, grid, width)
    shapes["image_encoder.patch_embed.proj.weight"] = (width, 3, patch, patch)
    shapes["image_encoder.patch_embed.proj.bias"] = (width,)
    for number in range(depth):
        block, reach = f"image_encoder.blocks.{number}", 2 * (grid if number in whole else window) - 1
        norm(f"{block}.norm1", width)
        shapes[f"{block}.attn.rel_pos_h"] = shapes[f"{block}.attn.rel_pos_w"] = (reach, width // heads)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.lin1", 4 * width, width)
        linear(f"{block}.mlp.lin2", width, 4 * width)
    shapes["image_encoder.neck.0.weight"] = (out, width, 1, 1)
    norm("image_encoder.neck.1", out)
    shapes["image_encoder.neck.2.weight"] = (out, out, 3, 3)
    norm("image_encoder.neck.3", out)

    shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = (2, out // 2)
    for name in (*(f"point_embeddings.{n}" for n in range(4)), "not_a_point_embed", "no_mask_embed"):
        shapes[f"prompt_encoder.{name}.weight"] = (1, out)
    for place, outputs, inputs, edge in ((0, 4, 1, 2), (3, 16, 4, 2), (6, out, 16, 1)):
        shapes[f"prompt_encoder.mask_downscaling.{place}.weight"] = (outputs, inputs, edge, edge)
        shapes[f"prompt_encoder.mask_downscaling.{place}.bias"] = (outputs,)
    norm("prompt_encoder.mask_downscaling.1", 4)
    norm("prompt_encoder.mask_downscaling.4", 16)

    def attention(name: str, width: int) -> None:
        for part in ("q_proj", "k_proj", "v_proj"):
            linear(f"{name}.{part}", width, out)
        linear(f"{name}.out_proj", out, width)

    for number in range(2):
        layer = f"mask_decoder.transformer.layers.{number}"
        attention(f"{layer}.self_attn", out)
        attention(f"{layer}.cross_attn_token_to_image", out // 2)
        attention(f"{layer}.cross_attn_image_to_token", out // 2)
        linear(f"{layer}.mlp.lin1", inner, out)
        linear(f"{layer}.mlp.lin2", out, inner)
        for place in range(1, 5):
            norm(f"{layer}.norm{place}", out)
    attention("mask_decoder.transformer.final_attn_token_to_image", out // 2)
    norm("mask_decoder.transformer.norm_final_attn", out)
    shapes["mask_decoder.iou_token.weight"] = (1, out)
    shapes["mask_decoder.mask_tokens.weight"] = (4, out)
    for place, inputs, outputs in ((0, out, out // 4), (3, out // 4, out // 8)):
        shapes[f"mask_decoder.output_upscaling.{place}.weight"] = (inputs, outputs, 2, 2)
        shapes[f"mask_decoder.output_upscaling.{place}.bias"] = (outputs,)
    norm("mask_decoder.output_upscaling.1", out // 4)
    for number in range(4):
        mlp = f"mask_decoder.output_hypernetworks_mlps.{number}.layers"
        linear(f"{mlp}.0", out, out)
        linear(f"{mlp}.1", out, out)
        linear(f"{mlp}.2", out // 8, out)
    head = "mask_decoder.iou_prediction_head.layers"
    linear(f"{head}.0", 256, out)
    linear(f"{head}.1", 256, 256)
    linear(f"{head}.2", 4, 256)
    return shapes


TINY = {"width": 32, "depth": 3, "heads": 2, "grid": 4, "window": 3, "whole": (2,), "out": 16, "inner": 32}


def tiny_weights() -> dict[str, torch.Tensor]:
    """Weights of a small SAM (64×64 pixels) by a formula: the scaled sine of each number's index."""
    weights = {}
    for number, (name, shape) in enumerate(original_shapes(**TINY).items()):  # type: ignore[arg-type]
        places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        values = torch.sin(places * 1.7 + number).reshape(shape).float()
        weights[name] = 1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.3 * values
    return weights
