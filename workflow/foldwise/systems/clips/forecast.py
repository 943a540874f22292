"""How much memory and disk clips will need, from their headers and the networks' shapes."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from foldwise import forecast
from foldwise.forecast import BASE_MIB, TORCH_MIB, WORKER_MIB, WORKERS, Step
from foldwise.systems.clips.settings import FROZEN, Model, Settings
from foldwise.video.decode import VideoInfo

# SAM's image encoder on one image of 1024², its weights included.
MEDSAM_MIB = 4000
# A frame as JPEG of quality 90, and as raw values compressed, as shares of its values.
SHARES = {"jpeg": 0.08, "raw": 0.45}
# What a frozen transformer holds of a frame, in bytes; and its weights, where nothing is counted.
FRAME_BYTES, FROZEN_WEIGHTS = 12 * 2**20, 150 * 10**6
# Bytes of a frame that is decoded, resized, and waits in a codec's buffers.
CODEC_FRAMES = 40


def count(model: Model, task: dict[str, Any], memory: Path, trying: bool = False) -> Step:
    """Count a model's step, or recall it; of a frozen network it is a guess.

    Args:
        model: its settings.
        task: what is learnt.
        memory: JSON file that remembers counts; it may be missing.
        trying: also try everything else that a training makes of the settings.
    """
    clip = model.clip
    frozen = model.network.plain in FROZEN
    asked = model.model_dump(mode="json", include={"network", "input"})
    key = [asked, clip.frames, clip.size, model.training.batch, len(task["classes"])]
    if trying or not frozen:
        step = forecast.remembered("clips", model, task, key, memory, trying=trying)
    if frozen:
        held = model.training.batch * clip.frames * FRAME_BYTES
        return Step(FROZEN_WEIGHTS // 5, held, 0, held)
    return step


def model_mib(stage: str, model: Model, step: Step) -> int:
    """Peak memory of training, testing or storing features, on a CPU, in MiB.

    Args:
        stage: clip_features, train, test, ensemble or predict.
        model: its settings.
        step: what a training step holds.
    """
    clip = model.clip
    item = 4 * 4 * clip.frames * clip.size**2
    frozen = 4 * FROZEN_WEIGHTS if model.network.plain in FROZEN else 0
    if stage == "train":
        own = TORCH_MIB + (20 * step.weights + frozen) / 2**20 + WORKERS * WORKER_MIB
        shared = step.kept + 2 * step.largest + WORKERS * 4 * item * model.training.batch
        return ceil(forecast.processes_mib(model.training.gpus, own) + shared / 2**20)
    views = clip.spatial_views * (step.forward / model.training.batch + 3 * item)
    return ceil(TORCH_MIB + (4 * step.weights + frozen + views) / 2**20)


def case_mib(stage: str, info: VideoInfo, settings: Settings) -> int:
    """Peak memory of caching a clip or finding its region, in MiB.

    Args:
        stage: clip_cache or roi.
        info: of the video.
        settings: of the experiment.
    """
    frames, height, width = cached_size(info, settings)
    if stage == "clip_cache":
        return ceil(BASE_MIB + CODEC_FRAMES * 3 * info.height * info.width / 2**20)
    regions = settings.prepare.regions
    base = TORCH_MIB + MEDSAM_MIB if regions is not None and regions.method == "medsam" else BASE_MIB + 150
    keys = frames / (regions.key_every if regions else 1)
    return ceil(base + height * width * (2 * frames + keys + 24 * 3 + 40) / 2**20)


def disk_mib(info: VideoInfo, settings: Settings) -> dict[str, float]:
    """Disk of a case by kind, in MiB."""
    frames, height, width = cached_size(info, settings)
    values = frames * height * width
    made = {"cache": 3 * values * SHARES[settings.cache.encoding] / 2**20}
    if settings.prepare.regions is not None:
        made["regions"] = 0.02 * values / 2**20
    return made


def cached_size(info: VideoInfo, settings: Settings) -> tuple[int, int, int]:
    """Frames, height and width of a clip's cache."""
    cache = settings.cache
    scale = min(1.0, cache.size / min(info.height, info.width)) if cache.size else 1.0
    frames = info.frames if cache.fps is None else min(info.frames, ceil(info.duration_s * cache.fps) + 1)
    return frames, round(info.height * scale), round(info.width * scale)
