"""Peak memory, as counted by the operating system and the GPU driver."""

from __future__ import annotations

import re
import resource
import sys
import weakref
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldwise.forecast import Step
from foldwise.networks import needs_numbers, shapes_only
from foldwise.training.learner import Learner

# Bytes that a typical U-Net keeps per voxel of a patch.
GUESS = 2000


def peak_mib() -> float:
    """Peak resident memory of this process and of its current children (loader workers), in MiB.

    The sum of single peaks: an upper bound, since pages shared with children count in each process.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return own + sum(peak_of(child) for child in psutil.Process().children(recursive=True))


def peak_gpu_mib(device: torch.device) -> float:
    """Peak memory allocated on a GPU by this process, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def gpu_gib(step: Step, half: bool) -> float:
    """Memory of one training step in GiB on a GPU.

    Weights, gradients and two moments of the optimiser; kept tensors, at about two bytes per number under
    mixed precision; the largest three more times for its gradient and the convolution's copies; and a share
    for the driver.

    Args:
        step: the counted step.
        half: mixed precision.
    """
    share = 0.55 if half else 1.0
    return (16 * step.weights + share * (step.kept + 3 * step.largest)) / 2**30 + 0.7


def count_step(learner: Learner[Any]) -> Step:
    """Count the memory of a model's training step; nothing is computed, since tensors have only shapes.

    For networks with operations that do not support this, memory is estimated roughly from the patch.

    Args:
        learner: of the model.

    Raises:
        CaseError: the network cannot be built or does not accept its patches, or the loss not its outputs.
    """
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A tensor kept by two operations counts once; views share their storage.
        storage = tensor.untyped_storage()
        if id(tensor) not in parameters:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    network = shapes_only(learner.build_network)
    with torch.device("meta"):
        sample = learner.sample()
        parameters = {id(p) for p in network.parameters()}
        weights = sum(p.numel() for p in network.parameters())
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                outputs = network(sample)
            live = _Live()
            with torch.no_grad(), live:
                network.eval()(sample)
        except Exception as error:  # wrong shapes raise any type
            if not needs_numbers(error):
                raise learner.refuse(error) from error
            outputs = None
    if outputs is None:
        learner.try_loss(None)
        guess = GUESS * sample[:, 0].numel()
        return Step(weights, guess, 0, guess // 3)
    learner.try_loss(outputs)
    # The loss keeps several copies of each output and its target.
    values = outputs.values() if isinstance(outputs, dict) else outputs
    heads = [values] if isinstance(values, torch.Tensor) else list(values)
    loss = 6 * sum(head.numel() * head.element_size() for head in heads)
    return Step(weights, sum(sizes.values()) + loss, max(sizes.values(), default=0), live.peak)


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that operations returned and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in returned if isinstance(returned, tuple | list) else (returned,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return returned

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._held.get(key):
            self._now += size
            self.peak = max(self.peak, self._now)
        self._held[key] = self._held.get(key, 0) + 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            self._now -= size


def peak_of(process: psutil.Process) -> float:
    """Peak resident memory of a process in MiB, as counted by the kernel; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**10 if found else 0.0
