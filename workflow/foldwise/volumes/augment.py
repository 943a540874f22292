"""Augmentation of whole batches on the training device, drawn from a given generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from foldwise.volumes.settings import Augmentation


def augment(
    image: torch.Tensor,
    label: torch.Tensor,
    spacing: torch.Tensor,
    settings: Augmentation,
    generator: torch.Generator,
    across: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change each sample of a batch at random.

    If voxels are more than three times as long along one axis as along another, rotation is only about that
    axis, as in nnU-Net: rotated out of their plane, slices would be smeared.

    Args:
        image: (batch, channels, x, y, z), normalised floats.
        label: (batch, x, y, z), integers; moved exactly as the image, never interpolated.
        spacing: (batch, 3) in mm; rotations are rigid in mm even if voxels are not cubes.
        settings: the allowed changes.
        generator: on the image's device; the result depends only on its state.
        across: axis across the slices (0 to 2) if rotation is about it alone and it is not zoomed.
    """

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=image.device)

    batch = image.shape[0]
    # All numbers are always drawn, so that one setting does not affect another's draws.
    flips = draw(batch, 3) < 0.5
    moved, angles, zoom = draw(batch), draw(batch, 3) * 2 - 1, draw(batch) * 2 - 1
    touched, amounts = draw(batch, 4), draw(batch, 4)

    if settings.flip:
        pairs = [_flipped(image[i], label[i], [a for a in range(3) if flips[i, a]]) for i in range(batch)]
        image = torch.stack([pair[0] for pair in pairs])
        label = torch.stack([pair[1] for pair in pairs])
    chosen = (moved < settings.affine_probability).nonzero().flatten()
    if len(chosen) and (settings.rotate_deg or settings.scale):
        free = _free_axes(spacing[chosen], across)
        matrices = rotation(angles[chosen] * free * math.radians(settings.rotate_deg))
        zooms = (1 + zoom[chosen] * settings.scale)[:, None].repeat(1, 3)
        if across is not None:
            zooms[:, across] = 1
        matrices = matrices * zooms[:, None, :]
        moved_image, moved_label = warp(image[chosen], label[chosen], spacing[chosen], matrices)
        image, label = image.clone(), label.clone()
        image[chosen], label[chosen] = moved_image, moved_label
    return _intensity(image, settings, touched, amounts, generator), label


def _free_axes(spacing: torch.Tensor, across: int | None) -> torch.Tensor:
    """1 for each axis (batch, 3) about which a sample may be rotated, else 0."""
    if across is not None:
        return torch.eye(3, device=spacing.device)[across].expand(len(spacing), 3)
    coarse = F.one_hot(spacing.argmax(1), 3).to(spacing)
    flat = spacing.amax(1) > 3 * spacing.amin(1)
    return torch.where(flat[:, None], coarse, torch.ones_like(coarse))


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (n, 3, 3) about the axes x, then y, then z, from angles (n, 3) in radians."""
    matrices = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = torch.cos(angles[:, axis]), torch.sin(angles[:, axis])
        step = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        step[:, first, first], step[:, first, second] = cos, -sin
        step[:, second, first], step[:, second, second] = sin, cos
        matrices = step @ matrices
    return matrices


def warp(
    image: torch.Tensor, label: torch.Tensor, spacing: torch.Tensor, matrices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample a batch through matrices (batch, 3, 3) about its centre, in mm: output point → input point."""
    half = spacing * torch.tensor(image.shape[2:], device=image.device) / 2
    relative = matrices * half[:, None, :] / half[:, :, None]
    # torch's grids have the last axis first.
    theta = F.pad(relative.flip(1, 2), (0, 1))
    grid = F.affine_grid(theta, [len(image), 1, *image.shape[2:]], align_corners=False)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    kept = F.grid_sample(
        label[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return moved, kept[:, 0].to(label.dtype)


def _flipped(image: torch.Tensor, label: torch.Tensor, axes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return image.flip([axis + 1 for axis in axes]), label.flip(axes)


def _intensity(
    image: torch.Tensor,
    settings: Augmentation,
    touched: torch.Tensor,
    amounts: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    changed = []
    # Transferred at once: on a GPU, every single read would wait for all queued work.
    chosen, drawn = (touched < settings.intensity_probability).tolist(), amounts.tolist()
    for sample, on, amount in zip(image, chosen, drawn, strict=True):
        gamma, contrast, brightness = (2 * number - 1 for number in amount[:3])
        if settings.gamma and on[0]:
            low, high = sample.amin(), sample.amax()
            width = (high - low).clamp_min(1e-6)
            sample = ((sample - low) / width).clamp(0, 1) ** ((1 + settings.gamma) ** gamma) * width + low
        if settings.contrast and on[1]:
            mean = sample.mean()
            sample = (sample - mean) * (1 + contrast * settings.contrast) + mean
        if settings.brightness and on[2]:
            sample = sample + brightness * settings.brightness
        if settings.noise and on[3]:
            noise = torch.randn(sample.shape, generator=generator, device=sample.device)
            sample = sample + noise * amount[3] * settings.noise
        changed.append(sample)
    return torch.stack(changed)
