"""Losses by name, the targets in the form that they require, and voxels that they leave out."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.loss import _Loss

from foldwise.files import CaseError
from foldwise.networks import build
from foldwise.settings import Named
from foldwise.volumes.targets import Targets

# Edge of the patches on which the form of a loss is found.
EDGE = 16


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
    """Numbers of classes (batch, …) in the form that a loss requires; what is to be ignored is background."""
    if targets.ignored is not None:
        label = label * (label != targets.ignored)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return label
    if targets.regions or type(loss).__module__.startswith("torch.nn"):
        rows = torch.from_numpy(targets.membership).to(label.device)
        hot = rows[:, label].movedim(0, 1).float()
        return hot if targets.regions else torch.cat([1 - hot.amax(1, keepdim=True), hot], 1)
    return label[:, None]


class Counted(nn.Module):
    """A loss by name over the voxels that count, as if there were no others.

    Each part of the loss (of Dice and cross entropy, both) gets lists of these voxels instead of patches: one
    for each sample, or one for the batch. The form is that which gives the part's own value if all voxels
    count. So cross entropy is that with `ignore_index`, and Dice has the other voxels in none of its sums.
    """

    def __init__(self, loss: nn.Module, targets: Targets, outputs: int, dimensions: int) -> None:
        """Find the form of each part.

        Args:
            loss: the loss.
            targets: what is learnt.
            outputs: number of the network's outputs.
            dimensions: of a patch.

        Raises:
            CaseError: the loss depends on where voxels are, so it cannot leave any out.
        """
        super().__init__()
        name = type(loss).__name__
        self.parts: list[_Part] = []
        self.loss = self._divided(copy.deepcopy(loss))
        random = torch.Generator().manual_seed(0)
        shape = (2, *[EDGE] * dimensions)
        label = torch.randint(0, 1 + len(targets.classes), shape, generator=random)
        label[0] *= torch.rand(shape[1:], generator=random) < 0.3
        tried = torch.randn(2, outputs, *shape[1:], generator=random)
        truth, counted = truth_for(loss, label, targets), torch.rand(shape, generator=random) < 0.7
        try:
            with torch.no_grad():
                self.loss(tried, truth)
                found, again = (
                    self(torch.where(counted[:, None], tried, other), truth, counted).sum()
                    for other in (-3, 3)
                )
                fits = bool(found == again)
        except _NoFormError:
            fits = False
        if not fits:
            raise CaseError(
                f"loss {name}: depends on where voxels are, so it cannot leave out those of "
                f"data.labels.ignore; use one that adds up voxels, such as DiceCELoss or TverskyLoss"
            )

    def forward(self, outputs: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """The loss of outputs (batch, outputs, …); `counted` (batch, …) says which voxels count."""
        for part in self.parts:
            part.counted = counted
        value: torch.Tensor = self.loss(outputs, truth)
        return value

    def _divided(self, loss: nn.Module) -> nn.Module:
        parts = [(name, child) for name, child in loss.named_children() if isinstance(child, _Loss)]
        for name, child in parts:
            setattr(loss, name, self._divided(child))
        if parts:
            return loss
        self.parts.append(_Part(loss))
        return self.parts[-1]


class _NoFormError(Exception):
    """No list of voxels gives a loss's value."""


class _Part(nn.Module):
    """A loss that is no sum of others."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.counted: torch.Tensor | None = None
        self.together, self.adds = True, False

    def forward(self, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        if self.counted is None:
            return self._find_form(outputs, truth)
        return self._of_lists(outputs, truth, self.counted)

    def _find_form(self, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        whole: torch.Tensor = self.loss(outputs, truth).sum()
        everything = torch.ones_like(outputs[:, 0], dtype=torch.bool)
        for self.together, self.adds in ((True, False), (False, False), (False, True)):
            try:
                value = self._of_lists(outputs, truth, everything)
            except Exception:  # a loss that needs an extent along every axis raises any type
                continue
            if torch.isclose(value, whole, rtol=1e-4, atol=1e-6):
                return whole
        raise _NoFormError

    def _of_lists(self, outputs: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        count = len(outputs)
        samples = [slice(0, count)] if self.together else [slice(n, n + 1) for n in range(count)]
        losses = [
            self.loss(_listed(outputs[one], here), _listed(truth[one], here)).sum()
            for one in samples
            if (here := counted[one]).any()
        ]
        if not losses:
            return outputs[..., :0].sum()
        return torch.stack(losses).sum() if self.adds else torch.stack(losses).mean()


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
