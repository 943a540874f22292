"""Losses of the memory network and of the hint network."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Cross entropy takes the logarithm of p + this, so that a single pixel cannot cost more than 7.
EPSILON = 1e-3


def cross_entropy(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of −log(p + 0.001) of the true class.

    Args:
        probabilities: (B, classes, H, W), background first.
        target: (B, H, W) class numbers.
    """
    true = probabilities.gather(1, target[:, None].long())
    return -(true + EPSILON).log().mean()


def lovasz_softmax(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lovász-softmax (Berman et al. 2018, arXiv:1705.08790): a convex extension of the Jaccard loss.

    Mean over the classes present in an image, then over the images. For errors m in descending order, a
    class's loss is Σ mᵢ · (Δ(i) − Δ(i−1)), where Δ(i) is the Jaccard loss if only the first i pixels were
    wrong.

    Args:
        probabilities: (B, classes, H, W), background first.
        target: (B, H, W) class numbers.
    """
    classes = probabilities.shape[1]
    numbers = torch.arange(classes, device=target.device)[:, None, None]
    truth = (target[:, None] == numbers).flatten(2).to(probabilities)
    errors, order = (truth - probabilities.flatten(2)).abs().sort(2, descending=True)
    sorted_truth = truth.gather(2, order)
    total = truth.sum(2, keepdim=True)
    left = total - sorted_truth.cumsum(2)
    either = total + (1 - sorted_truth).cumsum(2)
    jaccard = 1 - left / either
    steps = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], 2)
    of_class = (errors * steps).sum(2)
    present = (total[..., 0] > 0).to(probabilities)
    return ((of_class * present).sum(1) / present.sum(1).clamp_min(1)).mean()


def soft_iou(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Σ min(p, t) / Σ max(p, t) of each object (B, K); 1 if both are empty.

    Args:
        probabilities: (B, K, H, W).
        target: (B, K, H, W), 0 or 1.
    """
    both = torch.minimum(probabilities, target).sum((2, 3))
    either = torch.maximum(probabilities, target).sum((2, 3))
    # Soft residue of up to a pixel on an empty slice is not a mistake worth a look.
    return (both + 1) / (either + 1)


def pyramid_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of the hint network's predictions, summed over them.

    Args:
        logits: (B, predictions, H, W).
        target: (B, H, W), 0 or 1.
    """
    wanted = target[:, None].to(logits).expand_as(logits)
    return logits.shape[1] * F.binary_cross_entropy_with_logits(logits, wanted)
