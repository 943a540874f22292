"""Peak memory, as the operating system and the GPU driver count it."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from foldwise.files import CaseError

# Bytes that a usual U-Net keeps per voxel of a patch.
GUESS = 2000


def peak_mib() -> float:
    """Peak resident memory of this process and of its present children (loader workers), in MiB.

    The sum of single peaks: an upper bound, since pages shared with the children count in each.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return own + sum(_peak_of(child) for child in psutil.Process().children(recursive=True))


def peak_gpu_mib(device: torch.device) -> float:
    """Peak memory allocated on a GPU by this process, in MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def gpu_gib(system: Any, half: bool) -> float:
    """Memory of one training step in GiB on a GPU, counted from the network on shapes alone.

    Weights, gradients and two moments of the optimiser; what the forward pass keeps for the backward one, at
    two bytes a number under mixed precision; the largest of these once more for its gradient; and a share
    for the driver and the convolutions' working memory.

    Args:
        system: gives `network()`, `sample()` and `forward_loss`.
        half: mixed precision.
    """
    weights, kept, largest = count_step(system)
    share = 0.55 if half else 1.0
    return (16 * weights + share * (kept + 3 * largest)) / 2**30 + 0.7


def count_step(system: Any) -> tuple[int, int, int]:
    """Numbers in the weights, and bytes of what a training step keeps, and of the largest kept tensor.

    Nothing is computed: tensors have shapes alone. Of a network with operations that know no such form, a
    rough guess is made from the patch.

    Raises:
        CaseError: the network cannot be made, or does not take its patches.
    """
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A tensor that two operations keep is there once; views share their storage.
        storage = tensor.untyped_storage()
        if id(tensor) not in parameters:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        network = system.build_network()
        sample = system.sample()
        parameters = {id(p) for p in network.parameters()}
        weights = sum(p.numel() for p in network.parameters())
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                outputs = network(sample)
        except NotImplementedError:
            return weights, GUESS * sample[:, 0].numel(), 0
        except (RuntimeError, ValueError) as error:
            raise CaseError(system.refusal(error)) from error
    # The loss keeps each output and its target a few times over.
    heads = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    loss = 6 * sum(head.numel() * head.element_size() for head in heads)
    return weights, sum(sizes.values()) + loss, max(sizes.values(), default=0)


def _peak_of(process: psutil.Process) -> float:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**10 if found else 0.0
