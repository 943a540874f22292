"""The side of a system that learns and predicts: what the training loop and the testing stages ask of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric.plugins import MixedPrecision
from pydantic import BaseModel
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import first_line, needs_numbers, shapes_only
from foldwise.settings import Model
from foldwise.training.parallel import precision_of
from foldwise.training.steps import Items
from foldwise.whole import Whole

AnyModel = TypeVar("AnyModel", bound=Model)


class Learner(Whole, Generic[AnyModel], abstract=True):
    """A model of an experiment: its network, training items, loss, validation and predictions.

    `caches` are paths of the cases' HDF5 files. A score is higher where a model is better.

    Attributes:
        model: its settings, as `fitted` made them.
        evaluate: the experiment's section on scores, for predictions that depend on it; set before testing.
        frozen: whether most of the network never learns, so that nothing is counted of its training step.
        reads_weights: whether building the network reads files.
    """

    evaluate: BaseModel | None = None
    frozen: bool = False
    reads_weights: bool = False

    def __init__(self, model: AnyModel, task: Mapping[str, Any]) -> None:
        """Take the settings.

        Args:
            model: as `fitted` made them.
            task: what is learnt, as the index has it.

        Raises:
            CaseError: the settings do not fit the task.
        """
        self.model = model

    # What training cases decide.

    @classmethod
    def fitted(cls, model: AnyModel, caches: Sequence[str]) -> AnyModel:
        """The model's settings with what its training cases decide, the steps of an epoch among it.

        Args:
            model: the settings of the experiment.
            caches: of the training cases.

        Raises:
            CaseError: a file that the settings name is missing or is not what it should be.
        """
        model = cls.fit(model, caches)
        training = model.training
        if training.steps_per_epoch is not None:
            return model
        steps = math.ceil(cls.count_items(model, caches) / (training.batch * training.accumulate))
        return model.model_copy(update={"training": training.model_copy(update={"steps_per_epoch": steps})})

    @classmethod
    def fit(cls, model: AnyModel, caches: Sequence[str]) -> AnyModel:
        """What `fitted` fills in beside the steps of an epoch; nothing unless a system says so."""
        return model

    @classmethod
    def count_items(cls, model: AnyModel, caches: Sequence[str]) -> int:
        """Training items of which an epoch sees each once; as many as there are cases."""
        return len(caches)

    # The network.

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network with random weights, on torch's default device."""

    @abstractmethod
    def sample(self) -> torch.Tensor:
        """A batch of network inputs, uninitialised, on torch's default device."""

    @abstractmethod
    def refusal(self, reason: str) -> str:
        """What a user reads whose network cannot take the sample."""

    def network(self) -> nn.Module:
        """The network to train.

        Raises:
            CaseError: it cannot be built, or cannot take its inputs.
        """
        if not self.frozen:
            self.dry_pass()
        return self.build_network()

    def dry_pass(self) -> None:
        """Refuse a network that cannot take its inputs; on shapes alone this costs next to nothing.

        Raises:
            CaseError: the network cannot be built, or cannot take the sample.
        """
        network = shapes_only(self.build_network)
        try:
            with torch.device("meta"):
                network(self.sample())
        except Exception as error:  # wrong shapes raise any kind
            if not needs_numbers(error):
                raise self.refuse(error) from error

    def refuse(self, error: Exception) -> CaseError:
        """The error of a network that cannot take its inputs."""
        return CaseError(self.refusal(first_line(error)))

    def try_loss(self, outputs: Any) -> None:
        """Refuse outputs and losses that training could not use; nothing unless a system says so.

        Args:
            outputs: of the network for `sample`, on the meta device; None: not known.

        Raises:
            CaseError: the outputs have another shape than asked for, or the loss does not take them.
        """

    def parameters(self, network: nn.Module) -> Iterable[Any]:
        """What the optimiser works on: parameters, or groups of them with learning rates of their own."""
        return network.parameters()

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The precision of training for predictions outside of it; full precision on a CPU, unless bf16."""
        precision = precision_of(self.model.training.amp, gpu=device.type == "cuda")
        if precision == "32-true":
            return nullcontext()
        return MixedPrecision(precision, device.type).forward_context()

    # Learning.

    @abstractmethod
    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Training items; the n-th is a pure function of (seed, n)."""

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Scalars of a batch on the training device: `loss`, and parts of it worth a column of the log."""

    @abstractmethod
    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write the first training samples, as the network sees them, for a person to look at."""

    @abstractmethod
    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """Means over validation cases: `score`, by which the best epoch is chosen, and others to log.

        A score that these cases leave undefined is NaN, whatever the network finds in them.
        """

    # Predictions.

    @abstractmethod
    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's prediction (the mean over networks) as HDF5."""
