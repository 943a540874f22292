"""The first line of a training's log: what it runs on, how large it is, and the memory that it will need."""

from __future__ import annotations

from typing import Any

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from foldwise.device import device_text
from foldwise.forecast import TORCH_MIB, WORKER_MIB, Step
from foldwise.settings import Training
from foldwise.training.learner import Learner, precision_of
from foldwise.training.memory import count_step, gpu_gib


def opening(
    learner: Learner[Any],
    training: Training,
    network: nn.Module,
    optimiser: Optimizer,
    fabric: Fabric,
    workers: int,
) -> str:
    """Device, precision, parameters, batch and expected memory of a training, in one line.

    The memory is that of a training step, on each GPU or of all processes on the CPU, without whole cases in
    validation. It is left out where most of the network never learns: such a step is not counted.

    Args:
        learner: of the model.
        training: its settings.
        network: to train.
        optimiser: of the network; what it holds is learnt.
        fabric: the devices.
        workers: processes that read data.
    """
    gpu = fabric.device.type == "cuda"
    precision = precision_of(training.amp, gpu=gpu)
    total, learnt = parameter_counts(network, optimiser)
    share = "all" if learnt == total else f"{_count(learnt)} of them"
    passes = f"{training.accumulate} × " if training.accumulate > 1 else ""
    parts = [
        f"device: {device_text(fabric.device, training.gpus)}, precision {precision}",
        f"{_count(total)} parameters, {share} learnt",
        f"batch: {passes}{training.batch} × {learner.sample_text()}",
    ]
    if not learner.frozen and 2 * learnt > total:
        step = count_step(learner)
        gib = _gib(step, training.gpus, workers, precision if gpu else None)
        parts.append(f"a step needs about {gib:.1f} GiB{' of GPU memory' if gpu else ''}")
    return "; ".join(parts)


def parameter_counts(network: nn.Module, optimiser: Optimizer) -> tuple[int, int]:
    """Number of a network's parameters, and of those that learn."""
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    every = list(network.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad and id(p) in held)


def _gib(step: Step, processes: int, workers: int, gpu_precision: str | None) -> float:
    """Memory of a step in GiB; each of several processes has its share of the batch."""
    if gpu_precision is not None:
        share = Step(step.weights, step.kept // processes, step.largest // processes, step.forward)
        return gpu_gib(share, half=gpu_precision != "32-true")
    # Weights, gradients, two moments of the optimiser and the best weights, in each process.
    own = TORCH_MIB * 2**20 + 20 * step.weights
    return (processes * own + step.kept + 2 * step.largest + workers * WORKER_MIB * 2**20) / 2**30


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e5 else f"{parameters}"
