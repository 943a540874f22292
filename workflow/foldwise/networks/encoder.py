"""What a frozen encoder is, whatever library it is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from foldwise.files import CaseError

Triple = tuple[float, float, float]


class Encoded(NamedTuple):
    """Features of a batch of N frames or clips.

    Attributes:
        tokens: (N, T', P, width), a token for each place, without a class token; frames have T' = 1.
        pooled: (N, width), one vector for the whole input.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True)
class Encoder:
    """A network without gradients, that turns frames or clips into features.

    Not an `nn.Module`, so that a network containing one neither trains nor stores its weights.

    Attributes:
        name: as in the settings.
        model: the network, in evaluation mode.
        encode: from the network and its inputs to features.
        frames: frames of a clip; None: it takes single frames.
        steps: T', time steps of its tokens.
        size: height and width of a frame.
        grid: rows and columns of the tokens of a step.
        width: channels of a token.
        mean: of red, green and blue (0 to 1), to subtract.
        std: divisor after the subtraction.
        digest: SHA-256 of the weights, as 32 uint8 numbers.
    """

    name: str
    model: nn.Module
    encode: Callable[[nn.Module, torch.Tensor], Encoded]
    frames: int | None
    steps: int
    size: int
    grid: tuple[int, int]
    width: int
    mean: Triple
    std: Triple
    digest: torch.Tensor

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> Encoded:
        """Features of frames (N, 3, size, size) or clips (N, 3, frames, size, size), normalised.

        Raises:
            CaseError: inputs of another shape.
        """
        wanted = (3, self.size, self.size) if self.frames is None else (3, self.frames, self.size, self.size)
        if tuple(x.shape[1:]) != wanted:
            what = "frames" if self.frames is None else "clips"
            raise CaseError(
                f"{self.name} takes {what} of {_by(wanted)} (channels first), not {_by(tuple(x.shape[1:]))}"
            )
        place = next(self.model.parameters())
        if place.device != x.device:
            self.model.to(x.device)
        found = self.encode(self.model, x)
        count = self.grid[0] * self.grid[1]
        assert found.tokens.shape == (len(x), self.steps, count, self.width), "unlike its configuration"
        return found


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(str(one) for one in shape)
