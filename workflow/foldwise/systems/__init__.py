"""What differs between the families of experiments: a package each, with the same modules.

`settings` (Settings, Data, Model, Evaluate, Export), `check` (examine), `layout` (open_experiment), `index`
(make_entries), `family` (Family), `results` (chooses, choose, score, export), `new` (new_entries,
prepare_case) and `report` (VIEW). Stages and rules ask for them by the name of the system; `System` below and
the segmentation system say what each of them is.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foldwise.files import CaseError
from foldwise.settings import Model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from foldwise.training.steps import Items

NAMES = ("segmentation", "surgical", "interactive", "clips")


def system_of(config: Mapping[str, Any]) -> str:
    """The system that an experiment names.

    Raises:
        CaseError: there is none of that name.
    """
    name = config.get("system", NAMES[0])
    if name not in NAMES:
        raise CaseError(f"config: system: {name!r} is none of {', '.join(NAMES)}")
    return str(name)


def part(system: str, module: str) -> Any:
    """A module of a system; imported only now, since some need torch."""
    return importlib.import_module(f"foldwise.systems.{system}.{module}")


class System(Protocol):
    """The side of a system that learns and predicts, `Family(model, task)`; the rest is shared.

    `caches` are paths of the cases' HDF5 files. A score is higher where a model is better.

    Attributes:
        evaluate: the experiment's section on scores, where testing itself depends on it; set before testing.
    """

    evaluate: Any

    def network(self) -> nn.Module:
        """A new network with random weights."""

    def parameters(self, network: nn.Module) -> Iterable[Any]:
        """What the optimiser works on: parameters, or groups of them with learning rates of their own."""

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Training items; the n-th is a pure function of (seed, n)."""

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Scalars of a batch on the training device: `loss`, and parts of it worth a log column."""

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write the first training samples, as the network sees them, for a person to look at."""

    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """Means over validation cases: `score`, by which the best epoch is chosen, and others to log.

        A score that these cases leave undefined is NaN, whatever the network finds in them.
        """

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's prediction (the mean over networks) as HDF5."""


def load(system: str, model: Model, task: Mapping[str, Any]) -> Any:
    """The `System` for one model.

    Args:
        system: its name.
        model: the model's settings, as `fitted` made them.
        task: what is learnt, as the index has it.
    """
    return part(system, "family").Family(model, task)


def fitted(system: str, model: Model, caches: Sequence[str]) -> Any:
    """The model's settings with what its training cases decide.

    Args:
        system: its name.
        model: the model's settings.
        caches: of the training cases.
    """
    return part(system, "family").Family.fitted(model, caches)
