"""What settings and forecasts know of frozen encoders, without loading them (foldwise.networks.encoders)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from foldwise.files import CaseError, files_in, read_json
from foldwise.forecast import Step
from foldwise.settings import Named

ENCODER = (
    "A frozen network that turns {what} into features: `transformers:<class>` with `weights`, a folder saved "
    "by transformers (CLIPModel, SiglipModel, DINOv3ViTModel, VideoMAEModel, VJEPA2Model, …), or "
    "`torchvision:<network>` with `weights`, a state dict (convnext_tiny, swin_t, r2plus1d_18, swin3d_t, …)."
)
# Networks that take clips; all others take single frames.
OF_CLIPS = frozenset(
    (
        *("VideoMAEModel", "VJEPA2Model"),
        *("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s"),
        *("swin3d_t", "swin3d_s", "swin3d_b"),
    )
)
# Of torchvision's networks: frames that become one time step, pixels along the edge of a token, and width.
STRIDES = {
    "r3d_18": (8, 16, 512),
    "mc3_18": (1, 16, 512),
    "r2plus1d_18": (8, 16, 512),
    "s3d": (8, 32, 1024),
    "mvit_v1_b": (2, 32, 768),
    "mvit_v2_s": (2, 32, 768),
    "swin3d_b": (2, 32, 1024),
    "resnet18": (1, 32, 512),
    "resnet34": (1, 32, 512),
    "resnet50": (1, 32, 2048),
    "resnet101": (1, 32, 2048),
    "convnext_base": (1, 32, 1024),
    "swin_b": (1, 32, 1024),
    "swin_v2_b": (1, 32, 1024),
    "vit_b_16": (1, 16, 768),
    "vit_l_16": (1, 16, 1024),
}
# Bytes that an encoder holds per frame; and the number of a usual one's weights.
FRAME_BYTES, FROZEN_WEIGHTS = 12 * 2**20, 150 * 10**6
# What transformers assumes for a configuration without these values.
FRAMES, TUBELET, PATCH, WIDTH = 16, 2, 16, 768


class Shape(NamedTuple):
    """Shape of an encoder's tokens for a frame or a clip: time steps, tokens of a step, width."""

    steps: int
    places: int
    width: int


def frozen_step(frames: int) -> Step:
    """An estimate of a pass of an encoder on some frames."""
    held = frames * FRAME_BYTES
    return Step(FROZEN_WEIGHTS // 5, held, 0, held)


def frozen_bytes(weights: Path) -> int:
    """Peak memory of a frozen network's weights, at least that of a usual one's, which may not be there yet.

    Args:
        weights: its file or folder. Files in half precision are held besides their values in float32.
    """
    try:
        size = sum(Path(name).stat().st_size for name in files_in(weights))
    except OSError:  # missing, which the check names
        size = 0
    config = _config(weights)
    half = "16" in str(config.get("dtype", config.get("torch_dtype")))
    return max(4 * FROZEN_WEIGHTS, (3 if half else 1) * size)


def clip_frames(encoder: Named) -> int:
    """Frames that an encoder takes at once: one, or a clip's, by default as many as it was made for."""
    if not takes_clips(encoder):
        return 1
    config = _config(weights_of(encoder))
    own = config.get("frames_per_clip") or config.get("num_frames") or FRAMES
    return int(encoder.arguments.get("frames", own))


def takes_clips(encoder: Named) -> bool:
    """Whether an encoder takes clips, and not single frames."""
    return encoder.plain in OF_CLIPS


def weights_of(encoder: Named) -> Path:
    """Its file or folder of weights."""
    return Path(encoder.arguments["weights"])


def refuse_encoder(encoder: Named, **owned: str) -> None:
    """Refuse settings of an encoder that no job could use.

    Args:
        encoder: the settings.
        owned: argument that another setting defines → name of that setting.

    Raises:
        ValueError: no weights, or such an argument.
    """
    if not encoder.arguments.get("weights"):
        raise ValueError(f"encoder {encoder.name} needs `weights`, a local file or folder")
    for key, other in owned.items():
        if key in encoder.arguments:
            raise ValueError(f"encoder: remove `{key}`, which is taken from {other}")


def shape_of(encoder: Named, size: int, frames: int = FRAMES) -> Shape:
    """An estimate of the shape of its tokens, from its configuration.

    Args:
        encoder: its settings.
        size: edge of a frame. Pixels.
        frames: of a clip, if it takes clips.
    """
    clips = takes_clips(encoder)
    if encoder.name.startswith("torchvision:"):
        along, edge, width = STRIDES.get(encoder.plain, (2 if clips else 1, 32, 768))
        return Shape(max(1, frames // along) if clips else 1, (size // edge) ** 2, width)
    config = _config(weights_of(encoder))
    config = config.get("vision_config", config)
    edge = config.get("patch_size", 32 if "ConvNext" in encoder.plain else PATCH)
    widths = config.get("hidden_sizes", [config.get("hidden_size", WIDTH)])
    steps = max(1, frames // config.get("tubelet_size", TUBELET)) if clips else 1
    return Shape(steps, (size // edge) ** 2, widths[-1])


def _config(weights: Path) -> dict[str, Any]:
    """The configuration in a folder saved by transformers; otherwise empty."""
    try:
        config = read_json(weights / "config.json")
    except (CaseError, OSError):  # OpenAI's archive; or missing, which the check names
        return {}
    return config if isinstance(config, dict) else {}
