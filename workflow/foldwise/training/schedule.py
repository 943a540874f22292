"""Schedules of the learning rate by name, with the number of epochs or steps as their length."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch

from foldwise.files import CaseError
from foldwise.networks import arguments_of, build
from foldwise.settings import Named, Training, validate

# Arguments of schedules that are the number of epochs or steps if they are not given.
LENGTHS = ("total_iters", "T_max", "total_steps")


class Schedule:
    """The learning rate of a training: a linear warm-up, then a schedule of torch.

    Attributes:
        main: torch's schedule; None: a constant rate.
        by_step: whether it counts optimiser steps rather than epochs.
        length: of the whole training, in the same unit.
    """

    def __init__(
        self, named: Named | None, optimiser: torch.optim.Optimizer, training: Training, length: int
    ) -> None:
        """Build the schedule, and set the first learning rate.

        Args:
            named: torch's schedule; SequentialLR and ChainedScheduler name their parts in a list.
            optimiser: whose rates it sets.
            training: its warm-up.
            length: of the whole training, as from `length_of`.

        Raises:
            CaseError: an unknown name or wrong arguments, or the warm-up is as long as the training.
        """
        self.by_step, self.length = training.schedule_by == "step", length
        self.optimiser, self.warmup, self._from = optimiser, training.warmup, training.warmup_from
        left = left_of(training, length)
        self.main: Any = None if named is None else _build_scheduler(with_lengths(named, left), optimiser)
        self._rates = [group["lr"] for group in optimiser.param_groups]
        self._done = 0
        if self.warmup:
            self._warm()

    @property
    def on_plateau(self) -> bool:
        """Whether it follows what is watched, rather than counts."""
        return isinstance(self.main, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def after_step(self) -> None:
        """Set the rate of the next optimiser step."""
        if self.by_step:
            self._advance(None)

    def after_epoch(self, watched: float | None) -> None:
        """Set the rate of the next epoch; `watched` is the new value that a plateau is judged by, if any."""
        if not self.by_step:
            self._advance(watched)
        elif self.on_plateau and self._done == self.warmup:
            self._follow(watched)

    def resume(self, done: int, state: dict[str, Any] | None) -> None:
        """Go on after so many steps or epochs.

        Args:
            done: steps or epochs.
            state: of `main`; None: none, or that of another schedule, whose place this one takes.
        """
        if state is None and self.main is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it misses the optimiser's steps in between
                for _ in range(done):
                    self._advance(None)
            return
        self._done = min(done, self.warmup)
        if state is not None:
            self.main.load_state_dict(state)

    def _advance(self, watched: float | None) -> None:
        if self._done < self.warmup:
            self._done += 1
            self._warm()
        elif self.on_plateau:
            self._follow(watched)
        elif self.main is not None:
            self.main.step()

    def _follow(self, watched: float | None) -> None:
        if watched is not None:
            self.main.step(watched)

    def _warm(self) -> None:
        done = self._done / self.warmup
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            # The last one exactly, since torch's schedules go on from the rate that they find.
            group["lr"] = rate if done == 1 else rate * (self._from + (1 - self._from) * done)


def length_of(training: Training) -> int:
    """Epochs or optimiser steps of a training, by what its schedule counts."""
    if training.schedule_by == "epoch":
        return training.epochs
    assert training.steps_per_epoch is not None, "the learner sets the steps of an epoch"
    return training.epochs * training.steps_per_epoch


def left_of(training: Training, length: int) -> int:
    """What is left of this length after the warm-up.

    Raises:
        CaseError: nothing.
    """
    if training.warmup >= length:
        unit = f"{training.schedule_by}s"
        raise CaseError(
            f"training.warmup: {training.warmup} {unit}, but the whole training has {length}; set a shorter "
            f"warm-up{', or `schedule_by: step`' if unit == 'epochs' else ', or more epochs'}"
        )
    return length - training.warmup


def with_lengths(named: Named, length: int, given: bool = True) -> Named:
    """A schedule with this length as each one that it has and that is not given.

    Args:
        named: the schedule, perhaps with parts.
        length: in epochs or steps.
        given: whether given lengths stay; else they are replaced, too.

    Raises:
        CaseError: an unknown name.
    """
    values = named.arguments
    if "schedulers" in values:
        parts = [with_lengths(validate(Named, part), length, given) for part in values["schedulers"]]
        values["schedulers"] = [part.model_dump() for part in parts]
    else:
        # A constant rate has no end.
        filled = sys.maxsize if named.plain == "ConstantLR" else length
        lengths = {name: filled for name in LENGTHS if name in arguments_of("scheduler", named)}
        values = lengths | values if given else values | lengths
    return validate(Named, {"name": named.name, **values})


def _build_scheduler(named: Named, optimiser: torch.optim.Optimizer) -> Any:
    values = named.arguments
    if "schedulers" not in values:
        return build("scheduler", named, optimiser)
    schedules = [_build_scheduler(validate(Named, part), optimiser) for part in values.pop("schedulers")]
    leading = [schedules] if named.plain == "ChainedScheduler" else [optimiser, schedules]
    return build("scheduler", validate(Named, {"name": named.name, **values}), *leading)
