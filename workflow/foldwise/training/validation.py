"""The validation of an epoch: of fixed samples for a curve, and of whole cases, one after the other.

What each case contributes is kept in a file beside the checkpoint, which was saved before the first one. So a
job that is stopped or killed in between repeats at most one case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldwise.experiment.paths import VALIDATION
from foldwise.files import atomic_path
from foldwise.settings import Training
from foldwise.training.learner import Learner
from foldwise.training.parallel import Team
from foldwise.training.steps import Items, collate, step_seed

# Separates the samples of validation from those of training.
SAMPLES = 6


@dataclass(frozen=True)
class Measured:
    """What a validation found.

    Attributes:
        columns: of the log.
        scores: `cases`, `samples` and `val_loss` as far as they were measured; higher is better.
    """

    columns: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


class Validation:
    """The validations of one training, one at a time; several processes share samples and cases."""

    def __init__(
        self,
        learner: Learner[Any],
        training: Training,
        samples: Sequence[str],
        cases: Sequence[str],
        seed: tuple[int, ...],
        folder: Path,
        team: Team,
        spent_on: Callable[[float], None],
        told: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Store what to validate.

        Args:
            learner: of the model.
            training: its settings.
            samples: caches of which samples are measured.
            cases: caches that are predicted whole.
            seed: of the samples.
            folder: of the training.
            team: the processes that train together.
            spent_on: told the seconds of each piece of work that cannot be divided.
            told: called with the number of whole cases that are done, and of all.
        """
        self.learner, self.training, self.caches, self.cases = learner, training, samples, cases
        self.seed, self.path, self.team = seed, folder / VALIDATION, team
        self.spent_on, self.told = spent_on, told
        self._kept: dict[str, Any] = {}

    def resume(self, step: int) -> None:
        """Take what earlier jobs found after this step; what belongs to another step is deleted."""
        found = self.team.of_first(lambda: read_kept(self.path))
        self._kept = found if found.get("step") == step else {}
        if not self._kept:
            self._forget()

    def superseded(self, step: int, *, finished: bool) -> None:
        """Delete what is kept if the checkpoint that was just saved holds what it led to."""
        if finished or self._kept.get("step") != step:
            self._forget()

    def _forget(self) -> None:
        if self.team.rank == 0:
            self.path.unlink(missing_ok=True)

    def measure(
        self, network: nn.Module, step: int, *, samples: bool, cases: bool, stop: Callable[[], Any]
    ) -> Measured | None:
        """Validate the network.

        Args:
            network: to validate.
            step: of training, after which it is.
            samples: whether samples are measured.
            cases: whether cases are predicted whole.
            stop: asked after each case, in all processes.

        Returns:
            What was found; None: stopped before the last case.
        """
        begun = time.monotonic()
        if self._kept.get("step") != step:
            self._kept = {"step": step, "of": len(self.cases), "cases": {}, "seconds": 0.0}
        earlier = self._kept["seconds"]
        columns: dict[str, float] = {}
        scores: dict[str, float] = {}
        if samples and self._numbers:
            # Earlier jobs may have measured them.
            found = self._kept.get("samples") or self._on_samples(network)
            self._kept["samples"] = found
            self.spent_on(time.monotonic() - begun)
            columns, scores = (
                {**columns, **found},
                {"samples": found["score"], "val_loss": -found["val_loss"]},
            )
        if cases and self.cases:
            if not self._on_cases(network, begun, earlier, stop):
                return None
            kept = self._kept["cases"]
            found = self.learner.validated([kept[number] for number in range(len(self.cases))])
            columns, scores = {**columns, **found}, {**scores, "cases": found["score"]}
        columns.pop("score", None)
        if columns:
            columns["validation_seconds"] = earlier + time.monotonic() - begun
        return Measured(columns, scores)

    @cached_property
    def _items(self) -> Items:
        return self.learner.validation_items(self.caches, (*self.seed, SAMPLES))

    @cached_property
    def _numbers(self) -> range:
        """Numbers of the samples."""
        wanted = self.training.validation.samples
        if not wanted or not self.caches:
            return range(0)
        items = self._items
        return range(min(wanted, len(items)) if isinstance(items, Sized) else wanted)

    @torch.no_grad()
    def _on_samples(self, network: nn.Module) -> dict[str, float]:
        size, batch = self.team.size, self.training.batch
        parts = [self._numbers[first : first + batch] for first in range(0, len(self._numbers), batch)]
        network.eval()
        own = []
        for numbers in parts[self.team.rank :: size]:
            torch.manual_seed(step_seed(self.seed, numbers[0]))
            items = self.team.fabric.to_device(collate([self._items[number] for number in numbers]))
            values = self.learner.validation_loss(network, items)
            own.append({name: value.double().cpu() * len(numbers) for name, value in values.items()})
        said = self.team.exchange(own)
        # In the order of the samples, so that the sums do not depend on the number of processes.
        every = [said[place % size][place // size] for place in range(len(parts))]
        sums = {name: torch.stack([one[name] for one in every]).sum(0) for name in every[0]}
        count = len(self._numbers)
        return self.learner.validation_columns({name: (one / count).numpy() for name, one in sums.items()})

    def _on_cases(self, network: nn.Module, begun: float, earlier: float, stop: Callable[[], Any]) -> bool:
        """Whether all cases are done; each is kept, and only one is repeated after a kill."""
        kept, size = self._kept["cases"], self.team.size
        left = [number for number in range(len(self.cases)) if number not in kept]
        for first in range(0, len(left), size):
            asked = time.monotonic()
            share = left[first : first + size]
            own = share[self.team.rank : self.team.rank + 1]
            values = [self.learner.validate_case(network, self.cases[number], number) for number in own]
            said = [value for values in self.team.exchange(values) for value in values]
            kept.update(zip(share, said, strict=True))
            self._kept["seconds"] = earlier + time.monotonic() - begun
            if self.team.rank == 0:
                with atomic_path(self.path) as temporary:
                    torch.save(self._kept, temporary)
            self.spent_on(time.monotonic() - asked)
            self.told(len(kept), len(self.cases))
            if first + size < len(left) and stop():
                return False
        return True


def read_kept(path: Path) -> dict[str, Any]:
    """What an unfinished validation has found: `step`, `seconds`, `of` how many, and `cases` by number."""
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # none, or a truncated file, which raises any of half a dozen types
        return {}
    return found
