"""SAM 2 and EdgeTAM for video, small, with random weights, in the real classes of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import EdgeTamVideoConfig, EdgeTamVideoModel, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig

SIZE = 64


def tiny_network(kind: str = "sam2_video") -> Any:
    """A network for squares of 64 pixels whose masks differ between frames.

    EdgeTAM's own image encoder needs the package timm; here it has SAM 2's.
    """
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIZE, SIZE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        # Memories have 64 channels in all sizes, and a width is a multiple of it.
        fpn_hidden_size=128,
        fpn_top_down_levels=[2, 3],
    )
    width = dict.fromkeys(("memory_attention_hidden_size", "memory_encoder_hidden_size"), 128)
    width |= dict.fromkeys(("mask_downsampler_embed_dim", "memory_fuser_embed_dim"), 128)
    common: dict[str, Any] = {
        "vision_config": vision.to_dict(),
        "prompt_encoder_config": {"hidden_size": 128, "image_size": SIZE, "patch_size": 16},
        "mask_decoder_config": {
            "hidden_size": 128,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        "image_size": SIZE,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [4, 4],
        "memory_fuser_intermediate_dim": 32,
        **width,
    }
    config: Any
    if kind == "sam2_video":
        config = Sam2VideoConfig(**common, memory_attention_feed_forward_hidden_size=32)
        kinds: Any = Sam2VideoModel
    else:
        config = EdgeTamVideoConfig(
            **common,
            memory_attention_mlp_hidden_size=32,
            memory_attention_rope_k_sizes=[2, 2],
            perceiver_resampler_num_latents=4,
            perceiver_resampler_num_latents_2d=4,
        )
        kinds = EdgeTamVideoModel
    # One of those with which the object is not lost.
    torch.manual_seed(0 if kind == "sam2_video" else 6)
    model = kinds(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # Larger than usual, so that masks are neither empty nor full.
            if weight.ndim > 1:
                weight.normal_(std=0.12)
    return model


def save_tiny_network(folder: Path, kind: str = "sam2_video") -> Path:
    """Write config and weights as transformers does."""
    tiny_network(kind).save_pretrained(folder)
    return folder
