"""A diagonal linear state-space network over frame features.

The continuous system and its start are S4D-Lin of Gu et al., On the parameterization and initialization of
diagonal state space models, NeurIPS 2022; its layers are computed in chunks: within one by a matrix, from one
to the next by the state. So memory grows with the chunk, not with the square of a video's length, and no
output depends, even by rounding, on a later frame, as it would after a Fourier transform.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from foldwise.networks.temporal import Mode

# Frames that are computed at once.
CHUNK = 64


class DiagonalSSM(nn.Module):
    """Classes of a whole video's frames; online forward in time, offline in both directions."""

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        channels: int = 64,
        states: int = 16,
        layers: int = 4,
        dropout: float = 0.1,
        mode: Mode = "online",
    ) -> None:
        """Build the layers.

        Args:
            width: features of a frame.
            classes: number of classes.
            channels: of a layer.
            states: complex numbers that each channel remembers; each stands for a conjugate pair.
            layers: number of layers.
            dropout: of a layer's change.
            mode: see `foldwise.networks.temporal`.
        """
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.layers = nn.ModuleList(_Layer(channels, states, dropout, mode) for _ in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, classes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (1, B, n, classes) of features (B, n, width)."""
        x = self.enter(features)
        for layer in self.layers:
            x = layer(x)
        return self.leave(x)[None]

    def step(
        self, features: torch.Tensor, state: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The next frame of a running video, online only.

        Args:
            features: (B, width) of the frame.
            state: as returned for the frame before; None: it is the first.

        Returns:
            Logits (B, classes), and the state to pass with the next frame.
        """
        x = self.enter(features)
        after = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            x, own = layer.step(x, None if state is None else state[number])
            after.append(own)
        return self.leave(x), after


class _Layer(nn.Module):
    """Systems of all channels, then a gated mix of channels, with a residual."""

    def __init__(self, channels: int, states: int, dropout: float, mode: Mode) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.forwards = _System(channels, states)
        self.backwards = _System(channels, states) if mode == "offline" else None
        self.mix = nn.Sequential(
            nn.GELU(), nn.Linear(channels, 2 * channels), nn.GLU(-1), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(x)
        y = self.forwards(inner)
        if self.backwards is not None:
            y = y + self.backwards(inner.flip(1)).flip(1)
        return x + self.mix(y)

    def step(self, x: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.backwards is None, "a layer that sees the future has no next frame"
        y, state = self.forwards.step(self.norm(x), state)
        return x + self.mix(y), state


class _System(nn.Module):
    """x' = A x + B u, y = 2 Re(C x) + D u for each channel, with a diagonal A and an own time step.

    Re A = −exp(…) is negative, so every state decays, whatever is learned. B is part of C.
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        # Time steps so that states remember from about ten frames to half an hour, at a frame per second.
        self.log_step = nn.Parameter(torch.empty(channels).uniform_(math.log(1e-3), math.log(0.2)))
        self.log_decay = nn.Parameter(torch.full((channels, states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float().repeat(channels, 1))
        self.out = nn.Parameter(torch.randn(channels, states, 2) * math.sqrt(0.5))
        self.through = nn.Parameter(torch.randn(channels))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """Outputs (B, n, channels) of inputs (B, n, channels), beginning with an empty state."""
        # In half precision, what is remembered over thousands of frames would be lost.
        # Shapes alone have no precision.
        with torch.autocast("cpu" if u.is_meta else u.device.type, enabled=False):
            return self._chunks(u.float()).to(u.dtype)

    def step(self, u: torch.Tensor, state: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The output (B, channels) of an input (B, channels), and the state (B, channels, states)."""
        rate, out = self._discrete()
        moved = 0 if state is None else state * rate.exp()
        state = moved + u[..., None]
        return 2 * (out * state).sum(-1).real + self.through * u, state

    def _discrete(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Δ A, and C B of the system between two frames (an input holds during a step)."""
        a = torch.complex(-self.log_decay.exp(), self.frequency)
        rate = a * self.log_step.exp()[:, None]
        return rate, torch.view_as_complex(self.out) * torch.expm1(rate) / a

    def _chunks(self, u: torch.Tensor) -> torch.Tensor:
        batch, count, _ = u.shape
        rate, out = self._discrete()
        # Chunks (channels, B · chunks, CHUNK); the last one is filled with zeros.
        full = F.pad(u, (0, 0, 0, -count % CHUNK)).unflatten(1, (-1, CHUNK))
        inputs = full.permute(3, 0, 1, 2).flatten(1, 2)
        powers = (rate[..., None] * torch.arange(CHUNK + 1, device=u.device)).exp()
        # Response i frames after an input, as a matrix that maps the inputs of a chunk to its outputs.
        response = 2 * (out[..., None] * powers[..., :-1]).sum(1).real
        lag = torch.arange(CHUNK, device=u.device)
        lag = lag[:, None] - lag
        matrix = torch.where(lag >= 0, response[:, lag.clamp(min=0)], 0)
        within = inputs @ matrix.transpose(1, 2)
        # What the inputs of each chunk leave at its end, then the states with which the chunks begin.
        left = (inputs.to(powers.dtype) @ powers[..., :-1].flip(-1).transpose(1, 2)).unflatten(1, (batch, -1))
        states, state = [], torch.zeros_like(left[:, :, 0])
        for chunk in left.unbind(2):
            states.append(state)
            state = state * powers[:, None, :, -1] + chunk
        earlier = torch.stack(states, 2).flatten(1, 2) @ (out[..., None] * powers[..., 1:])
        y = (within + 2 * earlier.real).unflatten(1, (batch, -1)).flatten(2).permute(1, 2, 0)[:, :count]
        return y + self.through * u
