"""Errors of a training found without data: classes and their arguments, shapes, files of weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.forecast import Step
from foldwise.networks import build, shapes_only
from foldwise.settings import Model
from foldwise.training.learner import Learner
from foldwise.training.memory import count_step
from foldwise.training.pretrained import fitting
from foldwise.training.schedule import Schedule, length_of


def try_model(kind: type[Learner[Any]], model: Model, task: dict[str, Any], whole: bool = True) -> Step:
    """Build all parts of a training, and count the memory of a step.

    Args:
        kind: class of its learner.
        model: its settings.
        task: what is learnt.
        whole: whether the patch and similar are known already; they are not before planning.

    Returns:
        The memory of a step; for a frozen network, or without a plan, only the weights.

    Raises:
        CaseError: all problems, one line each.
    """
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except CaseError as error:
            problems.append(str(error))
        except Exception as error:  # wrong values raise any type
            problems.append(f"{type(error).__name__}: {error}")
        return None

    # Networks and schedules warn of problems that would only matter in use, not in a trial.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = attempt(lambda: kind(model, task))
        network = attempt(lambda: _network(learner)) if learner else None
        step = None
        if network is not None:
            step = Step(sum(p.numel() for p in network.parameters()), 0, 0, 0)
            if whole and not learner.frozen:
                step = attempt(lambda: count_step(learner))
            else:
                attempt(lambda: learner.try_loss(None))
            if (pretrained := model.pretrained) is not None:
                attempt(lambda: fitting(network, pretrained))
            attempt(lambda: _try_schedule(model, learner, network))
    if problems:
        raise CaseError("\n".join(problems))
    assert step is not None
    return step


def _network(learner: Learner[Any]) -> nn.Module:
    """The network, with only shapes unless it reads files of weights."""
    return learner.network() if learner.reads_weights else shapes_only(learner.build_network)


def _try_schedule(model: Model, learner: Learner[Any], network: nn.Module) -> None:
    """Take a step of the optimiser and run the whole schedule, on parameters with one number each."""
    try:
        groups = [
            {**one, "params": [_small(p) for p in one["params"]]} if isinstance(one, dict) else _small(one)
            for one in learner.parameters(network)
        ]
        optimiser = build("optimiser", model.optimiser, groups)
        if not model.optimiser.arguments.get("capturable"):  # such a step needs a GPU
            optimiser.step()
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(f"optimiser {model.optimiser.name}: {error}") from error
    training, named = model.training, "training.warmup"
    if model.scheduler is not None:
        named = f"scheduler {model.scheduler.name}"
    elif not training.warmup:
        return
    unit = training.schedule_by
    if unit == "step" and training.steps_per_epoch is None:
        # Known only to training; what fails in fewer steps would fail there, too.
        length = max(training.epochs, training.warmup + 1)
    else:
        length = length_of(training)
    try:
        schedule = Schedule(model.scheduler, optimiser, training, length)
    except CaseError:
        raise
    except Exception as error:  # e.g. parts that are not a list
        raise CaseError(f"{named}: {error}") from error
    for done in range(1, length + 1):
        try:
            schedule.after_step()
            if unit == "epoch" or done == length:
                schedule.after_epoch(1.0)
        except Exception as error:
            raise CaseError(f"{named}: {unit} {done} of {length}: {error}") from error
        rates = [float(group["lr"]) for group in optimiser.param_groups]
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise CaseError(f"{named}: the learning rate of {unit} {done} is {min(rates):g}")


def _small(parameter: nn.Parameter) -> nn.Parameter:
    small = nn.Parameter(torch.zeros([1] * parameter.ndim), parameter.requires_grad)
    if small.requires_grad:
        small.grad = torch.zeros_like(small)
    return small
