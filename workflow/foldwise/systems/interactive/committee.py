"""Several trained networks as one: the mean of their outputs at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from foldwise.networks.memory import Query
from foldwise.systems.interactive.network import InteractiveNetwork


class Committee(nn.Module):
    """Networks of one model, e.g. of all folds; each has its own memory, and the masks are averaged.

    It has the interface of an `InteractiveNetwork`. Memories are stacked along their first axis.
    """

    def __init__(self, networks: Sequence[InteractiveNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)
        # The propagating part is this object itself, but not registered as a module within itself.
        object.__setattr__(self, "memory", self)

    def hint(self, inputs: torch.Tensor) -> torch.Tensor:
        """Mean logits of the hint networks."""
        return torch.stack([network.hint(inputs) for network in self._networks]).mean(0)

    def encode(self, image: torch.Tensor) -> Queries:
        """Each network's query to its memory."""
        return Queries([network.memory.encode(image) for network in self._networks])

    def memorise(self, image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (networks, objects, …) of one slice."""
        entries = [network.memory.memorise(image, masks) for network in self._networks]
        return torch.cat([key for key, _ in entries]), torch.cat([value for _, value in entries])

    def segment(self, queries: Queries, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Mean logits (1, objects, H, W)."""
        outputs = [
            network.memory.segment(query, keys[number : number + 1], values[number : number + 1])
            for number, (network, query) in enumerate(zip(self._networks, queries.members, strict=True))
        ]
        return torch.stack(outputs).mean(0)

    def quality(self, queries: Queries, probabilities: torch.Tensor) -> torch.Tensor:
        """Mean logits of the predicted IoU (1, objects)."""
        outputs = [
            network.memory.quality(query, probabilities)
            for network, query in zip(self._networks, queries.members, strict=True)
        ]
        return torch.stack(outputs).mean(0)

    @property
    def _networks(self) -> list[InteractiveNetwork]:
        return list(self.members)  # type: ignore[arg-type]


class Queries:
    """The queries of all networks, for the same slices."""

    def __init__(self, members: Sequence[Query]) -> None:
        self.members = list(members)

    def __getitem__(self, which: slice) -> Queries:
        """Some of the slices."""
        return Queries([query[which] for query in self.members])
