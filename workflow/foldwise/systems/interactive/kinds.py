"""Names of the choices that settings and library share."""

from __future__ import annotations

from typing import Literal, get_args

# What is memorised in training, and the loss of the memory network.
Mode = Literal["mask", "recurrent", "threshold"]
Loss = Literal["ce", "iou", "both"]
# What a person marks; hybrid: one of the others.
Kind = Literal["extreme", "box", "points", "scribble", "hybrid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Who chooses the next slice. Only `predicted` can be had without the truth; the others say how good it is.
Choice = Literal["predicted", "oracle", "random"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
