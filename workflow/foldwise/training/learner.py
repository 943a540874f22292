"""Training and prediction of a system: the interface used by the training loop and the testing stages."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import first_line, needs_numbers, shapes_only
from foldwise.overlap import Unwritten
from foldwise.settings import Model
from foldwise.training.steps import Items
from foldwise.whole import Whole

AnyModel = TypeVar("AnyModel", bound=Model)


class Validated(Whole, abstract=True):
    """How validation cases judge a network: by samples, for a curve, and whole.

    `caches` are paths of the cases' HDF5 files. A higher score means a better network.
    """

    @abstractmethod
    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Samples of validation cases, without augmentation; the n-th is a pure function of (seed, n).

        If they have a length, no more are used; 0: the cases have no sample.
        """

    @abstractmethod
    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of a batch of these samples, on the training device: `loss`, and others of any shape.

        Each is averaged over all samples. The network is in evaluation, and no gradient is needed.
        """

    def validation_columns(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Columns of the log from these means: `val_loss`, perhaps others, and `score`.

        Epochs can be chosen by the score, which is not logged; by default it is the negative loss.
        """
        loss = float(means["loss"])
        return {"score": -loss, "val_loss": loss}

    @abstractmethod
    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """What a whole validation case contributes: plain values and tensors on the CPU, which are kept.

        Args:
            network: to validate.
            cache: of the case.
            number: of the case among those of a validation, for random draws.
        """

    @abstractmethod
    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Columns of the log from what all whole cases contribute, and `score`, which chooses the best epoch.

        A score that is undefined for these cases is NaN, regardless of the network's output.
        """

    def validate(self, network: nn.Module, caches: Sequence[str]) -> dict[str, float]:
        """`validated` of these cases."""
        return self.validated([self.validate_case(network, path, n) for n, path in enumerate(caches)])


class Learner(Validated, Generic[AnyModel], abstract=True):
    """A model of an experiment: its network, training items, loss, validation and predictions.

    `caches` are paths of the cases' HDF5 files. A higher score means a better model.

    Attributes:
        model: its settings, as returned by `fitted`.
        evaluate: the experiment's section on scores, for predictions that depend on it; set before testing.
        frozen: whether most of the network never learns, so that its training step is not counted.
        reads_weights: whether building the network reads files.
    """

    evaluate: BaseModel | None = None
    frozen: bool = False
    reads_weights: bool = False

    def __init__(self, model: AnyModel, task: Mapping[str, Any]) -> None:
        """Store the settings.

        Args:
            model: as returned by `fitted`.
            task: what is learnt, as in the index.

        Raises:
            CaseError: the settings do not fit the task.
        """
        self.model = model

    # Values from the training cases.

    @classmethod
    def fitted(cls, model: AnyModel, caches: Sequence[str]) -> AnyModel:
        """The model's settings with values from its training cases, including the steps of an epoch.

        Args:
            model: the settings of the experiment.
            caches: of the training cases.

        Raises:
            CaseError: a file that the settings name is missing or wrong.
        """
        model = cls.fit(model, caches)
        training = model.training
        if training.steps_per_epoch is not None:
            return model
        steps = math.ceil(cls.count_items(model, caches) / (training.batch * training.accumulate))
        return model.model_copy(update={"training": training.model_copy(update={"steps_per_epoch": steps})})

    @classmethod
    def fit(cls, model: AnyModel, caches: Sequence[str]) -> AnyModel:
        """Values that `fitted` fills in, apart from the steps of an epoch; by default none."""
        return model

    @classmethod
    def count_items(cls, model: AnyModel, caches: Sequence[str]) -> int:
        """Number of training items, each used once per epoch; by default the number of cases."""
        return len(caches)

    # The network.

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network with random weights, on torch's default device."""

    @abstractmethod
    def sample(self) -> torch.Tensor:
        """A batch of network inputs, uninitialised, on torch's default device."""

    def sample_text(self) -> str:
        """One item of the batch in words, for the log; by default its shape as in `sample`."""
        with torch.device("meta"):
            return f"sample of {by(*self.sample().shape[1:])}"

    @abstractmethod
    def refusal(self, reason: str) -> str:
        """Message to a user whose network cannot take the sample."""

    def network(self) -> nn.Module:
        """The network to train.

        Raises:
            CaseError: it cannot be built, or cannot take its inputs.
        """
        if not self.frozen:
            self.dry_pass()
        return self.build_network()

    def dry_pass(self) -> None:
        """Refuse a network that cannot take its inputs; on shapes alone this costs almost nothing.

        Raises:
            CaseError: the network cannot be built, or cannot take the sample.
        """
        network = shapes_only(self.build_network)
        try:
            with torch.device("meta"):
                network(self.sample())
        except Exception as error:  # wrong shapes raise any type
            if not needs_numbers(error):
                raise self.refuse(error) from error

    def refuse(self, error: Exception) -> CaseError:
        """The error of a network that cannot take its inputs."""
        return CaseError(self.refusal(first_line(error)))

    def try_loss(self, outputs: Any) -> None:
        """Refuse outputs and losses that training could not use; by default nothing.

        Args:
            outputs: of the network for `sample`, on the meta device; None: not known.

        Raises:
            CaseError: the outputs have a wrong shape, or the loss does not accept them.
        """

    def parameters(self, network: nn.Module) -> Iterable[Any]:
        """The optimiser's parameters, or groups of them with separate learning rates."""
        return network.parameters()

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The precision of training, for predictions outside it; full precision on a CPU, unless bf16."""
        precision = precision_of(self.model.training.amp, gpu=device.type == "cuda")
        if precision == "32-true":
            return nullcontext()
        from lightning_fabric.plugins import MixedPrecision  # imports torch's compiler, which takes seconds

        return MixedPrecision(precision, device.type).forward_context()

    # Training.

    @property
    def counts_epochs(self) -> bool:
        """Whether training items or the loss depend on the number of epochs, as in a planned curriculum.

        A training with another number of epochs then differs from its first step on.
        """
        return False

    @abstractmethod
    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Training items; the n-th is a pure function of (seed, n)."""

    @abstractmethod
    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Scalars of a batch on the training device: `loss`, and its parts, one column of the log each."""

    @abstractmethod
    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write the first training samples, as network inputs, for inspection."""

    # Predictions.

    @abstractmethod
    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's prediction (the mean over networks) as HDF5."""


class Staged(Learner[AnyModel], abstract=True):
    """A learner whose predictions have three steps, so that those of several cases overlap.

    Other threads read the next case and write the last one, while this one predicts.
    """

    @abstractmethod
    def read(self, cache: str) -> Any:
        """All of a case that its prediction needs, in main memory."""

    @abstractmethod
    def infer(self, networks: Sequence[nn.Module], case: Any) -> Unwritten:
        """Predict a case (the mean over networks).

        Args:
            networks: as in `predict`.
            case: what `read` returned.

        Returns:
            The prediction; its `write` takes a path, and holds no more than it needs.
        """

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write a case's prediction (the mean over networks) as HDF5."""
        self.infer(networks, self.read(cache)).write(path)


def by(*lengths: int) -> str:
    """Lengths as people write them: 128×128×64."""
    return "×".join(str(length) for length in lengths)


def precision_of(amp: str, *, gpu: bool) -> Any:
    """Fabric's name of a precision: 16-bit half precision is only for GPUs."""
    if amp == "bf16-mixed":
        return amp
    return "16-mixed" if gpu and amp != "off" else "32-true"
