"""The order of training: which items are in the batch of a step, and its random generators."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from foldwise.files import CaseError
from foldwise.processes import end_with_parent

# Longest wait for a batch: beyond it, a loader process or its file system hangs. s.
STALLED_S = 1800


class Items(Protocol):
    """Training or validation samples addressed by an integer, each a pure function of it."""

    def __getitem__(self, number: int) -> Any:
        """The item; tensors in a dict."""


class StepSampler:
    """Item numbers of the batches of steps `start` to `stop`: a pure function of the step.

    Each of several processes gets a share (its number, number of processes) of every batch.
    """

    def __init__(self, start: int, stop: int, batch: int, share: tuple[int, int] = (0, 1)) -> None:
        self.start, self.stop, self.batch = start, stop, batch
        number, count = share
        self.part = range(number * batch // count, (number + 1) * batch // count)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield [step * self.batch + place for place in self.part]

    def __len__(self) -> int:
        return self.stop - self.start


def batches(
    items: Items,
    start: int,
    stop: int,
    batch: int,
    workers: int,
    pin: bool,
    share: tuple[int, int] = (0, 1),
) -> Generator[dict[str, torch.Tensor]]:
    """Batches of forward passes `start` to `stop`; the number of workers affects only speed.

    Close or exhaust the generator to end its workers.

    Raises:
        CaseError: the workers cannot all be started.
        RuntimeError: a worker ended, or no batch came for half an hour.
    """
    others: set[BaseProcess] = set(multiprocessing.active_children())
    loader: DataLoader[Any] = DataLoader(
        _Addressed(items),
        batch_sampler=StepSampler(start, stop, batch, share),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        # A separate generator: the loader would otherwise draw from the one that drop-out uses.
        generator=torch.Generator(),
        worker_init_fn=_start_worker if workers else None,
        timeout=STALLED_S if workers else 0,
    )
    feed: Any = None
    problem = ""
    try:
        try:
            feed = iter(loader)
        except OSError as error:
            problem = str(error)
            _end_all_but(others)
        # Not within the block above: the incomplete iterator ends with it, and its errors appear first.
        if feed is None:
            raise CaseError(
                f"{workers} loader processes cannot be started ({problem}): raise the limit "
                f"of open files (ulimit -n) or the size of /dev/shm, or give the rule `train` fewer threads"
            )
        yield from feed
    finally:
        if workers and feed is not None:
            feed._shutdown_workers()
        _end_all_but(others)


def _end_all_but(others: set[BaseProcess]) -> None:
    """End the loader processes: they ignore SIGTERM, and Python would wait for them at exit."""
    left = set(multiprocessing.active_children()) - others
    for process in left:
        process.kill()
    for process in left:
        process.join(timeout=5)


def collate(items: list[dict[str, torch.Tensor]]) -> Any:
    """A batch of items; images stored in different types are converted to a type that holds them all."""
    for name in items[0]:
        kind = functools.reduce(torch.promote_types, (item[name].dtype for item in items))
        items = [{**item, name: item[name].to(kind)} for item in items]
    return default_collate(items)


class _Addressed(Dataset[Any]):
    def __init__(self, items: Items) -> None:
        self.items = items

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


def _start_worker(worker: int) -> None:
    # One thread each: workers decompress, and must not compete with the training process.
    torch.set_num_threads(1)
    # Slurm signals every process of a job; the training process saves first and then ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    # Otherwise an item that cannot be sent (no free file descriptors) is dropped but still awaited.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, item: Any) -> None:
    traceback.print_exception(error)
    os._exit(1)


def reader_killed(error: BaseException | None) -> bool:
    """Whether torch reports a killed worker; it does so at any point of this process's work."""
    while error is not None:
        if "DataLoader worker" in str(error) and "by signal: Killed" in str(error):
            return True
        error = error.__cause__
    return False


def step_seed(seed: Sequence[int], number: int, rank: int = 0) -> int:
    """The seed of a forward pass in one of several processes: a pure function of (seed, number, rank)."""
    own = [rank] if rank else []
    state = np.random.SeedSequence([*seed, 2, number, *own]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
