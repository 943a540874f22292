"""A small network on signals, and its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from example_signals.settings import Model
from foldwise.files import atomic_path
from foldwise.hdf5 import create_hdf5, open_hdf5
from foldwise.training.learner import Learner
from foldwise.training.steps import Items


class SignalItems:
    """Signals in a new random order for each pass."""

    def __init__(self, caches: Sequence[str], classes: Sequence[str], seed: Sequence[int]) -> None:
        """Store the names of the files."""
        self.caches, self.classes, self.seed = list(caches), list(classes), tuple(seed)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """`signal` (length,) and `label`."""
        epoch, within = divmod(number, len(self.caches))
        order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.caches))
        signal, label = read(self.caches[order[within]])
        return {"signal": signal, "label": torch.tensor(self.classes.index(label))}


class SignalLearner(Learner[Model]):
    """A hidden layer and a soft-max."""

    def __init__(self, model: Model, task: Mapping[str, Any]) -> None:
        """Store the settings and the classes."""
        super().__init__(model, task)
        self.classes: list[str] = task["classes"]

    def build_network(self) -> nn.Module:
        """The layers; the length of a signal is known from the first batch."""
        return nn.Sequential(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, self.model.hidden, 5, padding=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(4 * self.model.hidden, len(self.classes)),
        )

    def sample(self) -> torch.Tensor:
        """A batch of signals."""
        return torch.empty(self.model.training.batch, 64)

    def refusal(self, reason: str) -> str:
        """Message to a user whose network cannot take a signal."""
        return f"signals cannot be taken: {reason}"

    def items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Signals and their classes."""
        return SignalItems(caches, self.classes, seed)

    def loss(
        self, network: nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Cross entropy, with noise on the signals."""
        signal = batch["signal"]
        noise = torch.randn(signal.shape, generator=generator, device=signal.device)
        logits = network(signal + self.model.noise * noise)
        return {"loss": nn.functional.cross_entropy(logits, batch["label"])}

    def examples(self, caches: Sequence[str], seed: Sequence[int], count: int, folder: Path) -> None:
        """Write sample<n>.txt."""
        items = self.items(caches, seed)
        for number in range(count):
            folder.mkdir(parents=True, exist_ok=True)
            np.savetxt(folder / f"sample{number}.txt", items[number]["signal"].numpy())

    def validation_items(self, caches: Sequence[str], seed: Sequence[int]) -> Items:
        """Signals and their classes."""
        return SignalItems(caches, self.classes, seed)

    def validation_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cross entropy without noise."""
        return {"loss": nn.functional.cross_entropy(network(batch["signal"]), batch["label"])}

    def validate_case(self, network: nn.Module, cache: str, number: int) -> dict[str, Any]:
        """The probability of the true class."""
        _, label = read(cache)
        return {"own": float(self.probabilities([network], cache)[self.classes.index(label)])}

    def validated(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Its mean."""
        mean = float(np.mean([case["own"] for case in cases]))
        return {"score": mean, "val_probability": mean}

    def predict(self, networks: Sequence[nn.Module], cache: str, path: Path) -> None:
        """Write `probabilities` (classes,)."""
        with atomic_path(path) as temporary, create_hdf5(temporary) as file:
            file["probabilities"] = self.probabilities(networks, cache)
            file.attrs["classes"] = self.classes

    @torch.no_grad()
    def probabilities(self, networks: Sequence[nn.Module], cache: str) -> np.ndarray:
        """The mean over the networks."""
        device = next(networks[0].parameters()).device
        signal, _ = read(cache)
        outputs = [network.eval()(signal[None].to(device)).softmax(1)[0].cpu() for network in networks]
        return torch.stack(outputs).mean(0).numpy()


def read(cache: str) -> tuple[torch.Tensor, str]:
    """A cache's signal and class."""
    with open_hdf5(cache) as file:
        return torch.from_numpy(file["signal"][()]), str(file.attrs["label"])
