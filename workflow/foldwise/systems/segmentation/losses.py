"""Losses by name, the targets in the form that they require, and voxels that they leave out."""

from __future__ import annotations

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import build
from foldwise.settings import Named
from foldwise.volumes.targets import Targets


def named_losses(wanted: list[Named] | None, targets: Targets) -> list[nn.Module]:
    """The losses of a model; None: Dice and cross entropy.

    Raises:
        CaseError: an unknown name, wrong arguments, or a loss that allows one class per voxel for regions.
    """
    regions = bool(targets.regions)
    if wanted is None:
        names = ["DiceLoss", "BCEWithLogitsLoss"] if regions else ["DiceCELoss"]
        wanted = [Named(name=name) for name in names]
    if regions and any(one.plain == "DiceCELoss" for one in wanted):
        raise CaseError(
            "loss DiceCELoss allows only one class per voxel; for overlapping regions use "
            "`loss: [{name: DiceLoss}, {name: BCEWithLogitsLoss}]`"
        )
    filled = (
        {"sigmoid": True, "include_background": True} if regions else {"softmax": True, "to_onehot_y": True}
    )
    return [build("loss", one, **filled) for one in wanted]


def truth_for(loss: nn.Module, label: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Numbers of classes (batch, …) in the form that a loss requires; what is to be ignored has any value."""
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return label
    if targets.regions or type(loss).__module__.startswith("torch.nn"):
        rows = torch.from_numpy(targets.membership).to(label.device)
        hot = rows[:, label].movedim(0, 1).float()
        return hot if targets.regions else torch.cat([1 - hot.amax(1, keepdim=True), hot], 1)
    return label[:, None]


def over_counted(
    loss: nn.Module, outputs: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """A loss over the voxels that count, as if there were no others: 0 without any.

    Each sample is reduced to the list of these voxels, and the losses of the samples are averaged, or added
    up if the loss adds up; samples without such voxels are left out. For losses of torch, and others with
    `batch: true`, one list holds the voxels of all samples: cross entropy is that with `ignore_index`.

    Args:
        loss: does not depend on where a voxel is, see `refuse_neighbours`.
        outputs: (batch, outputs, …).
        truth: (batch, channels, …) or (batch, …).
        counted: (batch, …) bool.
    """
    parts = list(loss.modules())
    together = type(loss).__module__.startswith("torch.nn") or any(getattr(p, "batch", False) for p in parts)
    adds = any(getattr(part, "reduction", "mean") != "mean" for part in parts)
    count = len(outputs)
    samples = [slice(0, count)] if together else [slice(n, n + 1) for n in range(count)]
    losses = [
        loss(_listed(outputs[one], here), _listed(truth[one], here)).sum()
        for one in samples
        if (here := counted[one]).any()
    ]
    if not losses:
        return outputs[..., :0].sum()
    return torch.stack(losses).sum() if adds else torch.stack(losses).mean()


def refuse_neighbours(name: str, loss: nn.Module, outputs: torch.Tensor, truth: torch.Tensor) -> None:
    """Refuse a loss that depends on where voxels are: it cannot leave any out.

    Args:
        name: of the loss.
        loss: the loss.
        outputs: (batch, outputs, …), to try it on.
        truth: as the loss requires it.

    Raises:
        CaseError: its value changes if the voxels of a sample are shuffled.
    """
    size = outputs[0, 0].numel()
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))

    def shuffled(values: torch.Tensor) -> torch.Tensor:
        spread = values[:1].flatten(-(outputs.ndim - 2))[..., order]
        return spread.reshape(*spread.shape, *[1] * (outputs.ndim - 3))

    whole = loss(outputs[:1], truth[:1]).sum()
    try:
        listed = loss(shuffled(outputs), shuffled(truth)).sum()
    except Exception:  # a loss that needs an extent along every axis raises any type
        listed = whole + torch.inf
    if not torch.isclose(whole, listed, rtol=1e-3, atol=1e-5):
        raise CaseError(
            f"loss {name}: depends on where voxels are, so it cannot leave out those of data.labels.ignore; "
            f"use one that adds up voxels, such as DiceCELoss, DiceFocalLoss or TverskyLoss"
        )


def _listed(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The voxels that count, of all samples, as one sample whose other axes have one voxel.

    Args:
        values: (samples, channels, …) or (samples, …).
        counted: (samples, …) bool.
    """
    others = [1] * (counted.ndim - 2)
    if values.ndim == counted.ndim:
        return values[counted].reshape(1, -1, *others)
    chosen = values.movedim(1, -1)[counted].T
    return chosen.reshape(1, len(chosen), -1, *others)
