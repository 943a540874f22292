"""Encoders of transformers with few channels and random weights, saved as by their library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

TINY = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FRAMES = {**TINY, "image_size": 32, "patch_size": 8}
# Arguments of the configuration of each class, and the tokens before those of the patches.
SAVED: dict[str, tuple[dict[str, Any], int]] = {
    "CLIPVisionModel": (FRAMES, 1),
    "SiglipVisionModel": (FRAMES, 0),
    "Dinov2Model": (FRAMES, 1),
    "Dinov2WithRegistersModel": ({**FRAMES, "num_register_tokens": 3}, 4),
    "DINOv3ViTModel": ({**FRAMES, "num_register_tokens": 2}, 3),
    "DINOv3ConvNextModel": ({"hidden_sizes": [4, 6, 8, 10], "depths": [1] * 4, "image_size": 64}, 1),
    "VideoMAEModel": ({**FRAMES, "num_frames": 4}, 0),
    "VJEPA2Model": (
        {
            **{key: value for key, value in TINY.items() if key != "intermediate_size"},
            "crop_size": 32,
            "patch_size": 8,
            "frames_per_clip": 4,
            "pred_hidden_size": 12,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        0,
    ),
}
CLIPS = ("VideoMAEModel", "VJEPA2Model")


def save(kind: str, folder: Path, **changes: Any) -> Any:
    """A network with random weights, saved by transformers."""
    torch.manual_seed(0)
    cls = getattr(transformers, kind)
    model = cls(cls.config_class(**{**SAVED[kind][0], **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return model
