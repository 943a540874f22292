"""Peak memory, as the operating system and the GPU driver count it."""

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

# Bytes that a usual U-Net keeps per voxel of a patch.
GUESS = 2000


def peak_mib() -> float:
    """Peak resident memory of this process and of its present children (loader workers), in MiB.

    The sum of single peaks: an upper bound, since pages shared with the children count in each.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return own + sum(peak_of(child) for child in psutil.Process().children(recursive=True))


def peak_gpu_mib(device: torch.device) -> float:
    """Peak memory allocated on a GPU by this process, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def gpu_gib(step: Step, half: bool) -> float:
    """Memory of one training step in GiB on a GPU.

    Weights, gradients and two moments of the optimiser; what is kept, at about two bytes a number under mixed
    precision; the largest of it thrice more for its gradient and the convolution's copies; and a share for
    the driver.

    Args:
        step: as counted.
        half: mixed precision.
    """
    share = 0.55 if half else 1.0
    return (16 * step.weights + share * (step.kept + 3 * step.largest)) / 2**30 + 0.7


def count_step(learner: Learner[Any]) -> Step:
    """Count what a training step of a model holds; nothing is computed, since tensors have shapes alone.

    Of a network with operations that know no such form, a rough guess is made from the patch.

    Args:
        learner: of the model.

    Raises:
        CaseError: the network cannot be made, does not take its patches, or the loss not its outputs.
    """
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A tensor that two operations keep is there once; views share their storage.
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
        except Exception as error:  # wrong shapes raise any kind
            if not needs_numbers(error):
                raise learner.refuse(error) from error
            outputs = None
    if outputs is None:
        learner.try_loss(None)
        guess = GUESS * sample[:, 0].numel()
        return Step(weights, guess, 0, guess // 3)
    learner.try_loss(outputs)
    # The loss keeps each output and its target a few times over.
    made = outputs.values() if isinstance(outputs, dict) else outputs
    heads = [made] if isinstance(made, torch.Tensor) else list(made)
    loss = 6 * sum(head.numel() * head.element_size() for head in heads)
    return Step(weights, sum(sizes.values()) + loss, max(sizes.values(), default=0), live.peak)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return made

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
    """Peak resident memory of a process in MiB, by the kernel's own count; 0 if it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**10 if found else 0.0
