"""Schedules of the learning rate by name, with the number of epochs as their length."""

from __future__ import annotations

import sys
from typing import Any

import torch

from foldwise.networks import arguments_of, build
from foldwise.settings import Named, validate

# Arguments of schedules that are the number of epochs if they are not given.
LENGTHS = ("total_iters", "T_max", "total_steps")


def make_scheduler(named: Named | None, optimiser: torch.optim.Optimizer, epochs: int) -> Any:
    """A schedule stepped once per epoch; SequentialLR and ChainedScheduler name their parts in a list.

    Raises:
        CaseError: an unknown name or wrong arguments.
    """
    return None if named is None else _build_scheduler(with_lengths(named, epochs), optimiser)


def with_lengths(named: Named, epochs: int, given: bool = True) -> Named:
    """A schedule with the number of epochs as each length that it has and that is not given.

    Args:
        named: the schedule, perhaps with parts.
        epochs: of the training.
        given: whether given lengths stay; else they are replaced, too.

    Raises:
        CaseError: an unknown name.
    """
    values = named.arguments
    if "schedulers" in values:
        parts = [with_lengths(validate(Named, part), epochs, given) for part in values["schedulers"]]
        values["schedulers"] = [part.model_dump() for part in parts]
    else:
        # A constant rate has no end.
        length = sys.maxsize if named.plain == "ConstantLR" else epochs
        lengths = {name: length for name in LENGTHS if name in arguments_of("scheduler", named)}
        values = lengths | values if given else values | lengths
    return validate(Named, {"name": named.name, **values})


def _build_scheduler(named: Named, optimiser: torch.optim.Optimizer) -> Any:
    values = named.arguments
    if "schedulers" not in values:
        return build("scheduler", named, optimiser)
    schedules = [_build_scheduler(validate(Named, part), optimiser) for part in values.pop("schedulers")]
    leading = [schedules] if named.plain == "ChainedScheduler" else [optimiser, schedules]
    return build("scheduler", validate(Named, {"name": named.name, **values}), *leading)
