"""One training on several devices: one process each, their communication, and their common end.

Fabric starts the processes by running the command again. Gradients are averaged here, once per step of the
optimiser, and not within `backward` by DistributedDataParallel, where a process that runs out of memory
leaves the others waiting for the whole time limit of their group. Everything else goes through a separate
group on the CPU, in which waiting for hours for the first process's validation costs nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from foldwise.device import chosen_device
from foldwise.errors import plain_words
from foldwise.files import CaseError
from foldwise.processes import end_with_parent
from foldwise.settings import Training
from foldwise.training.learner import precision_of

Value = TypeVar("Value")

# Identifies the first process to those that it starts.
PARENT = "FOLDWISE_FIRST_PROCESS"
# How long the others wait for work of the first process, such as a validation.
PATIENCE = timedelta(days=7)
# How long all wait for each other at the start, and where all have announced themselves.
MEETING = timedelta(minutes=30)


class LostError(CaseError):
    """Another process of the training was killed; not an error of the training itself."""


@dataclass(frozen=True)
class _Failure:
    """The message of a failed process, in place of the expected value."""

    text: str


class _Unwrapped(DDPStrategy):
    """Fabric's start of processes, without the wrapper around the network."""

    def setup_module(self, module: nn.Module) -> Any:
        return module


def is_helper() -> bool:
    """Whether this process was started by the first one of a training."""
    return PARENT in os.environ


def make_fabric(training: Training) -> Fabric:
    """Fabric on the requested number of devices: GPUs if any are available, else processes on the CPU.

    Raises:
        CaseError: mixed precision of 16 bits without a GPU, fewer GPUs than requested, or one that cannot be
            used.
    """
    amp, gpus = training.amp, training.gpus
    # Further processes have other GPUs than the first one, which has tried its own.
    device = chosen_device(tried=not is_helper())
    visible = torch.cuda.device_count() if device.type == "cuda" else 0
    if amp == "16-mixed" and not visible:
        raise CaseError("training.amp: 16-mixed needs a GPU, but none is visible; use `auto`")
    if 0 < visible < gpus:
        raise CaseError(
            f"training.gpus: {gpus}, but this job sees {visible}; request as many in the profile, for Slurm "
            f'`set-resources: train: gres: "gpu:{gpus}"`'
        )
    return Fabric(
        accelerator="cuda" if visible else "cpu",
        devices=gpus,
        strategy=_Unwrapped(timeout=MEETING) if gpus > 1 else "auto",
        precision=precision_of(amp, gpu=visible > 0),
        # Within a Slurm job, Fabric would treat the job's tasks as its own processes.
        plugins=[LightningEnvironment()],
    )


@contextmanager
def gathered(training: Training) -> Iterator[Team]:
    """Start the other processes of a training, if any, and end with them.

    An exception in any process ends all: the first process raises it (from another process, as a CaseError
    with the traceback), the others exit silently.
    """
    fabric = make_fabric(training)
    if training.gpus > 1:
        _launch(fabric, training.gpus)
    team = Team(fabric)
    try:
        yield team
    except Exception as error:
        team.fail(error)
        raise
    if team.size > 1:
        dist.destroy_process_group()


class Team:
    """The processes of a training, seen from one of them.

    Attributes:
        fabric: device and precision of this process.
        size: number of processes.
        rank: rank of this process; the one with 0 writes files and logs.
    """

    def __init__(self, fabric: Fabric) -> None:
        """Join the processes that Fabric has started; a single process needs no start."""
        self.fabric = fabric
        self.size, self.rank = fabric.world_size, fabric.global_rank
        self._listening = self.size > 1
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None

    def exchange(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of ranks.

        Raises:
            CaseError: a process failed; the first process raises it, the others exit.
            LostError: a process is gone.
        """
        if self.size == 1:
            return [value]
        said: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(said, value, group=self._group)
        except RuntimeError as error:
            self._listening = False
            if self.rank:
                raise SystemExit(1) from None
            raise LostError(
                f"another process of this training ended; if there is no error of it above, it was killed, "
                f"perhaps out of memory ({error})"
            ) from None
        for rank, told in enumerate(said):
            if isinstance(told, _Failure):
                self._listening = False
                if self.rank:
                    raise SystemExit(0)
                # The first process's own failure is raised by itself, with its traceback.
                if rank:
                    raise CaseError(f"process {rank} of {self.size} failed: {told.text}")
                break
        return said

    def of_first(self, work: Callable[[], Value]) -> Value:
        """The result of the work in the first process; all wait for it."""
        value: Any = self.exchange(work() if self.rank == 0 else None)[0]
        return value

    def mean(self, parts: Sequence[dict[str, float]]) -> list[dict[str, float]]:
        """Means over processes of named values, for each part of a list."""
        said = self.exchange(parts)
        return [
            {name: sum(one[name] for one in ones) / self.size for name in ones[0]}
            for ones in zip(*said, strict=True)
        ]

    def align(self, network: nn.Module) -> None:
        """Give all processes the first one's weights and running statistics."""
        if self.size == 1:
            return
        self.exchange(None)
        with self._on_devices():
            self._share([*(parameter.detach() for parameter in network.parameters()), *network.buffers()])

    def average(self, network: nn.Module) -> None:
        """Replace gradients by their means over processes, bit-equal in each; keep the first's statistics.

        A parameter without a gradient in some process counts as zero there; one without any is left so.
        """
        if self.size == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        learnt = self.exchange([parameter.grad is not None for parameter in parameters])
        with self._on_devices():
            gradients = []
            for parameter, somewhere in zip(parameters, map(any, zip(*learnt, strict=True)), strict=True):
                if somewhere:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    gradients.append(parameter.grad)
            _flat(gradients, lambda flat: (dist.all_reduce(flat), flat.div_(self.size)))
            self._share(network.buffers())

    def fail(self, error: Exception) -> None:
        """Report a failure to the others, if possible; only the first process then continues."""
        if not self._listening:
            return
        text = plain_words(error) or "".join(traceback.format_exception(error))
        with suppress(LostError):
            self.exchange(_Failure(text))

    @contextmanager
    def _on_devices(self) -> Iterator[None]:
        """All have announced themselves; a process that fails now cannot report it, and its end ends all."""
        self._listening = False
        yield
        self._listening = True

    def _share(self, tensors: Iterable[torch.Tensor]) -> None:
        # Integers (counts of batches) are the same in all processes anyway.
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        _flat(floats, lambda flat: dist.broadcast(flat, src=0))


def _flat(tensors: Sequence[torch.Tensor], work: Callable[[torch.Tensor], Any]) -> None:
    """Apply a collective operation to all tensors of a type at once, in place."""
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        same = [tensor for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        work(flat)
        parts = flat.split([tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _launch(fabric: Fabric, size: int) -> None:
    """Start the other processes, or join the one that started this process."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))
    # An early SIGTERM waits until a process has its handler: the signal mask is inherited.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if is_helper():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        if os.getppid() != int(os.environ[PARENT]):
            raise SystemExit(1)
        fabric.launch()
    else:
        # Variables left by another launcher are not meant for these processes.
        for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ[PARENT] = str(os.getpid())
        fabric.launch()
        del os.environ[PARENT]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
