"""What differs between the families of experiments, behind one small interface."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from foldwise.settings import Model
from foldwise.targets import Targets
from foldwise.training.steps import Items


class System(Protocol):
    """A family: networks, items, losses, predictions and scores; everything else is shared.

    `cases` are paths of caches. A score is higher where a model is better.
    """

    def network(self) -> nn.Module:
        """A new network with random weights."""

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Training items; the n-th is a pure function of (seed, n)."""

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Scalars of a batch on the training device: `loss`, and parts of it worth a log column."""

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write the first training samples, as the network sees them, for a person to look at."""

    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """Means over validation cases: `score`, by which the best epoch is chosen, and others to log."""

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's prediction (the mean over networks) as HDF5, on its cache's grid."""


# The module of each family; its class `Family` is the System.
FAMILIES = {"segmentation": "foldwise.systems.segmentation"}


def load(name: str, model: Model, targets: Targets, channels: int) -> Any:
    """The system of a family for one model.

    Args:
        name: a key of `FAMILIES`.
        model: the model's settings, as `fitted` made them.
        targets: what is learnt.
        channels: image channels.
    """
    return importlib.import_module(FAMILIES[name]).Family(model, targets, channels)


def fitted(name: str, model: Model, caches: Sequence[str]) -> Model:
    """The model's settings with what its training cases decide.

    Args:
        name: a key of `FAMILIES`.
        model: the model's settings.
        caches: of the training cases.
    """
    made: Model = importlib.import_module(FAMILIES[name]).Family.fitted(model, caches)
    return made
