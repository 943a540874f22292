"""Clips of a video: their frames, views and training augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

# Aspect ratios of random resized crops, as in EVL and most of the field.
ASPECTS = (3 / 4, 4 / 3)


def dense_draw(count: int, frames: int, rate: int, random: np.random.Generator) -> np.ndarray:
    """Numbers of `frames` frames, `rate` apart from a random start; past the end the last one is repeated.

    Args:
        count: frames of the video.
        frames: frames of the clip.
        rate: step between them.
        random: draws the start.
    """
    span = rate * (frames - 1) + 1
    start = int(random.integers(count - span + 1)) if span < count else 0
    return np.minimum(start + rate * np.arange(frames), count - 1)


def dense_views(count: int, frames: int, rate: int, views: int) -> np.ndarray:
    """Numbers (views, frames) of clips spread evenly over a video; a single view is the middle.

    Args:
        count: frames of the video.
        frames: frames of a clip.
        rate: step between them.
        views: number of clips.
    """
    room = max(count - (rate * (frames - 1) + 1), 0)
    starts = [room // 2] if views == 1 else [round(room * view / (views - 1)) for view in range(views)]
    return np.minimum(np.array(starts)[:, None] + rate * np.arange(frames), count - 1)


def segment_draw(count: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """Numbers of `frames` frames, one drawn from each equal part of the video (Wang et al. 2016).

    Args:
        count: frames of the video.
        frames: frames of the clip.
        random: draws the frames.
    """
    edges = _half_up((count - 1) / frames * np.arange(frames + 1))
    return random.integers(edges[:-1], edges[1:], endpoint=True)


def segment_views(count: int, frames: int, views: int) -> np.ndarray:
    """Numbers (views, frames): in view v of n, the position (v + ½)/n of each equal part of the video.

    Args:
        count: frames of the video.
        frames: frames of a clip.
        views: number of clips.
    """
    places = np.arange(frames)[None] + (np.arange(views)[:, None] + 0.5) / views
    return _half_up((count - 1) / frames * places)


def spatial_views(clip: torch.Tensor, size: int, views: int) -> list[torch.Tensor]:
    """Squares of a clip (…, height, width): shorter side resized to `size`, longer side cropped.

    Args:
        clip: frames.
        size: edge of the squares.
        views: 1: the middle; more: evenly spaced from start to end.
    """
    height, width = clip.shape[-2:]
    scale = size / min(height, width)
    new = [max(size, round(height * scale)), max(size, round(width * scale))]
    resized = F.resize(clip, new, v2.InterpolationMode.BILINEAR, antialias=True)
    room = max(new) - size
    starts = [room // 2] if views == 1 else [round(room * view / (views - 1)) for view in range(views)]
    along = -2 if new[0] > new[1] else -1
    return [resized.narrow(-2, 0, size).narrow(-1, 0, size) if room == 0
            else resized.narrow(along, start, size) for start in starts]  # fmt: skip


def random_resized_crop(
    clip: torch.Tensor, size: int, area: tuple[float, float], random: np.random.Generator
) -> torch.Tensor:
    """A random part of a clip (…, height, width), the same for all frames, as a square of `size`.

    Args:
        clip: frames.
        size: edge of the square.
        area: smallest and largest share of the frame.
        random: draws the part.
    """
    height, width = clip.shape[-2:]
    for _ in range(10):
        wanted = random.uniform(*area) * height * width
        aspect = math.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        high, wide = round(math.sqrt(wanted / aspect)), round(math.sqrt(wanted * aspect))
        if 0 < high <= height and 0 < wide <= width:
            top = int(random.integers(height - high + 1))
            left = int(random.integers(width - wide + 1))
            return F.resized_crop(clip, top, left, high, wide, [size, size], antialias=True)
    # No part with that area and aspect fits: take the largest central square.
    return spatial_views(clip, size, 1)[0]


def rand_augment(clip: torch.Tensor, operations: int, magnitude: int, seed: int) -> torch.Tensor:
    """RandAugment (Cubuk et al. 2020) of a clip (T, 3, height, width) uint8, the same draw for all frames.

    Args:
        clip: frames.
        operations: applied one after another.
        magnitude: 0 to 30.
        seed: seed of the draw; torch's global generator is not changed.
    """
    transform = v2.RandAugment(operations, magnitude, interpolation=v2.InterpolationMode.BILINEAR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed: torch.Tensor = transform(clip)
    return changed


def normalised(clip: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """A clip (T, 3, height, width) in 0 … 255 as (3, T, height, width) with the given mean and deviation."""
    scaled = clip.float() / 255
    scaled_clip = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return scaled_clip.transpose(0, 1)


def _half_up(values: np.ndarray) -> np.ndarray:
    """Rounded to integers, halves upwards (numpy rounds them to even numbers)."""
    return np.floor(values + 0.5).astype(int)
