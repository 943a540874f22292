"""Names of options that settings and library share."""

from __future__ import annotations

from typing import Literal, get_args

# What is memorised in training, and the loss of the memory network.
Mode = Literal["mask", "recurrent", "threshold"]
Loss = Literal["ce", "iou", "both"]
# Kinds of marks; hybrid: one of the others.
Kind = Literal["extreme", "box", "points", "scribble", "line", "hybrid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How the next slice is chosen. Only `predicted` works without the truth; the others show how good it is.
Choice = Literal["predicted", "oracle", "random"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
# Engines that are tested: the trained networks, and the standing baseline.
ENGINES = ("memory", "classical")
# Published protocols, whole sessions with rules of their own, and their numbers of rounds.
Protocol = Literal["segfm3d"]
PROTOCOLS: dict[Protocol, int] = {"segfm3d": 6}
