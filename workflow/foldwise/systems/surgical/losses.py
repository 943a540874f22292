"""Losses of phases and tools; frames without annotation do not count."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

# Phase number and tool value of a frame without annotation.
UNKNOWN = -1


def phase_loss(logits: torch.Tensor, phases: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Cross entropy, the weighted mean over annotated frames.

    Args:
        logits: (..., phases).
        phases: (...) numbers, `UNKNOWN` without annotation.
        weights: (phases,) or None.
    """
    known = phases != UNKNOWN
    if not known.any():
        return logits.sum() * 0
    return F.cross_entropy(logits[known].float(), phases[known].long(), weights)


def tool_loss(logits: torch.Tensor, tools: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Binary cross entropy, summed over tools and averaged over annotated frames.

    Args:
        logits: (..., tools).
        tools: (..., tools) of 0 and 1, `UNKNOWN` without annotation.
        weights: (tools,) of presence, or None.
    """
    known = (tools != UNKNOWN).float()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), tools.clamp(min=0).float(), pos_weight=weights, reduction="none"
    )
    frames = known.amax(-1).sum().clamp(min=1)
    return (losses * known).sum() / frames


def correlation_loss(
    tool: torch.Tensor, mapped: torch.Tensor, form: Literal["kl", "released"]
) -> torch.Tensor:
    """Divergence of the tools from those that the phase branch implies: sum over tools, mean over frames.

    With p = σ(tool) and q = σ(mapped): `kl` is KL(q ‖ p) of Bernoulli variables,
    q log(q/p) + (1 − q) log((1 − q)/(1 − p)); `released` is |Σ q (log q − p)|, the value that the released
    code of MTRCNet-CL computes by passing a probability to the library's divergence, which expects a
    logarithm.

    Args:
        tool: (..., tools) logits.
        mapped: the same, the target.
        form: which of the two.
    """
    tool, mapped = tool.float(), mapped.float()
    frames = tool[..., 0].numel()
    q, log_q = mapped.sigmoid(), F.logsigmoid(mapped)
    if form == "released":
        return (q * (log_q - tool.sigmoid())).sum().abs() / frames
    there = q * (log_q - F.logsigmoid(tool))
    absent = (1 - q) * (F.logsigmoid(-mapped) - F.logsigmoid(-tool))
    return (there + absent).sum() / frames
