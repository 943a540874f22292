"""MedSAM (Ma et al. 2024, Nat Commun 15:654) in transformers' SAM classes, from its .pth checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from transformers import SamConfig, SamModel

from foldwise.device import chosen_device, log_device
from foldwise.files import CaseError
from foldwise.networks.local_weights import refuse_other_type
from foldwise.training.pretrained import read_weights, refuse_not_finite

# Patterns of original names and their replacements in transformers, applied in this order to every name.
RENAMED: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (
        r"^mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.",
        r"mask_decoder.transformer.layers.\1.layer_norm\2.",
    ),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.proj_in."),
    (
        r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.1\.",
        r"\1.layers.0.",
    ),
    (
        r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.2\.",
        r"\1.proj_out.",
    ),
)
# The prompt encoder's copy of the positions, which transformers ties to the image's.
SHARED = "shared_image_embedding.positional_embedding"
TIED = "prompt_encoder.shared_embedding.positional_embedding"


class Found(NamedTuple):
    """A mask (height, width) bool, and the IoU that the network predicts for it."""

    mask: np.ndarray
    score: float


class MedSAM:
    """Masks from boxes, by MedSAM's conventions for input and output."""

    def __init__(self, model: SamModel) -> None:
        """Store a network from `load_medsam`."""
        self.model = model.eval().requires_grad_(False)
        vision: Any = model.config.vision_config
        self.size: int = vision.image_size
        self.device = chosen_device()
        log_device(self.device, "32-true")
        self.model.to(self.device)

    def __call__(self, image: np.ndarray, box: Sequence[float]) -> Found:
        """The object in a box; see `batch`."""
        return self.batch([image], [box])[0]

    @torch.no_grad()
    def batch(self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[float]]) -> list[Found]:
        """The object in a box of each image, by one pass of the network.

        Args:
            images: (height, width, 3) uint8 of one size, RGB; grey images have three equal channels.
            boxes: x0, y0, x1, y1 in pixels of each image.
        """
        height, width = images[0].shape[:2]
        scale = torch.tensor([self.size / width, self.size / height] * 2, device=self.device)
        scaled = torch.tensor([list(box) for box in boxes], device=self.device) * scale
        outputs = self.model(
            pixel_values=torch.cat([self.pixels(image) for image in images]),
            input_boxes=scaled[:, None].float(),
            multimask_output=False,
        )
        probability = torch.nn.functional.interpolate(
            outputs.pred_masks[:, 0].float().sigmoid(), (height, width), mode="bilinear", align_corners=False
        )
        masks = (probability[:, 0] > 0.5).cpu().numpy()
        return [Found(*each) for each in zip(masks, outputs.iou_scores[:, 0, 0].tolist(), strict=True)]

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """The network's input: the whole image as a square, in steps of uint8, from 0 to 1."""
        values = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)[None].to(self.device)
        square = torch.nn.functional.interpolate(
            values.float(), (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
        )
        square = square.round().clamp(0, 255)
        low, high = square.amin(), square.amax()
        return (square - low) / (high - low).clamp(min=1e-8)


def load_medsam(path: Path) -> SamModel:
    """A SAM of transformers with MedSAM's weights, executing nothing in the file.

    Args:
        path: the original checkpoint (.pth, from `medsam_vit_b` or, under `model`, from training), or a
            folder of a `SamModel` saved by transformers.

    Raises:
        CaseError: not such a file, or sizes that contradict each other.
    """
    if path.is_dir():
        refuse_other_type(path, "prepare.regions.method: medsam", SamModel)
        try:
            loaded: Any = SamModel.from_pretrained(str(path), local_files_only=True, output_loading_info=True)
        except Exception as error:  # wrong files raise any of half a dozen types
            raise CaseError(f"{path}: not readable as a SamModel of transformers ({error})") from error
        if lost := sorted(loaded[1]["missing_keys"]):
            raise CaseError(
                f"{path}: is not a complete SamModel; {len(lost)} weights are missing, e.g. {lost[0]}"
            )
        refuse_not_finite(loaded[0].state_dict(), path)
        return cast("SamModel", loaded[0])
    return from_original(read_weights(path), str(path))


def from_original(weights: Mapping[str, torch.Tensor], origin: str = "the checkpoint") -> SamModel:
    """A SAM of transformers with weights under the original's names.

    Raises:
        CaseError: a weight is missing, unknown, or of wrong shape.
    """
    renamed = {rename(name): value for name, value in weights.items()}
    if SHARED in renamed:
        renamed[TIED] = renamed[SHARED]
    with torch.device("meta"):
        model = SamModel(_config(renamed, origin))
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in renamed]
    problems += [f"{name} does not belong to SAM" for name in renamed if name not in wanted]
    problems += [
        f"{name} is {tuple(renamed[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in renamed and renamed[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CaseError(f"{origin}: not MedSAM's weights: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(renamed, assign=True)
    return model.float()


def rename(name: str) -> str:
    """The name in transformers of a weight of the original."""
    for pattern, replacement in RENAMED:
        name, changed = re.subn(pattern, replacement, name)
        if changed:
            break
    return name


def _config(weights: Mapping[str, torch.Tensor], origin: str) -> SamConfig:
    """The sizes of a SAM, inferred from its weights; windowed and global attention as in SAM's ViT-B."""
    try:
        position = weights["vision_encoder.pos_embed"]
        patch = weights["vision_encoder.patch_embed.projection.weight"]
        neck = weights["vision_encoder.neck.conv1.weight"]
        mlp = weights["vision_encoder.layers.0.mlp.lin1.weight"]
        reach = {
            int(name.split(".")[2]): (value.shape[0] + 1) // 2
            for name, value in weights.items()
            if name.endswith("attn.rel_pos_h")
        }
        depth = weights["vision_encoder.layers.0.attn.rel_pos_h"].shape[1]
        hidden = weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
    except KeyError as error:
        raise CaseError(f"{origin}: not MedSAM's weights: {error.args[0]} is missing") from None
    grid, width = position.shape[1], position.shape[3]
    inputs = weights["mask_decoder.transformer.layers.0.self_attn.q_proj.weight"].shape[1]
    layers = {name.split(".")[3] for name in weights if name.startswith("mask_decoder.transformer.layers.")}
    # Relative positions cover the window, or the whole grid if attention is global.
    window = [size for size in reach.values() if size != grid]
    mask_embed = weights["prompt_encoder.mask_embed.conv3.weight"]
    return SamConfig(
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": len(reach),
            "num_attention_heads": width // depth,
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "output_channels": neck.shape[0],
            "mlp_dim": mlp.shape[0],
            "mlp_ratio": mlp.shape[0] / width,
            "window_size": window[0] if window else 0,
            "global_attn_indexes": sorted(number for number, size in reach.items() if size == grid),
            "num_pos_feats": weights[SHARED].shape[1],
        },
        prompt_encoder_config={
            "hidden_size": inputs,
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
            "mask_input_channels": mask_embed.shape[1],
        },
        mask_decoder_config={"hidden_size": inputs, "mlp_dim": hidden, "num_hidden_layers": len(layers)},
    )
